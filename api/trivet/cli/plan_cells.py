"""Cells of a plan's tables: amounts, times, limits."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trivet.plan.terms import digits
from trivet.times import seconds
from trivet_tasks.config.budgets import DAY_S

if TYPE_CHECKING:
    from trivet.plan.outlook import Bound


def dollars(column: Sequence[Decimal]) -> Iterable[str]:
    """Return amounts with as many decimals as the smallest of the column needs, so that they align."""
    least = min((amount for amount in column if amount), default=Decimal(1))
    places = 2 if least >= Decimal("0.01") else 4 if least >= Decimal("0.0001") else 6
    return (f"${amount:,.{places}f}" if amount else "–" for amount in column)


def span_of(bound: "Bound | None") -> Text:
    """Return the time of a day's work, yellow if it is longer than a day."""
    if bound is None:
        return Text("?")
    return Text(seconds(float(bound.seconds)), style="yellow" if bound.seconds > DAY_S else "")


def binding_of(bound: "Bound | None") -> str:
    """Return the limit that binds."""
    if bound is None:
        return "no limit is known"
    if bound.limit == "one call":
        return "the length of one call"
    return f"{bound.figure:,.0f} {bound.limit}{'' if bound.limit == 'calls in flight' else '/min'}"


def bound_object(bound: "Bound | None") -> dict[str, Any] | None:
    """Return the time of a day's work, with the limit that binds, as JSON has it."""
    if bound is None:
        return None
    return {
        "seconds": digits(bound.seconds),
        "route": bound.route,
        "model": bound.model,
        "limit": bound.limit,
        "figure": digits(bound.figure),
    }
