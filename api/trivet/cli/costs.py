"""`trivet costs`: the costs of calls. `trivet costs reprice`: price them again by today's list, and record that."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trivet.cli import options, output
from trivet.cli.options import DEFAULT_SINCE, period
from trivet.cli.output import print_error
from trivet.cli.progress import bar
from trivet_tasks.errors import InvalidRequest

STANDARD_OUTPUT = "-"

app = typer.Typer()


def register(parent: typer.Typer) -> None:
    """Add the commands."""
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
    """Costs of calls since a time. Calls in flight or without a known end are estimated and summed apart."""
    if asked.invoked_subcommand is not None:
        sources = map(asked.get_parameter_source, asked.params)
        if any(source is not None and source.name != "DEFAULT" for source in sources):
            raise typer.BadParameter("options come after the sub-command.")
        return
    if sum((as_json, csv is not None, html is not None)) > 1:
        raise typer.BadParameter("--json, --csv and --html do not go together.")
    from trivet.cli import costs_view

    names = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    with options.admin() as admin:
        span = period(since, until, admin.now())
        if html is not None:
            overview = admin.costs.overview(names, since=span.since, until=span.until)
        else:
            report = admin.costs.report(names, since=span.since, until=span.until)
    if html is not None:
        from trivet.costs_page.page import page

        _write(html, page(overview))
    elif csv is not None:
        _write(csv, costs_view.as_csv(report))
    elif as_json:
        output.print_json(costs_view.as_object(report))
    else:
        costs_view.show(report)


@app.command()
def reprice(
    since: Annotated[
        str, typer.Option(help="Calls since: 7d, 24h, or a moment in ISO 8601 (UTC where it names no zone).")
    ] = DEFAULT_SINCE,
    until: Annotated[str | None, typer.Option(help="The end, as for --since; that moment is not in it.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the new costs down; else nothing is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings, exact.")] = False,
) -> None:
    """Price settled calls again, each by the prices of its day as they are known today, and show the difference.

    Workers go on meanwhile. Safe to interrupt: run it again.
    """
    from trivet.cli import costs_view

    with options.admin() as admin:
        span = period(since, until, admin.now())
        steps = admin.costs.reprice(since=span.since, until=span.until, apply=apply)
        done = next(steps)
        try:
            with bar("Pricing again", done.calls) as advance:
                for done in steps:
                    advance(done.total.calls, f"{done.total.changed:,} cost something else")
        except KeyboardInterrupt:
            if apply:
                print_error("Interrupted. What was written so far stays written: the same command goes on.")
            costs_view.report_repricing(done, as_json=as_json, complete=False)
            raise
    costs_view.report_repricing(done, as_json=as_json, complete=True)


def _write(target: str, content: str) -> None:
    if target == STANDARD_OUTPUT:
        sys.stdout.write(content)
        return
    try:
        Path(target).write_text(content, "utf-8", newline="")
    except OSError as error:
        raise InvalidRequest(f"{target} cannot be written: {error.strerror}.", field="file") from None
    print_error(f"Written to {target}.")
