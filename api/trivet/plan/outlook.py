"""The arithmetic of a plan: the cost of a day's and a month's work over given routes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from trivet.plan.charges import Charge, Charged, charged
from trivet.plan.exact import exact, spread
from trivet.plan.scenarios import Scenario
from trivet.plan.timing import Bound, Demand, binding
from trivet.plan.workload import Load
from trivet_routing.route_choice import misfit
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.prices.price_book import Tariff, TokenPrices
from trivet_tasks.requests.eligibility import name_on_wire

TariffOf: TypeAlias = Callable[[str, str], Tariff]
"""Returns the price of tokens on a route (first) for a model (second)."""
_NONE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms that all scenarios of a plan share."""

    routes: Mapping[str, RouteSettings]
    tariff_of: TariffOf
    charges: tuple[Charge, ...] = ()
    days: Decimal = Decimal(30)
    """Days of a month."""
    cache_read_share: Decimal = _NONE
    """The part of input tokens that comes out of the provider's prompt cache."""


class Part(NamedTuple):
    """The part of a load that one route does in a day, with the cost of its tokens in USD."""

    route: str
    load: Load
    calls: Decimal | None
    input_tokens: Decimal
    output_tokens: Decimal
    bytes_out: Decimal
    prices: TokenPrices
    input_usd: Decimal
    """With what is read from the prompt cache."""
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
    """All of it; of what is fixed a day's part of the month."""
    month_usd: Decimal
    parts: tuple[Part, ...]
    bound: Bound | None
    """The limit that binds, and how long a day's work takes; None = no limit is known."""
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
            unfit = _unfit(load, scenario, terms)
            able = {name: share for name, share in scenario.shares.items() if name not in unfit}
            why = f"{_told(load)}: {'; '.join(f'{name} {reason}' for name, reason in unfit.items())}"
            if not able:
                return Obstacle(why)
            if unfit:
                detours.append(why)
            found = _shared_out(load, able, terms)
            if isinstance(found, Obstacle):
                return found
            parts += found
        return _summed(scenario, parts, detours, terms)


def _unfit(load: Load, scenario: Scenario, terms: Terms) -> dict[str, str]:
    """The routes of the scenario that cannot take the load, each with its reason."""
    routes = ((name, terms.routes[name]) for name in scenario.shares)
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
        parts.append(_part(name, load, share, _tier(tariff.tiers, load.above), terms.cache_read_share))
    return parts


def _told(load: Load) -> str:
    if load.calls is None:
        return load.requirements.model
    return f"{load.calls:,.0f} call{'' if load.calls == 1 else 's'} of {load.requirements.model}"


def _tier(tiers: Iterable[TokenPrices], above: int) -> TokenPrices:
    """The prices for prompts of that length; the last tier is for all lengths."""
    return next(tier for tier in tiers if above >= tier.above)


def _part(route: str, load: Load, share: Decimal, prices: TokenPrices, cache_read_share: Decimal) -> Part:
    incoming, output = load.input_tokens * share, load.output_tokens * share
    read = incoming * cache_read_share
    return Part(
        route=route,
        load=load,
        calls=None if load.calls is None else load.calls * share,
        input_tokens=incoming,
        output_tokens=output,
        bytes_out=load.bytes_out * share,
        prices=prices,
        input_usd=(incoming - read) * prices.input + read * prices.cache_read,
        output_usd=output * prices.output,
    )


def _summed(scenario: Scenario, parts: list[Part], detours: list[str], terms: Terms) -> Outlook:
    hidden = []
    for charge in terms.charges:
        if charge.route is None or charge.route in scenario.shares:
            its = [part for part in parts if charge.route in (None, part.route)]
            bytes_out = sum((part.bytes_out for part in its), _NONE)
            hidden.append(charged(charge, (part.calls for part in its), bytes_out, terms.days))
    input_usd = sum((part.input_usd for part in parts), _NONE)
    output_usd = sum((part.output_usd for part in parts), _NONE)
    fresh = 1 - terms.cache_read_share
    demands = [
        Demand(part.route, part.load.requirements.model, part.calls, part.input_tokens * fresh, part.output_tokens)
        for part in parts
    ]
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
        bound=binding(demands, terms.routes),
        detours=tuple(detours),
    )
