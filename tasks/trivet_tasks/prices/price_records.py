"""Price of a call as its row keeps it: the cost, and all that it was priced by, enough to price it again.

`price_terms` is a JSON object of the terms beside model and tokens; what is usual is left out. `price_parts` is a JSON list of
the passes of a call that had several: the fields of `UsagePart` by name, zeros and nulls left out. Where the passes differ in
price, each has its own `list_price` and `multipliers`, and the columns of those names are null; else the columns hold for all.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from trivet_tasks.config.route_prices import RoutePrice
from trivet_tasks.outcomes import Usage, UsagePart
from trivet_tasks.prices.price_book import Priced, PricedPart

NOTED = '{"note":'
"""Start of the text of a call that is unpriced, or priced approximately: the text says why."""

_CHARS = 60
_USUAL = frozenset({"standard", "default", "global", "not_available"})
"""Words of the usage that ask for no price of their own; most calls have nothing else, so they are left out."""
_PART_FIELDS = tuple(field.name for field in fields(UsagePart))


class PriceTerms(NamedTuple):
    """Arguments of `PriceBook.price` beside model and tokens; words are the provider's."""

    region: str | None = None
    """The route's, when the call was made."""
    web_searches: int = 0
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    refused: str | None = None
    doubt: str | None = None
    contract: str | None = None
    """JSON of the negotiated price that was charged (`RoutePrice`)."""


class PriceRecord(NamedTuple):
    """Columns of an attempt's row."""

    cost_usd: Decimal | None
    list_price: str | None
    multipliers: str | None
    price_version: str
    price_terms: str
    price_parts: str | None
    model_used: str | None
    list_usd: Decimal | None = None
    negotiated_price: str | None = None


def record_of(priced: Priced, region: str | None, usage: Usage) -> PriceRecord:
    """Return the columns for a call of this usage on a route of this region."""
    mixed = bool(priced.parts) and not (priced.list_price or priced.negotiated_price)
    return PriceRecord(
        priced.cost_usd,
        None if mixed else orjson.dumps(dict(priced.list_price)).decode(),
        None if mixed else orjson.dumps(dict(priced.multipliers)).decode(),
        priced.version,
        write_terms(region, usage, priced.note, priced.contract),
        write_parts(priced.parts, alike=not mixed) if priced.parts else None,
        priced.model_used,
        priced.list_usd,
        None if mixed or not priced.negotiated_price else orjson.dumps(dict(priced.negotiated_price)).decode(),
    )


def write_terms(region: str | None, usage: Usage, note: str = "", contract: RoutePrice | None = None) -> str:
    """Return the terms of a call as text for its row.

    Args:
        note: why there is no price, or why it is approximate.
        contract: the negotiated price that was charged.
    """
    terms = PriceTerms(
        region,
        usage.web_searches,
        usage.service_tier,
        usage.inference_geo,
        usage.speed,
        usage.refused,
        usage.doubt,
        None if contract is None else contract.model_dump_json(exclude_none=True),
    )
    return _terms_text(terms, note)


@lru_cache(maxsize=1024)
def _terms_text(terms: PriceTerms, note: str) -> str:
    found: dict[str, object] = {"note": note} if note else {}
    for name, value in terms._asdict().items():
        if value and value not in _USUAL:
            found[name] = value[:_CHARS] if isinstance(value, str) and name != "contract" else value
    if terms.region:  # `global` is one of Vertex's
        found["region"] = terms.region
    return json.dumps(found, separators=(",", ":"))  # in ASCII: a stream may bring halves of characters


@lru_cache(maxsize=1024)
def read_terms(text: str) -> PriceTerms:
    """Return the terms of a row. Fields that a newer Trivet wrote are passed over."""
    found = json.loads(text)
    return PriceTerms(**{name: found[name] for name in PriceTerms._fields if name in found})


def write_parts(parts: Sequence[PricedPart], *, alike: bool) -> str:
    """Return the passes as text for the row.

    Args:
        alike: all have the same price, which the row's own columns tell.
    """
    return orjson.dumps([_written(part, alike) for part in parts], default=str).decode()


def read_parts(text: str) -> tuple[UsagePart, ...]:
    """Return the passes of a row. Fields that a newer Trivet wrote are passed over."""
    return tuple(_usage(part) for part in orjson.loads(text))


def read_priced_parts(text: str) -> Iterator[PricedPart]:
    """Yield the passes of a row that have a price of their own."""
    for part in orjson.loads(text):
        if part.get("list_price") or part.get("negotiated_price"):
            negotiated = part.get("negotiated_price") or {}
            yield PricedPart(_usage(part), part.get("list_price") or {}, part.get("multipliers") or {}, negotiated)


def _written(part: PricedPart, alike: bool) -> dict[str, Any]:
    found = {name: _plain(value) for name, value in asdict(part.usage).items() if value}
    if not alike:
        found |= {"list_price": dict(part.list_price), "multipliers": dict(part.multipliers)}
        if part.negotiated_price:
            found["negotiated_price"] = dict(part.negotiated_price)
    return found


def _plain(value: Any) -> Any:
    """Return a value without what a database or JSON refuses: halves of characters and NUL."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode().replace("\x00", "?")


def _usage(part: Mapping[str, Any]) -> UsagePart:
    return UsagePart(**{name: part[name] for name in _PART_FIELDS if name in part})
