"""The page: HTML, style and plots in one text that loads nothing."""

from decimal import Decimal
from html import escape
from importlib import resources
from importlib.metadata import version

from trivet.admin import CostOverview, CostReport, CostRow
from trivet.costs_page import tables
from trivet.costs_page.charts import COLOURS, Bar, bars, fewest, stacked, usd
from trivet.costs_page.days import Amount, plot
from trivet.times import moment

_MODELS_NAMED = 8
# nothing may be loaded, and nothing may run
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


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
        title, why, stacked(title, found.columns, fewest(found.series)), tables.answered(report.response_cache)
    )


def _savings(report: CostReport) -> str:
    why = "Tokens read from a provider's prompt cache, against the price of the same tokens as plain input."
    if not report.prompt_cache:
        return _section("Saved by prompt caches", f"{why} None were read or written.")
    found = plot((Amount(one.day, one.model, one.saved_usd) for one in report.prompt_cache), report.span)
    title = f"Saved by prompt caches, per {found.unit} by model"
    return _section(
        title, why, stacked(title, found.columns, fewest(found.series)), tables.savings(report.prompt_cache)
    )


def _failover(overview: CostOverview) -> str:
    others = [row for row in overview.roles if row.group[0] not in ("result", "")]
    lines = [
        Bar(
            tables.ROLES[row.group[0]][0],
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
        tables.roles(overview.roles),
    )


def _figures(report: CostReport) -> str:
    title = f"By {', '.join(report.by)}" if report.by else "In all"
    why = "“At most, beside” bounds what calls in flight and calls of unknown fate may cost; it is not in the cost."
    return _section(title, why, tables.figures(report.by, report.rows, report.total, report.decimals), kind="figures")
