"""Loss of routes: the time that a day's work takes without each of them, its cost, and the calls that have nowhere to go.

Trivet gives waiting work to every route that has headroom, so all routes work until the last call is done. The shares that
make it so are found by moving calls from the busier routes to the others, step by step.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from trivet.plan.outlook import MINUTE, Outlook, part_of, summed, unfit
from trivet.plan.terms import Terms, exact, spread
from trivet.plan.workload import Load
from trivet_routing.permits import Quota
from trivet_tasks.catalog import known

_STEPS = 300
_FIRST_STEP, _SLOWER_AFTER = 0.5, 30
_SHARPNESS = 30
"""Power of a limit's time in its weight: of limits that are busy almost as long, all count."""
_PLACES = Decimal("1E-6")
_LEAST_SHARE = 1e-4
"""A smaller share of a load is left to the other routes."""
_Limit: TypeAlias = tuple[str, str, str]
"""Route, owner of the limit on it, kind of limit."""
_Needs: TypeAlias = Mapping[str, Mapping[_Limit, float]]
"""By route the seconds for which a load would keep its limits busy."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Calls of a day that no route takes any more."""

    load: Load
    reasons: Mapping[str, str]
    """The reason of each route that is left."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A day's work without some routes."""

    name: str
    """The route, `all of PROVIDER` or `all of REGION`; empty: nothing is lost."""
    lost: tuple[str, ...]
    outlook: Outlook
    """The work that goes on."""
    change_usd: Decimal
    """Additional cost of that work in USD a day, against the same work with all routes."""
    waiting: tuple[Waiting, ...]

    @property
    def waiting_calls(self) -> Decimal | None:
        """Calls a day that wait; None: not known."""
        calls = [one.load.calls for one in self.waiting]
        return None if None in calls else sum((some or Decimal(0) for some in calls), Decimal(0))


def without_each(names: Sequence[str], loads: Sequence[Load], terms: Terms) -> tuple[Loss, ...]:
    """Return the work with all of the routes, then without each route, each provider and each region of several routes.

        without_each(("anthropic", "bedrock-us-east-1"), workload.loads, terms)[1].outlook.bound

    Raises:
        InvalidRequest: a charge is by the call, and the number of calls is not known.
    """
    whole = _loss("", (), names, loads, terms, None)
    return whole, *(_loss(name, lost, names, loads, terms, whole.outlook) for name, lost in _losses(names, terms))


def _losses(names: Sequence[str], terms: Terms) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each set of routes that may be lost together once, with its name."""
    routes = {name: terms.routes[name] for name in names}
    told: set[tuple[str, ...]] = set()
    groups: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in names]
    for places in (
        {name: route.provider for name, route in routes.items()},
        {name: route.region for name, route in routes.items() if route.region},
    ):
        for place in dict.fromkeys(places.values()):
            groups.append((f"all of {place}", tuple(name for name in places if places[name] == place)))
    for name, lost in groups:
        if lost not in told:
            told.add(lost)
            yield name, lost


def _loss(
    name: str, lost: tuple[str, ...], names: Sequence[str], loads: Sequence[Load], terms: Terms, whole: Outlook | None
) -> Loss:
    left = [one for one in names if one not in lost]
    reasons = [_reasons(load, left, terms) for load in loads]
    pairs = list(zip(loads, reasons, strict=True))
    running = [(load, [one for one in left if one not in why]) for load, why in pairs if len(why) < len(left)]
    with exact():
        parts = [
            part_of(route, load, share, terms.tariff_of(route, load.requirements.model), terms.cache_read_share)
            for (load, _), shares in zip(running, soonest(running, terms), strict=True)
            for route, share in shares.items()
        ]
        outlook = summed(names, parts, terms)
        change = Decimal(0)
        if whole is not None:
            runs = [load for load, _ in running]
            change = outlook.day_usd - summed(names, [part for part in whole.parts if part.load in runs], terms).day_usd
    return Loss(name, lost, outlook, change, tuple(Waiting(*pair) for pair in pairs if len(pair[1]) == len(left)))


def _reasons(load: Load, names: Collection[str], terms: Terms) -> dict[str, str]:
    """Return the routes that cannot take the load or have no price for it, each with its reason."""
    reasons = unfit(load, names, terms)
    for name in names:
        if name not in reasons and not terms.tariff_of(name, load.requirements.model).tiers:
            reasons[name] = f"has no known price for {load.requirements.model}"
    return reasons


def soonest(able: Sequence[tuple[Load, Sequence[str]]], terms: Terms) -> list[dict[str, Decimal]]:
    """Return the shares of each load over its routes with which all work is done soonest, within about 1 %.

    With loads of one kind the result is exact. A route without a limit that is known takes all that it may.
    """
    needs = [{name: _needs(load, name, terms) for name in names} for load, names in able]
    shares = [_by_speed({name: max(need.values()) for name, need in of.items()}) for of in needs]
    best, best_s = shares, math.inf
    for number in range(_STEPS):
        busy = _busy(needs, shares)
        longest = max(busy.values(), default=0.0)
        if longest < best_s:
            best, best_s = shares, longest
        if len(needs) < 2 or not longest:
            break
        weights = {limit: (seconds / longest) ** _SHARPNESS for limit, seconds in busy.items()}
        step = _FIRST_STEP / (1 + number / _SLOWER_AFTER)
        shares = [_eased(of, given, weights, step) for of, given in zip(needs, shares, strict=True)]
    return [_rounded(of) for of in best]


def _busy(needs: Sequence[_Needs], shares: Sequence[Mapping[str, float]]) -> dict[_Limit, float]:
    """Return the seconds for which all loads together keep each limit busy."""
    busy: dict[_Limit, float] = defaultdict(float)
    for of, given in zip(needs, shares, strict=True):
        for name, need in of.items():
            for limit, seconds in need.items():
                busy[limit] += seconds * given[name]
    return busy


def _eased(of: _Needs, shares: Mapping[str, float], weights: Mapping[_Limit, float], step: float) -> dict[str, float]:
    """Return shares with less for the routes where the load needs most of the limits that are busy longest."""
    prices = {name: sum(weights[limit] * seconds for limit, seconds in need.items()) for name, need in of.items()}
    dearest = max(prices.values()) or 1.0
    return _normal({name: shares[name] * math.exp(-step * price / dearest) for name, price in prices.items()})


def _needs(load: Load, name: str, terms: Terms) -> dict[_Limit, float]:
    """Return the seconds for which the whole load would keep each limit of a route busy."""
    quota = Quota.of(terms.routes[name], load.requirements.model)
    model = known(load.requirements.model)
    fresh = load.input_tokens * (1 - terms.cache_read_share)
    rates = (
        ("requests", float(load.calls or 0), quota.requests),
        ("input tokens", float(fresh), quota.input_tokens),
        ("output tokens", float(load.output_tokens) * quota.output_factor, quota.output_tokens),
        ("in flight", float(load.output_tokens), float(MINUTE) * quota.max_concurrency * model.output_tokens_per_s if model else 0),
    )  # fmt: skip
    return {
        (name, quota.group, limit): float(MINUTE) * amount / a_minute if a_minute else 0.0
        for limit, amount, a_minute in rates
    }


def _by_speed(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return shares in proportion to the speeds; routes that are not known to need any time share everything."""
    if idle := [name for name, some in seconds.items() if not some]:
        return {name: 1 / len(idle) if name in idle else 0.0 for name in seconds}
    return _normal({name: 1 / some for name, some in seconds.items()})


def _normal(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _rounded(shares: Mapping[str, float]) -> dict[str, Decimal]:
    return spread({name: Decimal(share).quantize(_PLACES) for name, share in shares.items() if share > _LEAST_SHARE})
