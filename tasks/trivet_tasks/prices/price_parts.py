"""The passes of a call, as its row keeps them: JSON, enough to price the call again.

A list of objects: the fields of `UsagePart` by name, zeros and nulls left out. Where the passes differ in price, each has its own
`list_price` and `multipliers`, and the columns of those names are null; else the columns hold for all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import orjson

from trivet_tasks.prices.price_book import PricedPart
from trivet_tasks.usage import UsagePart

_NAMES = tuple(field.name for field in fields(UsagePart))


class KeptPart(NamedTuple):
    """A pass with a price of its own, as a row keeps it."""

    usage: UsagePart
    list_price: Mapping[str, str]
    multipliers: Mapping[str, str]


def written(parts: Sequence[PricedPart], *, alike: bool) -> str:
    """Return the passes as text for the row.

    Args:
        alike: all have the same price, which the row's own columns tell.
    """
    return orjson.dumps([_written(part, alike) for part in parts], default=str).decode()


def read(text: str) -> tuple[UsagePart, ...]:
    """Return the passes of a row. Fields that a newer Trivet wrote are passed over."""
    return tuple(_usage(part) for part in orjson.loads(text))


def read_priced(text: str) -> Iterator[KeptPart]:
    """Yield the passes of a row that have a price of their own."""
    for part in orjson.loads(text):
        if part.get("list_price"):
            yield KeptPart(_usage(part), part["list_price"], part.get("multipliers") or {})


def _written(part: PricedPart, alike: bool) -> dict[str, Any]:
    found = {name: _plain(value) for name, value in asdict(part.usage).items() if value}
    if not alike:
        found |= {"list_price": dict(part.list_price), "multipliers": dict(part.multipliers)}
    return found


def _plain(value: Any) -> Any:
    """Text without what a database or JSON refuses: halves of characters and NUL."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode().replace("\x00", "?")


def _usage(part: Mapping[str, Any]) -> UsagePart:
    return UsagePart(**{name: part[name] for name in _NAMES if name in part})
