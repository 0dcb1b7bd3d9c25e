"""The page of `trivet costs --html`: HTML, style, plots and tables in one text that loads nothing. Every cell is escaped."""

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from importlib import resources
from importlib.metadata import version

from trivet.admin import AnswerSaving, CacheSaving, CostOverview, CostReport, CostRow
from trivet.costs_page.charts import COLOURS, Amount, Bar, bars, fewest, plot, stacked, usd
from trivet.times import moment

_MODELS_NAMED = 8
# nothing may be loaded, and nothing may run
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_ROLES = {
    "result": ("the calls that brought the results", ""),
    "failed": ("calls that failed", "overloaded, cut, timed out; most cost nothing, a timeout at most its estimate"),
    "hedge": ("hedges of slow calls that were not first", "[classes.realtime] hedge_share"),
    "late": ("answers nobody waited for any more", "of workers that were taken for dead, of jobs cancelled meanwhile"),
    "lost": ("calls dropped, or lost with their worker", "losers of hedging, stops, crashes: at most the estimate"),
    "probe": ("probes of routes out of service", "one token of output each"),
    "": ("in flight", "at most the estimate"),
}
"""Name of each role of a call, with a remark."""


def page(overview: CostOverview) -> str:
    """Return the whole page."""
    report, made_at = overview.report, overview.made_at
    style = resources.files("trivet.costs_page").joinpath("page.css").read_text("utf-8")
    span = f"{moment(report.span.since)} to {moment(min(report.span.until, made_at))}"
    parts = [
        _cards(overview), _unpriced(report), _spend(overview), _per_job(overview), _answered(report), _savings(report),
        _failover(overview),
    ]  # fmt: skip
    body = (
        "".join(parts)
        if report.total.calls or report.response_cache
        else '<section><p class="soft">No call was made.</p></section>'
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>What Claude cost, {escape(span)}</title><style>{style}</style></head><body><main>"
        f'<header><h1>What Claude cost</h1><p class="soft">{escape(span)}</p></header>'
        f"{body}{_figures(report) if report.total.calls else ''}"
        f"<footer>Amounts are US dollars, days are UTC. Made by Trivet {escape(version('trivet'))} at "
        f"{escape(moment(made_at))}.</footer></main></body></html>\n"
    )


def _section(title: str, why: str, *contents: str, kind: str = "") -> str:
    said = f'<p class="why">{escape(why)}</p>' if why else ""
    return f"<section{f' class={kind}' if kind else ''}><h2>{escape(title)}</h2>{said}{''.join(contents)}</section>"


def _cards(overview: CostOverview) -> str:
    report, total = overview.report, overview.report.total
    jobs = sum(row.jobs for row in overview.jobs)
    of_jobs = sum((row.cost_usd for row in overview.jobs), Decimal(0))
    other = sum((row.cost_usd for row in overview.roles if row.group[0] not in ("result", "")), Decimal(0))
    saved = sum((one.saved_usd - one.surcharge_usd for one in report.prompt_cache), Decimal(0))
    cards = [
        (usd(total.cost_usd), "settled"),
        (usd(total.estimated_usd), "at most beside it, for calls in flight or of unknown fate"),
        (usd(of_jobs * 1_000 / jobs) if jobs else "–", f"a thousand jobs, of {total.jobs:,}"),
        (f"{other / total.cost_usd:.1%}" if total.cost_usd else "–", f"for calls beside the results: {usd(other)}"),
        (usd(sum((one.saved_usd for one in report.response_cache), Decimal(0))), "saved by the response cache"),
        (usd(saved), "saved by prompt caches"),
    ]
    return f'<div class="cards">{"".join(f"<div class=card><b>{big}</b><p>{small}</p></div>" for big, small in cards)}</div>'


def _unpriced(report: CostReport) -> str:
    if not report.unpriced:
        return ""
    named = [f"{one.model} (as {one.wire_model} on {one.provider}): {one.calls:,}" for one in report.unpriced]
    rest = [f"and {len(named) - _MODELS_NAMED:,} more"] if len(named) > _MODELS_NAMED else []
    calls = report.total.unpriced
    said = f"No price is known for {calls:,} call{'s' if calls != 1 else ''}; no sum here has them."
    return _section(said, "; ".join([*named[:_MODELS_NAMED], *rest]), kind="warning")


def _spend(overview: CostOverview) -> str:
    found = plot((Amount(row.group[0], row.group[1], row.cost_usd) for row in overview.daily), overview.report.span)
    title = f"Spend per {found.unit} by route"
    return _section(
        title, "Settled calls, the day on which they began.", stacked(title, found.columns, fewest(found.series))
    )


def _per_job(overview: CostOverview) -> str:
    found = sorted((row for row in overview.jobs if row.jobs), key=lambda row: -row.cost_usd / row.jobs)
    lines = [
        Bar(" · ".join(row.group), each, *_said(row, each))
        for row in found
        for each in [row.cost_usd * 1_000 / row.jobs]
    ]
    return _section(
        "Cost of a thousand jobs, by class and model", "With every failed, hedged and late call of theirs.", bars(lines)
    )


def _said(row: CostRow, each: Decimal) -> tuple[str, str]:
    """Return the amount and the note of a bar. Unpriced calls are not shown as free."""
    jobs = f"{row.jobs:,} jobs"
    if row.unpriced and not row.cost_usd:
        return "unpriced", jobs
    lacking = f", {row.unpriced:,} calls unpriced" if row.unpriced else ""
    return usd(each), f"{jobs}, {usd(row.cost_usd)}{lacking}"


def _answered(report: CostReport) -> str:
    if not report.response_cache:
        return ""
    why = "Requests answered with what an equal one had brought, at what that call had cost. No call was made for them."
    amounts = (Amount(one.group[0], one.group[2], one.saved_usd) for one in report.response_cache)
    found = plot(amounts, report.span)
    title = f"Saved by the response cache, per {found.unit} by model"
    return _section(
        title, why, stacked(title, found.columns, fewest(found.series)), _answered_table(report.response_cache)
    )


def _savings(report: CostReport) -> str:
    why = "Tokens read from a provider's prompt cache, against the price of the same tokens as plain input."
    if not report.prompt_cache:
        return _section("Saved by prompt caches", f"{why} None were read or written.")
    found = plot((Amount(one.day, one.model, one.saved_usd) for one in report.prompt_cache), report.span)
    title = f"Saved by prompt caches, per {found.unit} by model"
    return _section(
        title, why, stacked(title, found.columns, fewest(found.series)), _savings_table(report.prompt_cache)
    )


def _failover(overview: CostOverview) -> str:
    others = [row for row in overview.roles if row.group[0] not in ("result", "")]
    lines = [
        Bar(
            _ROLES[row.group[0]][0],
            row.cost_usd,
            usd(row.cost_usd),
            f"+ at most {usd(row.estimated_usd)}" if row.estimated_usd else "",
            row.estimated_usd,
        )
        for row in sorted(others, key=lambda row: -(row.cost_usd + row.estimated_usd))
    ]
    plotted = bars(lines, COLOURS[2]) if lines else ""
    return _section(
        "What failover cost",
        "Calls other than the one that brought a job its result. The pale part of a bar is the most that calls of "
        "unknown fate may have cost beside what is settled.",
        plotted,
        _roles_table(overview.roles),
    )


def _figures(report: CostReport) -> str:
    title = f"By {', '.join(report.by)}" if report.by else "In all"
    why = "“At most, beside” bounds what calls in flight and calls of unknown fate may cost; it is not in the cost."
    return _section(title, why, _figures_table(report.by, report.rows, report.total, report.decimals), kind="figures")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] = (), words: int = 1) -> str:
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


def _figures_table(by: Sequence[str], rows: Sequence[CostRow], total: CostRow, digits: int) -> str:
    """The report as `trivet costs` prints it."""
    negotiated = any(row.list_usd != row.cost_usd for row in (total, *rows))

    def cells(row: CostRow) -> list[str]:
        return [
            *(f"{count:,}" for count in (row.calls, row.jobs)),
            *(f"{count:,}" for count in (row.plain_input_tokens, row.cache_read_tokens)),
            f"{row.cache_write_5m_tokens + row.cache_write_1h_tokens:,}",
            f"{row.output_tokens:,}",
            f"${row.cost_usd:,.{digits}f}",
            *([f"${row.list_usd:,.{digits}f}"] if negotiated else []),
            f"${row.estimated_usd:,.{digits}f}" if row.estimated_usd else "",
            f"{row.unpriced:,}" if row.unpriced else "",
        ]

    tokens = ["plain input tokens", "read from caches", "written to caches", "output tokens"]
    listed = ["at list price"] if negotiated else []
    headings = [*by, "calls", "jobs", *tokens, "cost", *listed, "at most, beside", "unpriced"]
    named = [
        [
            value or ("in flight" if name in ("outcome", "role") else "(none)")
            for name, value in zip(by, row.group, strict=True)
        ]
        for row in rows
    ]
    last = ["total", *[""] * (len(by) - 1)] if by else []
    return _table(
        headings,
        [[*names, *cells(row)] for names, row in zip(named, rows, strict=True)],
        [*last, *cells(total)],
        words=len(by),
    )


def _roles_table(found: Sequence[CostRow]) -> str:
    """Return the table of costs by kind of call."""
    ordered = sorted(found, key=lambda row: list(_ROLES).index(row.group[0]))
    return _table(
        ["calls that are", "", "calls", "cost", "at most, beside"],
        [
            [
                *_ROLES[row.group[0]],
                f"{row.calls:,}",
                usd(row.cost_usd),
                usd(row.estimated_usd) if row.estimated_usd else "",
            ]
            for row in ordered
        ],
        words=2,
    )


def _answered_table(found: Sequence[AnswerSaving]) -> str:
    """Return the table of savings by the response cache, by class and model."""
    kinds = sorted({one.group[1:] for one in found})
    rows = []
    for kind in kinds:
        of = [one for one in found if one.group[1:] == kind]
        hits, unpriced = sum(one.hits for one in of), sum(one.unpriced for one in of)
        saved = sum((one.saved_usd for one in of), Decimal(0))
        rows.append([*kind, f"{hits:,}", usd(saved), f"{unpriced:,}" if unpriced else ""])
    return _table(["class", "model", "answered", "saved", "unpriced"], rows, words=2)


def _savings_table(found: Sequence[CacheSaving]) -> str:
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
    return _table(
        ["model", "tokens read", "saved by them", "tokens written", "surcharge on them", "saved in all"], rows
    )
