"""`trivet costs`: the costs of calls. `trivet costs reprice`: price them again by today's list, and record that."""

import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trivet.cli import options, output, watching
from trivet.cli.file_options import FileOptions
from trivet.cli.options import DEFAULT_SINCE, JsonExact, Since, Until, period
from trivet.cli.output import Column, print_error, print_line, print_table, print_whole, said_lines, table_lines
from trivet.cli.progress import bar
from trivet.json_objects import COST_FIGURES, as_json, cost_figures, costs_object
from trivet.times import ago, iso, moment
from trivet_tasks.errors import BrokerUnavailable, InvalidRequest, StoreUnavailable

if TYPE_CHECKING:
    from trivet.admin import AnswerSaving, CacheSaving, CostReport, CostRow, Repricing, SpendRate, Tally, Unpriced

_STANDARD_OUTPUT = "-"
_MODELS_NAMED = 5

group = typer.Typer(cls=FileOptions)


@group.callback(invoke_without_command=True)
def costs(
    asked: typer.Context,
    by: Annotated[
        str,
        typer.Option(
            help="One or several, by comma: route, model, provider, class, batch, tenant, tag:NAME, hour, day, month, outcome, "
            "purpose (job, probe, hedge), role (result, or why the call was made in vain)."
        ),
    ] = "route",
    since: Since = DEFAULT_SINCE,
    until: Until = None,
    as_json: JsonExact = False,
    csv: Annotated[str | None, typer.Option(help="Write CSV to this file; - prints it.", metavar="FILE")] = None,
    html: Annotated[
        str | None,
        typer.Option(help="Write one self-contained page with plots to this file; - prints it.", metavar="FILE"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Redraw it until Ctrl-C; with --json one line for each reading.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings of --watch.")] = 5.0,
) -> None:
    """Costs of calls since a time. Calls in flight or without a known end are estimated and summed apart."""
    if asked.invoked_subcommand is not None:
        sources = map(asked.get_parameter_source, asked.params)
        if any(source is not None and source.name != "DEFAULT" for source in sources):
            raise typer.BadParameter("options come after the sub-command.")
        return
    if sum((as_json, csv is not None, html is not None)) > 1:
        raise typer.BadParameter("--json, --csv and --html do not go together.")
    if watch and (csv is not None or html is not None):
        raise typer.BadParameter("--watch goes with the table or with --json.")
    names = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    with options.admin() as admin:
        start, end = period(since, until, admin.now())
        if watch:

            def read() -> "tuple[CostReport, SpendRate]":
                start, end = period(since, until, admin.now())
                return admin.costs.report(names, since=start, until=end), admin.costs.rate()

            watching.watch(CostWatch(read), interval, as_json=as_json)
            return
        if html is not None:
            overview = admin.costs.overview(names, since=start, until=end)
        else:
            report = admin.costs.report(names, since=start, until=end)
    if html is not None:
        from trivet.costs_page.page import page

        _write(html, page(overview))
    elif csv is not None:
        lines = [[*row.group, *cost_figures(row).values()] for row in (report.rows if report.by else [report.total])]
        _write(csv, output.as_csv([*report.by, *COST_FIGURES], lines))
    elif as_json:
        output.print_json(costs_object(report))
    else:
        for line in report_lines(report, output.room()):
            print_whole(line)


class CostWatch:
    """Reads the costs and the present spending again and again; while the database is away it keeps the last reading.

    Args:
        read: reads both.
    """

    title = "trivet costs"

    def __init__(self, read: "Callable[[], tuple[CostReport, SpendRate]]") -> None:
        self._read = read
        self._last: tuple[CostReport, SpendRate] | None = None
        self._impairment = ""

    def look(self) -> None:
        """Read them once more. A database that does not answer is shown."""
        try:
            self._last, self._impairment = self._read(), ""
        except (StoreUnavailable, BrokerUnavailable) as error:
            self._impairment = str(error)

    def lines(self, room: int | None) -> list[Text]:
        """Return the present spending and, below it, the report."""
        lines = said_lines(self._impairment, "bold red", room=room) if self._impairment else []
        if self._last is None:
            return lines
        report, rate = self._last
        return [*lines, *said_lines(rate_words(rate), "bold", room=room), Text(), *report_lines(report, room)]

    def as_json(self) -> str:
        """Return one line; `impairment` gives the reason if it is not current."""
        found: dict[str, Any] = {"impairment": self._impairment or None}
        if self._last:
            report, rate = self._last
            now = {"usd_per_hour": rate.usd_per_hour, "by_route": rate.by_route, "over_s": round(rate.over_s, 1)}
            found = {**costs_object(report), "now": now, **found}
        return as_json(found)


def rate_words(rate: "SpendRate") -> str:
    """Return the present spending as a sentence."""
    if not rate.by_route:
        return f"Now: no call ended in the last {ago(rate.over_s)}."
    routes = sorted(rate.by_route.items(), key=lambda item: -item[1])
    named = f" ({', '.join(f'{route} {output.usd(usd)}' for route, usd in routes)})" if len(routes) > 1 else ""
    return f"Now: {output.usd(rate.usd_per_hour)} an hour{named}, by the calls of the last {ago(rate.over_s)}."


@group.command()
def reprice(
    since: Since = DEFAULT_SINCE,
    until: Until = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the new costs. Without it nothing is written.")] = False,
    as_json: JsonExact = False,
) -> None:
    """Price settled calls again and show the difference. Each is priced by the prices of its day as they are known
    today.

    Workers go on meanwhile. Safe to interrupt: run it again.
    """
    with options.admin() as admin:
        start, end = period(since, until, admin.now())
        steps = admin.costs.reprice(since=start, until=end, apply=apply)
        done = next(steps)
        try:
            with bar("Pricing again", done.calls) as advance:
                for done in steps:
                    advance(done.total.calls, f"{done.total.changed:,} cost something else")
        except KeyboardInterrupt:
            if apply:
                print_error("Interrupted. What was written so far stays written: the same command goes on.")
            _report_repricing(done, as_json=as_json, complete=False)
            raise
    _report_repricing(done, as_json=as_json, complete=True)


def _write(target: str, content: str) -> None:
    if target == _STANDARD_OUTPUT:
        sys.stdout.write(content)
        return
    try:
        Path(target).write_text(content, "utf-8", newline="")
    except OSError as error:
        hint = "Name another file, or - to print it."
        raise InvalidRequest(f"{target} cannot be written: {error.strerror}.", field="file", hint=hint) from None
    print_error(f"Written to {target}.")


def report_lines(report: "CostReport", room: int | None) -> list[Text]:
    """Return a report for a person, with notes on its figures, for a terminal of so many columns; None: at full width."""
    total, unpriced, savings = report.total, report.unpriced, report.prompt_cache

    def said(line: str, style: str = "dim") -> list[Text]:
        return said_lines(line, style, room=room)

    if not total.calls:
        lines = said(f"No call was made since {moment(report.span.since)}.", "")
        return [*lines, *(said(_answered_line(report.answered)) if report.answered else [])]
    names, digits = report.by, report.decimals
    estimated = total.estimated_usd > 0
    negotiated = any(row.list_usd != row.cost_usd for row in (total, *report.rows))

    def row(group: list[str], of: "CostRow") -> list[str]:
        cost, listed, at_most = (f"${usd:,.{digits}f}" for usd in (of.cost_usd, of.list_usd, of.estimated_usd))
        written = of.cache_write_5m_tokens + of.cache_write_1h_tokens
        return [
            *group, f"{of.calls:,}", f"{of.jobs:,}", f"{of.input_tokens:,}", _count(of.cache_read_tokens), _count(written),
            f"{of.output_tokens:,}", cost, listed if negotiated else "", at_most if estimated else "", f"{of.unpriced:,}" if unpriced else "",
        ]  # fmt: skip

    lines = table_lines(
        [
            *(Column(name.upper(), cut=True) for name in names),
            Column("CALLS", right=True), Column("JOBS", right=True, spare=1),
            Column("INPUT", right=True, spare=2), Column("CACHE READ", right=True, spare=3, optional=True),
            Column("CACHE WRITE", right=True, spare=4, optional=True), Column("OUTPUT", right=True, spare=2),
            Column("COST", right=True), Column("AT LIST PRICE", right=True, spare=1, optional=True),
            Column("ESTIMATED", right=True, optional=True), Column("UNPRICED", right=True, optional=True),
        ],
        [row([_named(*pair) for pair in zip(names, found.group, strict=True)], found) for found in report.rows],
        row(["total", *[""] * (len(names) - 1)] if names else [], total),
        room=room,
    )  # fmt: skip
    cached = " CACHE READ and CACHE WRITE are parts of INPUT." if total.plain_input_tokens < total.input_tokens else ""
    lines += said(f"Since {moment(report.span.since)}; INPUT and OUTPUT are tokens.{cached}")
    if estimated:
        lines += said("Estimated: at most, for calls in flight and calls whose fate is not known. Not in COST.")
    if total.approximate_usd:
        lines += said(
            f"Of COST ${total.approximate_usd:,.{digits}f} is approximate: no list names what was called, so its model's price "
            "was taken."
        )
    if savings:
        lines += said(_savings_line(savings))
    if report.answered:
        lines += said(_answered_line(report.answered))
    if unpriced:
        lines += said(_unpriced_line(total.unpriced, unpriced), "yellow")
    return lines


def _count(tokens: int) -> str:
    return f"{tokens:,}" if tokens else ""


def _savings_line(savings: "Sequence[CacheSaving]") -> str:
    """Return the saving of the providers' prompt caches, over all days and models."""
    saved = sum((one.saved_usd - one.surcharge_usd for one in savings), Decimal(0))
    read, written = (sum(getattr(one, name) for one in savings) for name in ("read_tokens", "written_tokens"))
    return (
        f"Prompt caches saved ${saved:,.4f}, against the same tokens as plain input: {read:,} were read from them, {written:,} written."
        if saved >= 0
        else f"Prompt caches cost ${-saved:,.4f} more than they saved: {read:,} tokens were read from them, {written:,} written."
    )


def _answered_line(saving: "AnswerSaving") -> str:
    """Return the saving of the response cache, as a sentence."""
    jobs = f"{saving.hits:,} job{'s' if saving.hits != 1 else ''}"
    lacking = f" ({saving.unpriced:,} of them unpriced)" if saving.unpriced else ""
    return f"The response cache answered {jobs} without a call and saved {output.usd(saving.saved_usd)}{lacking}."


def _unpriced_line(calls: int, found: "Sequence[Unpriced]") -> str:
    """Return the number of calls that no sum includes, with their models."""
    named = [f"{one.model} (as {one.wire_model} on {one.provider}) {one.calls:,}" for one in found[:_MODELS_NAMED]]
    rest = f", and {len(found) - _MODELS_NAMED:,} more" if len(found) > _MODELS_NAMED else ""
    return f"Unpriced: no price is known for {calls:,} call{'s' if calls != 1 else ''}, and COST lacks them: {', '.join(named)}{rest}."


def _named(by: str, group: str) -> str:
    return group or ("in flight" if by in ("outcome", "role") else "(none)" if by.startswith("tag:") else f"no {by}")


def _report_repricing(done: "Repricing", *, as_json: bool, complete: bool) -> None:
    """Print the result of pricing again. `complete`: it was not interrupted."""
    total = done.total
    groups = sorted(done.groups.items(), key=lambda item: (-abs(item[1].after_usd - item[1].before_usd), item[0]))
    if as_json:
        output.print_json(
            {
                "since": iso(done.span.since),
                "until": iso(done.span.until),
                "version": done.version,
                "applied": done.applied,
                "complete": complete,
                "rows": [{"model": model, "route": route, **_tally(tally)} for (model, route), tally in groups],
                "total": _tally(total),
                "without_terms": done.without_terms,
                "not_in_force": done.not_in_force,
            }
        )
        return
    _print_repricing(done, [(group, tally) for group, tally in groups if tally.changed], total)


def _print_repricing(done: "Repricing", changed: "list[tuple[tuple[str, str], Tally]]", total: "Tally") -> None:
    if changed:
        digits = max(
            _decimals(usd) for of in [total, *(of for _, of in changed)] for usd in (of.before_usd, of.after_usd)
        )

        def row(model: str, route: str, of: "Tally") -> list[str]:
            return [
                model,
                route,
                f"{of.calls:,}",
                f"{of.changed:,}",
                f"${of.before_usd:,.{digits}f}",
                f"${of.after_usd:,.{digits}f}",
                f"{of.after_usd - of.before_usd:+,.{digits}f}",
            ]

        print_table(
            [
                Column("MODEL", cut=True), Column("ROUTE", cut=True), Column("CALLS", right=True, spare=1),
                Column("CHANGED", right=True), Column("BEFORE", right=True), Column("AFTER", right=True),
                Column("DIFFERENCE", right=True),
            ],
            [row(model, route, tally) for (model, route), tally in changed],
            total=row("total", "", total),
        )  # fmt: skip
    else:
        print_line(f"{_calls(total.calls)} priced again: none costs anything else now.")
    print_line(f"Since {moment(done.span.since)}, by {done.version}.", style="dim")
    if total.unpriced_before > total.unpriced_after:
        print_line(f"{_calls(total.unpriced_before - total.unpriced_after)} priced for the first time.")
    if total.unpriced_after:
        print_line(f"{_calls(total.unpriced_after)} without a price: `trivet costs` names the models.", style="yellow")
    if done.without_terms:
        print_line(
            f"{_calls(done.without_terms)} left as before: the terms of the price are not on record.",
            style="yellow",
        )
    if done.not_in_force:
        print_line(
            f"Not used: the prices in this configuration of {', '.join(done.not_in_force)}, which are not in force. "
            "`trivet config apply` puts them in force.",
            style="yellow",
        )
    if changed:
        print_line("Written." if done.applied else "Nothing was written: --apply writes it.")


def _calls(count: int) -> str:
    return f"{count:,} call{'s' if count != 1 else ''}"


def _decimals(amount: Decimal) -> int:
    return max(2, -int(amount.normalize().as_tuple().exponent))


def _tally(tally: "Tally") -> dict[str, Any]:
    return {**tally._asdict(), "difference_usd": tally.after_usd - tally.before_usd}
