"""Tables of the page. Every cell is escaped here."""

from collections.abc import Sequence
from decimal import Decimal
from html import escape

from trivet.admin import AnswerSaving, CacheSaving, CostRow
from trivet.costs_page.charts import usd

ROLES = {
    "result": ("the calls that brought the results", ""),
    "failed": ("calls that failed", "overloaded, cut, timed out; most cost nothing, a timeout at most its estimate"),
    "hedge": ("hedges of slow calls that were not first", "[classes.realtime] hedge_share"),
    "late": ("answers nobody waited for any more", "of workers that were taken for dead, of jobs cancelled meanwhile"),
    "lost": ("calls dropped, or lost with their worker", "losers of hedging, stops, crashes: at most the estimate"),
    "probe": ("probes of routes out of service", "one token of output each"),
    "": ("in flight", "at most the estimate"),
}
"""Name of each role of a call, with a remark."""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] = (), words: int = 1) -> str:
    """A table whose first `words` columns are text and whose others are figures."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if at < words else ' class=number'}>{escape(cell)}</{tag}>" for at, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    foot = f"<tfoot><tr>{line(total, 'td')}</tr></tfoot>" if total else ""
    return (
        f'<div class="scroll"><table><thead><tr>{line(headings, "th")}</tr></thead>'
        f"<tbody>{body}</tbody>{foot}</table></div>"
    )


def figures(by: Sequence[str], rows: Sequence[CostRow], total: CostRow, digits: int) -> str:
    """The report as `trivet costs` prints it."""

    def cells(row: CostRow) -> list[str]:
        return [
            *(f"{count:,}" for count in (row.calls, row.jobs, row.input_tokens, row.output_tokens)),
            f"${row.cost_usd:,.{digits}f}",
            f"${row.estimated_usd:,.{digits}f}" if row.estimated_usd else "",
            f"{row.unpriced:,}" if row.unpriced else "",
        ]

    headings = [*by, "calls", "jobs", "input tokens", "output tokens", "cost", "at most, beside", "unpriced"]
    named = [
        [
            value or ("in flight" if name in ("outcome", "role") else "(none)")
            for name, value in zip(by, row.group, strict=True)
        ]
        for row in rows
    ]
    last = ["total", *[""] * (len(by) - 1)] if by else []
    return table(
        headings,
        [[*names, *cells(row)] for names, row in zip(named, rows, strict=True)],
        [*last, *cells(total)],
        words=len(by),
    )


def roles(found: Sequence[CostRow]) -> str:
    """Return the table of costs by kind of call."""
    ordered = sorted(found, key=lambda row: list(ROLES).index(row.group[0]))
    return table(
        ["calls that are", "", "calls", "cost", "at most, beside"],
        [
            [
                *ROLES[row.group[0]],
                f"{row.calls:,}",
                usd(row.cost_usd),
                usd(row.estimated_usd) if row.estimated_usd else "",
            ]
            for row in ordered
        ],
        words=2,
    )


def answered(found: Sequence[AnswerSaving]) -> str:
    """Return the table of savings by the response cache, by class and model."""
    kinds = sorted({one.group[1:] for one in found})
    rows = []
    for kind in kinds:
        of = [one for one in found if one.group[1:] == kind]
        hits, unpriced = sum(one.hits for one in of), sum(one.unpriced for one in of)
        saved = sum((one.saved_usd for one in of), Decimal(0))
        rows.append([*kind, f"{hits:,}", usd(saved), f"{unpriced:,}" if unpriced else ""])
    return table(["class", "model", "answered", "saved", "unpriced"], rows, words=2)


def savings(found: Sequence[CacheSaving]) -> str:
    """Return the table of savings by prompt caches, by model."""
    models = sorted({one.model for one in found})
    rows = []
    for model in models:
        of = [one for one in found if one.model == model]
        saved = sum((one.saved_usd for one in of), Decimal(0))
        surcharge = sum((one.surcharge_usd for one in of), Decimal(0))
        rows.append(
            [
                model,
                f"{sum(one.read_tokens for one in of):,}",
                usd(saved),
                f"{sum(one.written_tokens for one in of):,}",
                usd(surcharge),
                usd(saved - surcharge),
            ]
        )
    return table(["model", "tokens read", "saved by them", "tokens written", "surcharge on them", "saved in all"], rows)
