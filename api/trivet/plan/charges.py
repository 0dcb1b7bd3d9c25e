"""Charges beside the provider's tokens: for each call, for data sent, and fixed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from trivet.plan.exact import divided, exact
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest

GB = Decimal(10**9)


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
    """For how many calls (GB, months) the amount is."""
    route: str | None = None
    """The route whose calls it is charged for; None = all calls, whatever route they take."""


@dataclass(frozen=True, slots=True)
class Charged:
    """The amount of a charge, in USD."""

    charge: Charge
    day_usd: Decimal
    month_usd: Decimal


def declared(routes: Mapping[str, RouteSettings]) -> list[Charge]:
    """The charges that routes declare in `[routes.NAME.costs]`."""
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
