"""Amounts of days as columns of a plot: every day of a span, or weeks or months where days would be too many."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from trivet.admin import Span
from trivet.costs_page.charts import Series

MAX_DAYS, MAX_WEEKS = 62, 62


class Amount(NamedTuple):
    """USD of one day (ISO) in one series."""

    day: str
    series: str
    usd: Decimal


class Plot(NamedTuple):
    """Columns of a stacked plot, and the span of each."""

    unit: str
    columns: list[str]
    series: list[Series]


def plot(amounts: Iterable[Amount], span: Span) -> Plot:
    """Put amounts into columns without a gap, from the first day that has one to the last day of the span."""
    found = list(amounts)
    if not found:
        return Plot("day", [], [])
    first = date.fromisoformat(min(amount.day for amount in found))
    last = max(
        date.fromisoformat(max(amount.day for amount in found)), datetime.fromtimestamp(span.until - 1e-6, UTC).date()
    )
    days = [first + timedelta(number) for number in range((last - first).days + 1)]
    unit = "day" if len(days) <= MAX_DAYS else "week" if len(days) <= 7 * MAX_WEEKS else "month"
    columns = list(dict.fromkeys(_column(day, unit) for day in days))
    sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: dict.fromkeys(columns, Decimal(0)))
    for amount in found:
        sums[amount.series][_column(date.fromisoformat(amount.day), unit)] += amount.usd
    series = [Series(name, list(by_column.values())) for name, by_column in sums.items()]
    return Plot(unit, [_short(column, unit) for column in columns], series)


def _column(day: date, unit: str) -> str:
    if unit == "month":
        return day.strftime("%Y-%m")
    return (day - timedelta(day.weekday()) if unit == "week" else day).isoformat()


def _short(column: str, unit: str) -> str:
    if unit == "month":
        return column
    day = date.fromisoformat(column)
    return f"{day.day} {day:%b}"
