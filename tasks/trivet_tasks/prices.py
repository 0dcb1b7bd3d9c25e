"""What one provider call costs, exact to the last digit: genai-prices' lists, with our `price_rules` on top.

No float is met on the way. Prices become whole numbers of 10^-12 USD a token when they are first looked up, and a
call is then a few products of integers. The smallest unit met is 10^-11 USD (a 5-minute cache write of Haiku 5.5, in
batch and at the regional price, is 0.00000006875 USD a token), so 12 decimals hold every cost exactly. A finer price
in a list to come would bring more decimals, never a rounded cost.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Literal, NamedTuple, TypeAlias

from trivet_tasks.catalog import Provider
from trivet_tasks.price_list import find_listing, list_of
from trivet_tasks.price_rates import Rates, rates_of
from trivet_tasks.price_rules import RULES_VERSION
from trivet_tasks.usage import Usage

Processing: TypeAlias = Literal["online", "batch"]
"""batch: the provider's own batch interface, not Trivet's latency class."""

_CACHE_SIZE = 4096  # the key holds the day, so a process that runs for months must forget
_LISTED_TIERS = frozenset({None, "standard", "default", "batch"})
_LISTED_SPEEDS = frozenset({None, "standard", "fast"})
_LISTED_GEOS = frozenset({None, "global", "not_available", "us"})


@dataclass(frozen=True, slots=True)
class Priced:
    """The price of one call, with all it was worked out from. Leave the mappings as they are: calls share them."""

    cost_usd: Decimal | None
    """USD, exact; None = unpriced, which is not the same as free."""
    list_price: Mapping[str, str]
    """USD per million tokens as listed for this way of processing, before our multipliers, of the long-prompt tier
    where the prompt is in it: input, output, cache_read, cache_write_5m, cache_write_1h; and web_search_per_1000."""
    multipliers: Mapping[str, str]
    """Our factors on every token price, by case (`price_rules.Case`). What the list has itself is not among them."""
    version: str
    """Versions of list and rules."""
    estimated: bool = False
    """True where part of it is a likeness rather than a listed price; `note` says which."""
    note: str = ""
    """Why it is unpriced or estimated, for people."""


class TokenPrices(NamedTuple):
    """What one token costs, in USD, exact, in calls whose prompt has more than `above` tokens."""

    above: int
    input: Decimal
    output: Decimal
    cache_read: Decimal


class Tariff(NamedTuple):
    """What tokens of a model cost on a wire on one day."""

    tiers: tuple[TokenPrices, ...]
    """Longest prompts first, the last for all that are shorter; empty = unpriced, which is not the same as free."""
    note: str = ""
    """Why it is unpriced, or an estimate, for people."""


class PriceBook:
    """Prices calls. Make one per process: it loads genai-prices (0.2 s) at the first call and keeps what it looked up.

    Safe to share between threads: at worst two of them look up the same price.
    """

    def __init__(self) -> None:
        self.version = f"genai-prices {version('genai-prices')} + rules {RULES_VERSION}"
        self._rates: dict[tuple[object, ...], Rates] = {}

    def price(
        self,
        provider: Provider,
        model: str,
        wire_model: str,
        region: str | None,
        at: datetime,
        usage: Usage,
        processing: Processing = "online",
    ) -> Priced:
        """Price one call.

        `model` is the first-party id, `wire_model` what the wire was asked for. The latter is priced where a list knows
        it, so Bedrock's global and geo profiles differ. An ARN that does not tell its model is priced as `model` at the
        regional price, and marked estimated. `region` is the route's; it matters on Vertex. `at` decides the day (UTC;
        naive times are UTC), `usage` the tier, speed and inference geography. What no list knows has `cost_usd=None`.
        """
        day = _day(at)
        batch = processing == "batch" or usage.service_tier == "batch"
        fast, us_only = usage.speed == "fast", usage.inference_geo == "us"
        key = (provider, model, wire_model, region, day, batch, fast, us_only)
        rates = self._rates.get(key)
        if rates is None:
            rates = _look_up(provider, model, wire_model, region, day, batch, fast, us_only)
            if len(self._rates) >= _CACHE_SIZE:
                self._rates.clear()
            self._rates[key] = rates
        if not rates.tiers:
            return Priced(None, {}, {}, self.version, note="; ".join(rates.notes))

        fresh, answer, searches = usage.input_tokens, usage.output_tokens, usage.web_searches
        read, write_5m, write_1h = usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens
        if fresh < 0 or answer < 0 or read < 0 or write_5m < 0 or write_1h < 0 or searches < 0:
            return Priced(None, {}, {}, self.version, note="the provider reported a negative count")
        prompt = fresh + read + write_5m + write_1h
        tier = rates.tiers[-1]
        for longer in rates.tiers:
            if prompt > longer.above:
                tier = longer
                break
        units = (
            fresh * tier.input
            + answer * tier.output
            + read * tier.cache_read
            + write_5m * tier.cache_write_5m
            + write_1h * tier.cache_write_1h
            + searches * tier.web_search
        )
        notes = "; ".join((*rates.notes, *_usage_notes(rates, provider, usage)))
        return Priced(
            # from text, because arithmetic would round to whatever precision the thread's context happens to have
            cost_usd=Decimal(f"{units}E-{tier.decimals}"),
            list_price=tier.list_price,
            multipliers=rates.multipliers,
            version=self.version,
            estimated=bool(notes),
            note=notes,
        )

    def estimate(
        self,
        provider: Provider,
        model: str,
        wire_model: str,
        region: str | None,
        input_tokens: int,
        output_tokens: int,
        at: datetime | None = None,
    ) -> Decimal | None:
        """What a call of this size would cost in USD, nothing cached; None = unpriced. `at` is now unless given."""
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        return self.price(provider, model, wire_model, region, at or datetime.now(UTC), usage).cost_usd

    def tariff(self, provider: Provider, model: str, wire_model: str, region: str | None, at: datetime) -> Tariff:
        """What tokens cost in plain calls, for reckoning ahead. See `price` for the arguments."""
        rates = _look_up(provider, model, wire_model, region, _day(at), batch=False, fast=False, us_only=False)
        return Tariff(
            tuple(
                TokenPrices(
                    tier.above,
                    *(Decimal(f"{units}E-{tier.decimals}") for units in (tier.input, tier.output, tier.cache_read)),
                )
                for tier in rates.tiers
            ),
            "; ".join(rates.notes),
        )


def _day(at: datetime) -> date:
    return at.date() if at.tzinfo is None or at.tzinfo is UTC else at.astimezone(UTC).date()


def is_newer(version: str, than: str) -> bool:
    """Whether the list, or the rules, of one `Priced.version` are newer than those of another."""
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
) -> Rates:
    provider = list_of(provider, wire_model)
    listing = find_listing(provider, model, wire_model, region)
    if isinstance(listing, str):
        return Rates(notes=(listing,))
    return rates_of(listing, provider, day, batch=batch, fast=fast, us_only=us_only)


def _usage_notes(rates: Rates, provider: Provider, usage: Usage) -> list[str]:
    """What is estimated because of this one call's usage."""
    notes = []
    for kind in rates.guessed:
        count = usage.web_searches if kind == "web_search" else getattr(usage, f"{kind}_tokens")
        if count:
            notes.append(f"the list has no price for {kind}")
    if usage.service_tier not in _LISTED_TIERS:
        notes.append(f"service tier {usage.service_tier!r} priced as standard")
    if usage.speed not in _LISTED_SPEEDS:
        notes.append(f"speed {usage.speed!r} priced as standard")
    if provider == "anthropic" and usage.inference_geo not in _LISTED_GEOS:
        notes.append(f"inference geography {usage.inference_geo!r} priced as global")
    return sorted(notes)
