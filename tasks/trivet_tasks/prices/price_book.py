"""Price of one provider call, exact to the last digit: genai-prices' lists, with our `price_rules` on top.

No float is used. Prices become whole numbers of 10^-12 USD a token when they are first looked up, and a
call is then a few products of integers. The smallest unit met is 10^-11 USD (a 5-minute cache write of Haiku 5.5, in
batch and at the regional price, is 0.00000006875 USD a token), so 12 decimals hold every cost exactly. A finer price,
which only a contract or a list to come can bring, is used whole; the cost of the call is rounded to 12 decimals.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, TypeAlias

from trivet_tasks.catalog import Provider, bare_name, same_model
from trivet_tasks.config.route_prices import RoutePrice, price_on
from trivet_tasks.outcomes import Usage, UsagePart
from trivet_tasks.prices.price_rates import (
    DECIMALS,
    EXACT,
    Rates,
    Tier,
    find_listing,
    per_million,
    rates_of,
    tier_of,
    wire_name,
)
from trivet_tasks.prices.price_rules import BILLED_REFUSALS, FREE_REFUSALS, REFUSALS_FREE_SINCE, RULES_VERSION

Processing: TypeAlias = Literal["online", "batch"]
"""batch: the provider's own batch interface, not Trivet's latency class."""

_CACHE_SIZE = 4096  # the key holds the day, so a process that runs for months must forget
_LISTED_TIERS = frozenset({None, "standard", "default", "batch"})
_LISTED_SPEEDS = frozenset({None, "standard", "fast"})
_LISTED_GEOS = frozenset({None, "global", "not_available", "us"})
_LISTED_KINDS = frozenset({"message", "compaction", "advisor_message", "fallback_message"})


@dataclass(frozen=True, slots=True)
class PricedPart:
    """One pass of a call, and what it was priced by."""

    usage: UsagePart
    list_price: Mapping[str, str]
    multipliers: Mapping[str, str]
    negotiated_price: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Priced:
    """The price of one call, with all it was worked out from. Leave the mappings as they are: calls share them."""

    cost_usd: Decimal | None
    """USD, exact; None = unpriced, which is not the same as free."""
    list_price: Mapping[str, str]
    """USD per million tokens as listed for this way of processing, before our multipliers, of the long-prompt tier
    where the prompt is in it: input, output, cache_read, cache_write_5m, cache_write_1h; and web_search_per_1000.
    Empty where it is unpriced, and where its parts differ in price."""
    multipliers: Mapping[str, str]
    """Our factors on every token price, by case (`price_rules.Case`). What the list has itself is not among them.
    `refused` = 0: a refusal that costs nothing."""
    version: str
    """Versions of list and rules."""
    estimated: bool = False
    """True where part of it is approximate rather than a listed price; `note` says which."""
    note: str = ""
    """Reason for which it is unpriced or estimated, for people."""
    model_used: str | None = None
    """The first-party id of the model that answered, where it is another than the wire was asked for."""
    parts: tuple[PricedPart, ...] = ()
    """Passes of a call that had several, each with its own price."""
    list_usd: Decimal | None = None
    """Cost at the list price, where a negotiated one was charged and a list has one; else None."""
    negotiated_price: Mapping[str, str] = field(default_factory=dict)
    """USD per million tokens by kind as negotiated, all factors included; empty: list price and multipliers tell it."""
    contract: RoutePrice | None = None
    """The negotiated price that was charged, or the first of several."""


class TokenPrices(NamedTuple):
    """Price of one token, in USD, exact, in calls whose prompt has more than `above` tokens."""

    above: int
    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal


class Tariff(NamedTuple):
    """Prices of a model's tokens on a wire on one day."""

    tiers: tuple[TokenPrices, ...]
    """Longest prompts first, the last for all that are shorter; empty = unpriced, which is not the same as free."""
    note: str = ""
    """Reason for which it is unpriced, or an estimate, for people."""


class PriceBook:
    """Prices calls. Make one per process: it loads genai-prices (0.2 s) at the first call and keeps what it looked up.

    Safe to share between threads: at worst two of them look up the same price.
    """

    def __init__(self) -> None:
        self.version = f"genai-prices {version('genai-prices')} + rules {RULES_VERSION}"
        self._rates = lru_cache(maxsize=_CACHE_SIZE)(_look_up)

    def price(
        self,
        provider: Provider,
        model: str,
        wire_model: str,
        region: str | None,
        at: datetime,
        usage: Usage,
        processing: Processing = "online",
        prices: tuple[RoutePrice, ...] = (),
    ) -> Priced:
        """Price one call.

        `model` is the first-party id, `wire_model` what the wire was asked for. The latter is priced where a list knows
        it, so Bedrock's global and geo profiles differ. An ARN that does not tell its model is priced as `model` at the
        regional price, and marked estimated. `region` is the route's; it matters on Vertex. `at` decides the day (UTC;
        naive times are UTC), `usage` the tier, speed and inference geography. What no list knows has `cost_usd=None`.

        An answer that names another model (`usage.model`) is priced as that one, under the same profile or region, and a call
        of several passes as the sum of them, each by its own model and its own length.

        `prices` are the route's negotiated ones: that of the day and of the model that is priced takes the list's place.
        """
        if usage.parts:
            return self._price_parts(provider, model, wire_model, region, at, usage, processing, prices)
        day = _day(at)
        batch = processing == "batch" or usage.service_tier == "batch"
        fast, us_only = usage.speed == "fast", usage.inference_geo == "us"
        rates = self._rates(provider, model, wire_model, region, day, batch, fast, us_only, usage.model, prices)
        if not rates.tiers:
            return Priced(None, {}, {}, self.version, note="; ".join(rates.notes), model_used=rates.model_used)

        tier = tier_of(rates.tiers, usage.prompt_tokens)
        units, multipliers = _units(tier, usage), rates.multipliers
        listed = tier_of(rates.listed, usage.prompt_tokens) if rates.listed else None
        listed_units = _units(listed, usage) if listed else None
        if units is None:
            return Priced(None, {}, {}, self.version, note="the provider reported a negative count")
        if usage.refused is not None and _is_free(usage.refused, day):
            units, multipliers = usage.web_searches * tier.web_search, rates.of_refused
            listed_units = usage.web_searches * listed.web_search if listed else None
        notes = "; ".join((*rates.notes, *_usage_notes(rates, usage)))
        return Priced(
            cost_usd=_usd(units, tier),
            list_price=tier.list_price,
            multipliers=multipliers,
            version=self.version,
            estimated=bool(notes),
            note=notes,
            model_used=rates.model_used,
            list_usd=None if listed is None or listed_units is None else _usd(listed_units, listed),
            negotiated_price=per_million(tier) if rates.contract else {},
            contract=rates.contract,
        )

    def _price_parts(
        self,
        provider: Provider,
        model: str,
        wire_model: str,
        region: str | None,
        at: datetime,
        usage: Usage,
        processing: Processing,
        prices: tuple[RoutePrice, ...],
    ) -> Priced:
        """Price a call of several passes. Searches are counted for the whole call, and priced as of the model that answered."""
        searches = replace(usage, parts=(), refused=None, **_NO_TOKENS)
        whole = self.price(provider, model, wire_model, region, at, searches, processing, prices)
        cost, notes = whole.cost_usd, [whole.note]
        listed, contract = whole.list_usd or whole.cost_usd, whole.contract
        parts: list[PricedPart] = []
        for part in usage.parts:
            priced = self.price(provider, model, wire_model, region, at, _usage_of(part, usage), processing, prices)
            parts.append(PricedPart(part, priced.list_price, priced.multipliers, priced.negotiated_price))
            notes.append(priced.note)
            cost = None if cost is None or priced.cost_usd is None else EXACT.add(cost, priced.cost_usd)
            at_list = priced.cost_usd if priced.list_usd is None else priced.list_usd
            listed = None if listed is None or at_list is None else EXACT.add(listed, at_list)
            contract = contract or priced.contract
            if part.kind not in _LISTED_KINDS:
                notes.append(f"passes of kind {part.kind!r} are not known, priced like messages")
            if usage.speed == "fast" and part.model is not None:
                notes.append(f"whether {part.model!r} was fast is not told, priced as fast")
        charged = [(part.list_price, part.multipliers, part.negotiated_price) for part in parts]
        alike = cost is not None and all(price == charged[0] for price in charged)
        list_price, multipliers, negotiated = charged[0] if alike else ({}, {}, {})
        note = "; ".join(dict.fromkeys(note for note in notes if note))
        return Priced(
            cost, list_price, multipliers, self.version, cost is not None and bool(note), note, whole.model_used,
            tuple(parts), listed if contract else None, negotiated, contract,
        )  # fmt: skip

    def tariff(
        self,
        provider: Provider,
        model: str,
        wire_model: str,
        region: str | None,
        at: datetime,
        prices: tuple[RoutePrice, ...] = (),
    ) -> Tariff:
        """Return the prices of tokens in plain calls, for reckoning ahead. See `price` for the arguments."""
        rates = self._rates(provider, model, wire_model, region, _day(at), False, False, False, None, prices)
        return Tariff(
            tuple(
                TokenPrices(
                    tier.above,
                    *(Decimal(f"{getattr(tier, kind)}E-{tier.decimals}") for kind in TokenPrices._fields[1:]),
                )
                for tier in rates.tiers
            ),
            "; ".join(rates.notes),
        )


def _units(tier: Tier, usage: Usage) -> int | None:
    """Return the cost in units of the tier; None where a count is negative."""
    fresh, answer, searches = usage.input_tokens, usage.output_tokens, usage.web_searches
    read, write_5m, write_1h = usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens
    if fresh < 0 or answer < 0 or read < 0 or write_5m < 0 or write_1h < 0 or searches < 0:
        return None
    return (
        fresh * tier.input
        + answer * tier.output
        + read * tier.cache_read
        + write_5m * tier.cache_write_5m
        + write_1h * tier.cache_write_1h
        + searches * tier.web_search
    )


def _usd(units: int, tier: Tier) -> Decimal:
    """Return units of a tier as USD. Only a negotiated price can have more digits than the ledger: it is rounded to these."""
    # from text, because arithmetic would round to whatever precision the thread's context happens to have
    if tier.decimals <= DECIMALS:
        return Decimal(f"{units}E-{tier.decimals}")
    whole, rest = divmod(units, 10 ** (tier.decimals - DECIMALS))
    return Decimal(f"{whole + (2 * rest >= 10 ** (tier.decimals - DECIMALS))}E-{DECIMALS}")


def _day(at: datetime) -> date:
    return at.date() if at.tzinfo is None or at.tzinfo is UTC else at.astimezone(UTC).date()


def is_newer(version: str, than: str) -> bool:
    """Return whether the list, or the rules, of one `Priced.version` are newer than those of another."""
    parts, others = ([[int(n) for n in re.findall(r"\d+", part)] for part in v.split(" + ")] for v in (version, than))
    return any(one > other for one, other in zip(parts, others, strict=False))


def _look_up(
    provider: Provider,
    model: str,
    wire_model: str,
    region: str | None,
    day: date,
    batch: bool,
    fast: bool,
    us_only: bool,
    answered: str | None,
    prices: tuple[RoutePrice, ...],
) -> Rates:
    def rates(model: str, wire_model: str) -> Rates:
        listing = find_listing(provider, model, wire_model, region)
        if isinstance(listing, str):
            found = Rates(notes=(listing,))
        else:
            found = rates_of(listing, provider, day, batch=batch, fast=fast, us_only=us_only)
        return found.negotiated(price_on(prices, model, day), plain=not (batch or fast))

    if answered is None or same_model(answered, wire_model) or same_model(answered, model):
        return rates(model, wire_model)
    used = bare_name(answered)
    other = rates(used, wire_name(provider, wire_model, answered))
    if other.tiers:
        return replace(other, model_used=used)
    asked = rates(model, wire_model)
    note = f"no list has a price for {answered!r}, which answered: priced as {model}, which was asked for"
    return replace(asked, model_used=used, notes=(*asked.notes, note))


_NO_TOKENS: Mapping[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_read_tokens": 0,
    "cache_write_5m_tokens": 0,
    "cache_write_1h_tokens": 0,
}


def _usage_of(part: UsagePart, call: Usage) -> Usage:
    """One pass as a call of its own, made the way the whole was."""
    return Usage(
        part.input_tokens,
        part.output_tokens,
        part.cache_read_tokens,
        part.cache_write_5m_tokens,
        part.cache_write_1h_tokens,
        0,
        call.service_tier,
        call.inference_geo,
        call.speed,
        part.model or call.model,
        part.refused,
    )


def _is_free(refused: str, day: date) -> bool:
    """Return whether a refusal before any output, of this category, costs nothing."""
    return refused not in BILLED_REFUSALS and day >= REFUSALS_FREE_SINCE


def _usage_notes(rates: Rates, usage: Usage) -> list[str]:
    """Return the notes on estimates that this one call's usage makes necessary."""
    notes = []
    for kind in rates.guessed:
        count = usage.web_searches if kind == "web_search" else getattr(usage, f"{kind}_tokens")
        if count:
            notes.append(f"the list has no price for {kind}")
    if usage.service_tier not in _LISTED_TIERS:
        notes.append(f"service tier {usage.service_tier!r} priced as standard")
    if usage.speed not in _LISTED_SPEEDS:
        notes.append(f"speed {usage.speed!r} priced as standard")
    if rates.prices_geo and usage.inference_geo not in _LISTED_GEOS:
        notes.append(f"inference geography {usage.inference_geo!r} priced as global")
    if usage.refused is not None and usage.refused not in BILLED_REFUSALS | FREE_REFUSALS:
        notes.append(f"a refusal of category {usage.refused!r} is taken to be free")
    if usage.doubt is not None:
        notes.append(usage.doubt)
    return sorted(notes)
