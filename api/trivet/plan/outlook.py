"""Arithmetic of a plan: the cost of a day's and a month's work over given routes, and its duration within their limits."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from trivet.plan.terms import Charged, Scenario, Terms, charged, divided, exact, spread
from trivet.plan.workload import Load
from trivet_routing.permits import Quota
from trivet_routing.route_choice import misfit
from trivet_tasks.catalog import known
from trivet_tasks.prices.price_book import Tariff, TokenPrices
from trivet_tasks.requests.eligibility import name_on_wire

_NONE = Decimal(0)
MINUTE = Decimal(60)


class Bound(NamedTuple):
    """The limit that takes longest, with its duration."""

    seconds: Decimal
    route: str
    model: str
    """The model it holds for, or the group of models that share it."""
    limit: str
    """`requests`, `input tokens` or `output tokens` per minute, `calls in flight`, or `one call`: no call is shorter."""
    figure: Decimal
    """The limit as configured; of `one call`, 1."""


class Part(NamedTuple):
    """The part of a load that one route does in a day, with the cost of its tokens in USD."""

    route: str
    load: Load
    share: Decimal
    """Share of the load, 0 to 1."""
    calls: Decimal | None
    input_tokens: Decimal
    output_tokens: Decimal
    bytes_out: Decimal
    prices: TokenPrices
    input_usd: Decimal
    """Cost of input, with reads from the prompt cache."""
    output_usd: Decimal


@dataclass(frozen=True, slots=True)
class Outlook:
    """The result of a scenario. All but `month_usd` is per day; USD, exact."""

    calls: Decimal | None
    """None: not known."""
    input_tokens: Decimal
    output_tokens: Decimal
    input_usd: Decimal
    output_usd: Decimal
    charged: tuple[Charged, ...]
    """The hidden costs."""
    day_usd: Decimal
    """Total; a fixed charge counts with a day's part of the month."""
    month_usd: Decimal
    parts: tuple[Part, ...]
    bound: Bound | None
    """The limit that binds, with the duration of a day's work; None: no limit is known."""
    detours: tuple[str, ...] = ()
    """Calls that some routes of the scenario cannot take, with the reasons; the other routes take them."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """The reason why a scenario is impossible."""

    text: str
    """A sentence without its full stop."""


def outlook(scenario: Scenario, loads: Sequence[Load], terms: Terms) -> Outlook | Obstacle:
    """Return the cost of the loads when they are shared out as the scenario says.

    Each load goes to those of the routes that may take it, in the proportions of their shares.

    Raises:
        InvalidRequest: a charge is by the call, and the number of calls is not known.
    """
    with exact():
        parts: list[Part] = []
        detours: list[str] = []
        for load in loads:
            not_fit = unfit(load, scenario.shares, terms)
            able = {name: share for name, share in scenario.shares.items() if name not in not_fit}
            why = f"{named(load)}: {'; '.join(f'{name} {reason}' for name, reason in not_fit.items())}"
            if not able:
                return Obstacle(why)
            if not_fit:
                detours.append(why)
            found = _shared_out(load, able, terms)
            if isinstance(found, Obstacle):
                return found
            parts += found
        return summed(scenario.shares, parts, terms, detours)


def unfit(load: Load, names: Iterable[str], terms: Terms) -> dict[str, str]:
    """Return those of the routes that cannot take the load, each with its reason."""
    routes = ((name, terms.routes[name]) for name in names)
    reasons = {
        name: misfit(load.requirements, route, name_on_wire(route, load.requirements.model)) for name, route in routes
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _shared_out(load: Load, able: dict[str, Decimal], terms: Terms) -> list[Part] | Obstacle:
    parts = []
    for name, share in spread(able).items():
        tariff = terms.tariff_of(name, load.requirements.model)
        if not tariff.tiers:
            return Obstacle(f"no price is known for {load.requirements.model} on {name}: {tariff.note}")
        parts.append(part_of(name, load, share, tariff, terms.cache_read_share))
    return parts


def named(load: Load) -> str:
    """Return the number of calls of a load with their model."""
    if load.calls is None:
        return load.requirements.model
    return f"{load.calls:,.0f} call{'' if load.calls == 1 else 's'} of {load.requirements.model}"


def part_of(route: str, load: Load, share: Decimal, tariff: Tariff, cache_read_share: Decimal) -> Part:
    """Return the part of a load that a route does, at the prices of the load's length; the tariff has tiers."""
    prices = next(tier for tier in tariff.tiers if load.above >= tier.above)  # the last tier is for all lengths
    incoming, output = load.input_tokens * share, load.output_tokens * share
    read = incoming * cache_read_share
    return Part(
        route=route,
        load=load,
        share=share,
        calls=None if load.calls is None else load.calls * share,
        input_tokens=incoming,
        output_tokens=output,
        bytes_out=load.bytes_out * share,
        prices=prices,
        input_usd=(incoming - read) * prices.input + read * prices.cache_read,
        output_usd=output * prices.output,
    )


def summed(names: Collection[str], parts: Sequence[Part], terms: Terms, detours: Sequence[str] = ()) -> Outlook:
    """Return the sum of parts. Charges are those of the named routes, the fixed ones also where a route has no part."""
    hidden = []
    for charge in terms.charges:
        if charge.route is None or charge.route in names:
            its = [part for part in parts if charge.route in (None, part.route)]
            bytes_out = sum((part.bytes_out for part in its), _NONE)
            hidden.append(charged(charge, (part.calls for part in its), bytes_out, terms.days))
    input_usd = sum((part.input_usd for part in parts), _NONE)
    output_usd = sum((part.output_usd for part in parts), _NONE)
    return Outlook(
        calls=None
        if any(part.calls is None for part in parts)
        else sum((part.calls or _NONE for part in parts), _NONE),
        input_tokens=sum((part.input_tokens for part in parts), _NONE),
        output_tokens=sum((part.output_tokens for part in parts), _NONE),
        input_usd=input_usd,
        output_usd=output_usd,
        charged=tuple(hidden),
        day_usd=input_usd + output_usd + sum((one.day_usd for one in hidden), _NONE),
        month_usd=(input_usd + output_usd) * terms.days + sum((one.month_usd for one in hidden), _NONE),
        parts=tuple(parts),
        bound=_binding(parts, terms),
        detours=tuple(detours),
    )


@dataclass(slots=True)
class _Limiter:
    quota: Quota
    calls: Decimal | None = Decimal(0)
    input_tokens: Decimal = Decimal(0)
    output_tokens: Decimal = Decimal(0)
    in_flight_s: Decimal = Decimal(0)
    """Seconds that all calls together take at their models' usual rates; 0 where no rate is known."""

    def add(self, part: Part, model: str, fresh: Decimal) -> None:
        """Count a part. `fresh`: the share of input not read from the provider's prompt cache, which no limit counts."""
        self.calls = None if part.calls is None or self.calls is None else self.calls + part.calls
        self.input_tokens += part.input_tokens * fresh
        self.output_tokens += part.output_tokens
        known_model = known(model)
        if known_model is not None:
            self.in_flight_s += divided(part.output_tokens, Decimal(known_model.output_tokens_per_s))


def _binding(parts: Iterable[Part], terms: Terms) -> Bound | None:
    """Return the limit that binds when routes work side by side at their limits; None: none that is known.

    Models that share limits add up; others have their route's figures each for itself.
    """
    limiters: dict[tuple[str, str], _Limiter] = {}
    for part in parts:
        model = part.load.requirements.model
        quota = Quota.of(terms.routes[part.route], model)
        limiters.setdefault((part.route, quota.group), _Limiter(quota)).add(part, model, 1 - terms.cache_read_share)
    bounds = [bound for (route, _), limiter in limiters.items() for bound in _bounds(route, limiter)]
    return max(bounds, key=lambda bound: bound.seconds, default=None)


def _bounds(route: str, limiter: _Limiter) -> Iterable[Bound]:
    quota = limiter.quota
    burned = limiter.output_tokens * Decimal(str(quota.output_factor))
    for limit, wanted, a_minute in (
        ("requests", limiter.calls, quota.requests),
        ("input tokens", limiter.input_tokens, quota.input_tokens),
        ("output tokens", burned, quota.output_tokens),
    ):
        if a_minute and wanted:
            figure = Decimal(str(a_minute))
            yield Bound(divided(wanted * MINUTE, figure), route, quota.group, limit, figure)
    if limiter.in_flight_s:
        places = Decimal(quota.max_concurrency)
        yield Bound(divided(limiter.in_flight_s, places), route, quota.group, "calls in flight", places)
        if limiter.calls:
            yield Bound(
                divided(limiter.in_flight_s, max(limiter.calls, Decimal(1))), route, quota.group, "one call", Decimal(1)
            )
