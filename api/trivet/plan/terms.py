"""Terms of a plan: scenarios of routes, costs beside the provider's tokens, and decimals without unintended rounding."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from difflib import get_close_matches
from enum import StrEnum
from typing import TypeAlias

from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.prices.price_book import Tariff

PLACES = Decimal("1E-12")
"""Precision of quotients without an end: the ledger's own unit."""
GB = Decimal(10**9)
TariffOf: TypeAlias = Callable[[str, str], Tariff]
"""Returns the price of tokens on a route (first) for a model (second)."""


class Per(StrEnum):
    """The unit by which a charge is counted."""

    CALL = "call"
    GB_OUT = "GB out"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Charge:
    """One hidden cost."""

    name: str
    per: Per
    usd: Decimal
    units: Decimal = Decimal(1)
    """Number of calls (GB, months) that the amount is for."""
    route: str | None = None
    """The route whose calls it is charged for; None: calls on every route."""


@dataclass(frozen=True, slots=True)
class Charged:
    """The amount of a charge, in USD."""

    charge: Charge
    day_usd: Decimal
    month_usd: Decimal


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to share the work out."""

    name: str
    shares: Mapping[str, Decimal]
    """Shares by route; they sum to 1."""

    @property
    def text(self) -> str:
        """The shares, for a person."""
        return ", ".join(f"{percent(share)} {route}" for route, share in self.shares.items())


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms that all scenarios of a plan share."""

    routes: Mapping[str, RouteSettings]
    tariff_of: TariffOf
    charges: tuple[Charge, ...] = ()
    days: Decimal = Decimal(30)
    """Days of a month."""
    cache_read_share: Decimal = Decimal(0)
    """The part of input tokens that comes out of the provider's prompt cache."""


def by_default(routes: Mapping[str, RouteSettings]) -> list[Scenario]:
    """Return each route by itself and, where there are several, all of them by their weights."""
    single = [Scenario(name, {name: Decimal(1)}) for name in routes]
    if len(routes) < 2:
        return single
    weights = {name: Decimal(str(route.weight)) for name, route in routes.items()}
    name = "even mix" if len(set(weights.values())) == 1 else "mix by weight"
    return [*single, Scenario(name, spread(weights))]


def mixed(given: Sequence[Mapping[str, Decimal]], routes: Mapping[str, RouteSettings]) -> list[Scenario]:
    """Return one scenario for each mix that a person gave.

    Raises:
        InvalidRequest: a route is not configured, a share is not above 0, or they do not sum to 1.
    """
    scenarios: list[Scenario] = []
    several = sum(len(shares) > 1 for shares in given) > 1
    for number, shares in enumerate(given):
        for name, share in shares.items():
            if name not in routes:
                near = get_close_matches(name, routes, n=1, cutoff=0.6)
                guess = f" Did you mean {near[0]}?" if near else ""
                raise InvalidRequest(
                    f"--mix: no route is called {name!r}.{guess}",
                    field="mix",
                    hint=f"Configured are {', '.join(routes)}.",
                )
            if share <= 0:
                raise InvalidRequest(
                    f"--mix: the share of {name} must be above 0.", field="mix", hint="Leave a route without one out."
                )
        with exact():
            total = sum(shares.values(), Decimal(0))
        if total != 1:
            raise InvalidRequest(
                f"--mix: the shares sum to {digits(total)}, not to 1.",
                field="mix",
                hint="Write them as in bedrock-us-east-1=0.7,anthropic=0.3, or as 70% and 30%.",
            )
        mixes = sum(len(earlier) > 1 for earlier in given[: number + 1])
        single = next(iter(shares)) if len(shares) == 1 else None
        scenarios.append(Scenario(single or (f"mix {mixes}" if several else "mix"), shares))
    return scenarios


def declared(routes: Mapping[str, RouteSettings]) -> list[Charge]:
    """Return the charges that routes declare in `[routes.NAME.costs]`."""
    found = []
    for name, route in routes.items():
        costs = route.costs
        for word, per, usd in (
            ("requests", Per.CALL, costs.per_request_usd),
            ("data out", Per.GB_OUT, costs.per_gb_out_usd),
            ("fixed", Per.MONTH, costs.per_month_usd),
        ):
            if usd:
                found.append(Charge(word, per, usd, route=name))
    return found


def charged(charge: Charge, calls: Iterable[Decimal | None], bytes_out: Decimal, days: Decimal) -> Charged:
    """Return the amount of a charge for a day's calls and bytes, and for a month of so many days.

    Raises:
        InvalidRequest: it is by the call, and the number of calls is not known.
    """
    with exact():
        if charge.per is Per.MONTH:
            month = divided(charge.usd, charge.units)
            return Charged(charge, divided(month, days), month)
        if charge.per is Per.GB_OUT:
            day = divided(charge.usd * bytes_out, charge.units * GB)
        else:
            day = divided(charge.usd * _known(calls, charge), charge.units)
        return Charged(charge, day, day * days)


def _known(calls: Iterable[Decimal | None], charge: Charge) -> Decimal:
    total = Decimal(0)
    for some in calls:
        if some is None:
            where = f" of {charge.route}" if charge.route else ""
            raise InvalidRequest(
                f"{charge.name}{where}: is charged by the call, and the number of calls is not known.",
                field="tokens_per_call",
                hint="Say how many tokens a call has, input and output together: --tokens-per-call 2000.",
            )
        total += some
    return total


def exact() -> AbstractContextManager[Context]:
    """Return a context in which sums and products of a plan keep every digit."""
    return localcontext(prec=100)


def divided(amount: Decimal, by: Decimal) -> Decimal:
    """Return the quotient: exact where it ends within 12 places, else rounded to these."""
    with exact():
        return (amount / by).quantize(PLACES)


def spread(shares: dict[str, Decimal]) -> dict[str, Decimal]:
    """Return the same proportions as shares that sum to exactly 1; the remainder goes to the largest."""
    with exact():
        total = sum(shares.values(), Decimal(0))
        if total == 1:
            return dict(shares)
        parts = {name: divided(share, total) for name, share in shares.items()}
        largest = max(parts, key=lambda name: parts[name])
        parts[largest] += 1 - sum(parts.values(), Decimal(0))
        return parts


def digits(amount: Decimal) -> str:
    """Return all digits of an amount and no more: `18`, `0.00002`."""
    with exact():
        return f"{amount.normalize():f}" if amount else "0"


def percent(share: Decimal) -> str:
    """Return a share as people read it, with at most two decimals."""
    return f"{digits((share * 100).quantize(Decimal('0.01')))} %"
