"""`trivet costs`: what it cost. How it is written is in modules of its own, and so is `costs reprice`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import context, costs_reprice
from trivet.times import moment

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from trivet_store.reports.costs import Span

DEFAULT_SINCE = "30d"
STANDARD_OUTPUT = "-"

app = typer.Typer()


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    costs_reprice.register(app)
    parent.add_typer(app, name="costs")


@app.callback(invoke_without_command=True)
def costs(
    asked: typer.Context,
    by: Annotated[
        str,
        typer.Option(
            help="One or several, by comma: route, model, provider, class, batch, tenant, tag:NAME, day, outcome, "
            "purpose (job, probe, hedge), role (result, or why the call was made in vain)."
        ),
    ] = "route",
    since: Annotated[
        str, typer.Option(help="7d, 24h, or a moment in ISO 8601 (UTC where it names no zone).")
    ] = DEFAULT_SINCE,
    until: Annotated[str | None, typer.Option(help="The end, as for --since; that moment is not in it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings, exact.")] = False,
    csv: Annotated[str | None, typer.Option(help="Write CSV to this file; - prints it.", metavar="FILE")] = None,
    html: Annotated[
        str | None,
        typer.Option(help="Write one self-contained page with plots to this file; - prints it.", metavar="FILE"),
    ] = None,
) -> None:
    """What calls cost since a time. Calls in flight or without a known end are estimated, apart."""
    if asked.invoked_subcommand is not None:
        sources = map(asked.get_parameter_source, asked.params)
        if any(source is not None and source.name != "DEFAULT" for source in sources):
            raise typer.BadParameter("options stand after the sub-command.")
        return
    from trivet_store.database.planner import plan_freely
    from trivet_store.reports.cost_savings import ANSWERED_BY, answer_savings, cache_savings
    from trivet_store.reports.costs import summed, unpriced

    if sum((as_json, csv is not None, html is not None)) > 1:
        raise typer.BadParameter("--json, --csv and --html do not go together.")
    names = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    with context.client() as client, client._connections.store.read() as connection:
        plan_freely(connection)
        now = client._connections.store.now(connection)
        span = span_of(since, until, now)
        if html is not None:
            _write(html, _page(connection, names, span, now))
            return
        rows = summed(connection, names, span) if names else []
        (total,) = summed(connection, [], span)
        without = unpriced(connection, span)
        savings = cache_savings(connection, span)
        shared = [name for name in names if name in ANSWERED_BY]
        answered = answer_savings(connection, shared if as_json else [], span)
    if csv is not None:
        from io import StringIO

        from trivet.cli import costs_csv

        file = StringIO()
        costs_csv.write(file, names, rows if names else [total])
        _write(csv, file.getvalue())
    elif as_json:
        from trivet.cli import costs_figures
        from trivet.cli.costs_figures import figures

        found = [{**dict(zip(names, row.group, strict=True)), **figures(row)} for row in rows]
        context.print_json(
            {
                "since": span.since,
                "until": span.until,
                "by": names,
                "rows": found,
                "total": figures(total),
                "unpriced": [one._asdict() for one in without],
                "prompt_cache": [costs_figures.saving(one) for one in savings],
                "response_cache": [
                    {
                        **dict(zip(shared, one.group, strict=True)),
                        "hits": one.hits,
                        "saved_usd": one.saved_usd,
                        "unpriced": one.unpriced,
                    }
                    for one in answered
                ],
            }
        )
    else:
        from trivet.cli import costs_table

        costs_table.show(names, rows, total, without, span, savings, answered)


def span_of(since: str, until: str | None, now: float) -> "Span":
    """The span that two options name; it ends now where no end is given.

    Raises:
        InvalidRequest: one of them is not a time, or it ends before it begins.
    """
    from trivet.cli.spans import since as moment_of
    from trivet_store.reports.costs import Span
    from trivet_tasks.errors import InvalidRequest

    start = moment_of(since, now)
    end = now if until is None else moment_of(until, now, option="--until")
    if end < start:
        raise InvalidRequest(
            f"--until: {moment(end)} is before --since, {moment(start)}.",
            field="until",
            hint="A span counts back from now: --since 14d --until 7d is the week before last.",
        )
    return Span(start, end)


def _page(connection: "Connection", names: list[str], span: "Span", now: float) -> str:
    from trivet.cli.costs_figures import digits
    from trivet.costs_page.gather import gather
    from trivet.costs_page.page import page

    report = gather(connection, names, span)
    return page(report, now, digits(max(report.total.cost_usd, report.total.estimated_usd)))


def _write(target: str, content: str) -> None:
    from trivet.cli.tables import print_error
    from trivet_tasks.errors import InvalidRequest

    if target == STANDARD_OUTPUT:
        sys.stdout.write(content)
        return
    try:
        Path(target).write_text(content, "utf-8", newline="")
    except OSError as error:
        raise InvalidRequest(f"{target} cannot be written: {error.strerror}.", field="file") from None
    print_error(f"Written to {target}.")
