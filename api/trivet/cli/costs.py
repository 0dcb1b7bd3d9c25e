"""`trivet costs`: what it cost."""

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import context

if TYPE_CHECKING:
    from trivet_tasks.store.costs import CostRow

DEFAULT_SINCE = "30d"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(costs)


def costs(
    by: Annotated[
        str,
        typer.Option(
            help="One or several, by comma: route, model, provider, class, batch, tenant, day, outcome, purpose (job, probe, hedge)."
        ),
    ] = "route",
    since: Annotated[
        str, typer.Option(help="7d, 24h, or a moment in ISO 8601 (UTC where it names no zone).")
    ] = DEFAULT_SINCE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings, exact.")] = False,
) -> None:
    """What calls cost since a time. Calls in flight or without a known end are estimated, apart."""
    from trivet.cli.spans import since as moment_of
    from trivet_tasks.store.costs import Span, summed

    names = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    start = moment_of(since, time.time())
    with context.client() as client, client._connections.store.read() as connection:
        rows = summed(connection, names, Span(start)) if names else []
        (total,) = summed(connection, [], Span(start))
    if "day" in names:
        rows.sort(key=lambda row: row.group[names.index("day")])
    if as_json:
        found = [{**dict(zip(names, row.group, strict=True)), **_figures(row)} for row in rows]
        context.print_json({"since": start, "by": names, "rows": found, "total": _figures(total)})
    else:
        _print(names, rows, total, start)


def _print(names: list[str], rows: "list[CostRow]", total: "CostRow", start: float) -> None:
    from trivet.cli.tables import Column, print_line, print_table

    if not total.calls:
        print_line(f"No call was made since {context.moment(start)}.")
        return
    digits = _digits(max(total.cost_usd, total.estimated_usd))
    estimated, unpriced = total.estimated_usd > 0, total.unpriced > 0

    def row(group: list[str], of: "CostRow") -> list[str]:
        figures = [
            f"{of.calls:,}",
            f"{of.jobs:,}",
            f"{of.input_tokens:,}",
            f"{of.output_tokens:,}",
            f"${of.cost_usd:,.{digits}f}",
        ]
        if estimated:
            figures.append(f"${of.estimated_usd:,.{digits}f}")
        if unpriced:
            figures.append(f"{of.unpriced:,}")
        return [*group, *figures]

    print_table(
        [
            *(Column(name.upper(), cut=True) for name in names),
            Column("CALLS", right=True), Column("JOBS", right=True, spare=1),
            Column("INPUT", right=True, spare=2), Column("OUTPUT", right=True, spare=2), Column("COST", right=True),
            *([Column("ESTIMATED", right=True)] if estimated else ()),
            *([Column("UNPRICED", right=True)] if unpriced else ()),
        ],
        [row([_named(*pair) for pair in zip(names, found.group, strict=True)], found) for found in rows],
        total=row(["total", *[""] * (len(names) - 1)] if names else [], total),
    )  # fmt: skip
    print_line(f"Since {context.moment(start)}; INPUT and OUTPUT are tokens.", style="dim")
    if estimated:
        print_line(
            "Estimated: at most, for calls in flight and calls whose fate is not known. Not in COST.", style="dim"
        )
    if unpriced:
        print_line("Unpriced: calls that used tokens for which no price is known; COST lacks them.", style="yellow")


def _named(by: str, group: str) -> str:
    return group or ("in flight" if by == "outcome" else f"no {by}")


def _digits(largest: Decimal) -> int:
    """Decimals of every amount of the report, so that they stand under one another."""
    return 2 if largest >= 1_000 else 4 if largest >= 1 else 6


def _figures(row: "CostRow") -> dict[str, Any]:
    return {
        "calls": row.calls,
        "jobs": row.jobs,
        "input_tokens": int(row.input_tokens),
        "output_tokens": int(row.output_tokens),
        "cost_usd": row.cost_usd,
        "estimated_usd": row.estimated_usd,
        "unpriced": row.unpriced,
    }
