"""Plots as SVG and HTML text, and amounts of days as their columns. Every label is escaped here."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import escape
from typing import NamedTuple

from trivet.admin import Span

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")
"""Colours that most colour-blind readers can distinguish; the last is for the rest."""
OTHER = "other"
_WIDTH, _HEIGHT = 960, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 14, 30
_MAX_LABELS = 12
_MAX_DAYS, _MAX_WEEKS = 62, 62


class Series(NamedTuple):
    """One colour of a stacked plot: an amount in USD for each column."""

    name: str
    amounts: Sequence[Decimal]


class Bar(NamedTuple):
    """One line of a bar plot."""

    label: str
    amount: Decimal
    shown: str
    note: str = ""
    more: Decimal = Decimal(0)
    """Maximum additional amount: drawn paler."""


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
    unit = "day" if len(days) <= _MAX_DAYS else "week" if len(days) <= 7 * _MAX_WEEKS else "month"
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


def fewest(series: Sequence[Series]) -> list[Series]:
    """The largest series, dearest first, with all that have no colour of their own put together as the last."""
    most = len(COLOURS)
    ordered = sorted(series, key=lambda one: (-sum(one.amounts, Decimal(0)), one.name))
    if len(ordered) <= most:
        return ordered
    rest = ordered[most - 1 :]
    amounts = [sum(column, Decimal(0)) for column in zip(*(one.amounts for one in rest), strict=True)]
    return [*ordered[: most - 1], Series(f"{OTHER} ({len(rest)})", amounts)]


def stacked(title: str, columns: Sequence[str], series: Sequence[Series]) -> str:
    """Columns of amounts in USD, stacked, with a legend."""
    sums = [sum(column, Decimal(0)) for column in zip(*(one.amounts for one in series), strict=True)]
    ticks = scale(max(sums, default=Decimal(0)))
    top = ticks[-1]
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    pitch = across / max(1, len(columns))
    wide = min(48.0, pitch * 0.72)
    parts = []
    digits = _digits(ticks)
    for tick in ticks:
        y = _TOP + down * (1 - float(tick / top))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">${tick:,.{digits}f}</text>')
    every = math.ceil(len(columns) / _MAX_LABELS)
    for at, column in enumerate(columns):
        middle = _LEFT + pitch * (at + 0.5)
        if at % every == 0:
            parts.append(
                f'<text class="tick" x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(column)}</text>'
            )
        base = float(_TOP + down)
        for number, one in enumerate(series):
            if not one.amounts[at]:
                continue
            tall = down * float(one.amounts[at] / top)
            base -= tall
            said = f"{column}, {one.name}: {usd(one.amounts[at])} of {usd(sums[at])}"
            parts.append(
                f'<rect x="{middle - wide / 2:.1f}" y="{base:.2f}" width="{wide:.1f}" height="{tall:.2f}" '
                f'fill="{COLOURS[number]}"><title>{escape(said)}</title></rect>'
            )
    legend = "".join(
        f'<li><i style="background:{COLOURS[number]}"></i>{escape(one.name)} '
        f"<b>{usd(sum(one.amounts, Decimal(0)))}</b></li>"
        for number, one in enumerate(series)
    )
    return (
        f'<ul class="legend">{legend}</ul><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def bars(found: Sequence[Bar], colour: str = COLOURS[0]) -> str:
    """Return a bar plot: lines of different length under one another."""
    longest = max((bar.amount + bar.more for bar in found), default=Decimal(0)) or Decimal(1)

    def part(amount: Decimal, kind: str = "") -> str:
        style = f"width:{float(amount / longest) * 100:.2f}%;background:{colour}"
        return f'<i{kind} style="{style}"></i>' if amount else ""

    lines = "".join(
        f'<div class="label" title="{escape(bar.label)}">{escape(bar.label)}</div><div class="track">'
        f"{part(bar.amount)}{part(bar.more, ' class=pale')}</div>"
        f'<div class="amount">{escape(bar.shown)}</div><div class="note">{escape(bar.note)}</div>'
        for bar in found
    )
    return f'<div class="bars">{lines}</div>'


def scale(largest: Decimal) -> list[Decimal]:
    """Return four to six round amounts, from 0 to one that is not below the largest."""
    if largest <= 0:
        return [Decimal(0), Decimal(1)]
    power = Decimal(10) ** (largest.adjusted() - 1)
    for step in (power * one for one in map(Decimal, ("1", "2", "2.5", "5", "10", "20", "25", "50"))):
        if step * 5 >= largest:
            break
    return [step * number for number in range(math.ceil(largest / step) + 1)]


def usd(amount: Decimal) -> str:
    """An amount as people read it: cents, or as many digits as a small one needs."""
    if amount == 0:
        return "$0"
    sign, size = ("−" if amount < 0 else ""), abs(amount)
    digits = 2 if size >= 1 else 4 if size >= Decimal("0.01") else 6
    return f"{sign}${size:,.{digits}f}"


def _digits(ticks: Sequence[Decimal]) -> int:
    return max(-int(tick.normalize().as_tuple().exponent) for tick in ticks) if ticks[-1] % 1 or ticks[1] % 1 else 0
