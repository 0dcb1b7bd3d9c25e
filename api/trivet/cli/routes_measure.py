"""`trivet routes measure`: real calls that measure time to the first token and tokens per second."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import options, output
from trivet.cli.options import Json
from trivet.cli.output import FAILED, Column, print_error, print_line, print_table, print_whole
from trivet.cli.progress import bar
from trivet.times import seconds

if TYPE_CHECKING:
    from trivet.admin import RouteMeasurement, Spread


def measure(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Routes; none: all in service.", show_default=False)
    ] = None,
    calls: Annotated[int, typer.Option(min=2, help="Calls per route.")] = 20,
    max_usd: Annotated[
        str, typer.Option(metavar="USD", help="Limit for all routes together; a call that might exceed it is not made.")
    ] = "0.05",
    model: Annotated[str | None, typer.Option(help="A model; none: one in use.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Measure routes with real calls: time to the first token, tokens per second, failures and cost.

    Workers make the calls, in turn of one token and of 128, one at a time on each route, under its limits. They are
    paid calls, booked as probes. Exits with 1 when a call failed or a route was not measured to the end. Ctrl-C prints
    the figures so far and exits with 130.
    """
    from trivet.admin import MeasurementInterrupted

    limit = options.amount_usd("--max-usd", max_usd)
    with options.admin() as admin:
        of_all = len(names) if names else sum(not route.drained for route in admin.routes.status().routes)
        with bar("Measuring", calls * of_all, unit="calls") as advance:
            made = count(1)
            interrupted: MeasurementInterrupted | None = None
            try:
                found = admin.routes.measure(
                    names or (), model=model, calls=calls, max_usd=limit, on_call=lambda: advance(next(made))
                )
            except MeasurementInterrupted as error:
                interrupted, found = error, error.measured
    if as_json:
        output.print_json({"max_usd": limit, "routes": [_as_object(one) for one in found]})
    else:
        _print(found)
    if interrupted:
        print_error("Interrupted. These are the figures so far; calls that were under way are booked when they end.")
        raise interrupted
    if not found or any(one.failed or one.stopped for one in found):
        raise typer.Exit(FAILED)


def _as_object(one: "RouteMeasurement") -> dict[str, Any]:
    spreads = {"first_token_s": one.first_token_s, "tokens_per_s": one.tokens_per_s}
    return {**asdict(one), **{name: spread and spread._asdict() for name, spread in spreads.items()}}


def _print(found: "Sequence[RouteMeasurement]") -> None:
    if not found:
        print_line("No route is in service that serves it.")
        return
    print_table(
        [
            Column("ROUTE"), Column("MODEL", spare=2), Column("CALLS", right=True), Column("FAILED", right=True),
            Column("FIRST TOKEN p50", right=True), Column("p95", right=True), Column("TOKENS/S p50", right=True),
            Column("p5", right=True), Column("COST", right=True),
        ],
        [
            [
                one.route, one.model or "", f"{one.calls}", f"{sum(one.failed.values())}", *_first_token(one.first_token_s),
                *_rate(one.tokens_per_s), output.usd(one.cost_usd),
            ]
            for one in found
        ],
    )  # fmt: skip
    for one in found:
        if one.failed:
            print_whole(f"{one.route}: failed: {', '.join(f'{outcome} {n}' for outcome, n in one.failed.items())}.")
        if one.note:
            print_whole(f"{one.route}: {one.note}.")
        if one.stopped:
            print_whole(f"{one.route}: stopped after {one.calls} calls: {one.stopped.rstrip('.')}.")


def _first_token(spread: "Spread | None") -> tuple[str, str]:
    return (seconds(spread.p50), seconds(spread.p95)) if spread else ("", "")


def _rate(spread: "Spread | None") -> tuple[str, str]:
    return (f"{spread.p50:.0f}", f"{spread.p5:.0f}") if spread else ("", "")
