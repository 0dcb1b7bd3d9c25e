"""`trivet costs reprice`: what settled calls would cost by today's prices, and writing it down."""

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import context
from trivet.times import moment

if TYPE_CHECKING:
    from trivet_store.database.engine import Store
    from trivet_store.reports.costs import Span
    from trivet_store.repricing import Extent, Tally
    from trivet_tasks.prices.price_book import PriceBook

DEFAULT_SINCE = "30d"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reprice)


def reprice(
    since: Annotated[
        str, typer.Option(help="Calls since: 7d, 24h, or a moment in ISO 8601 (UTC where it names no zone).")
    ] = DEFAULT_SINCE,
    until: Annotated[str | None, typer.Option(help="The end, as for --since; that moment is not in it.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the new costs down; else nothing is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings, exact.")] = False,
) -> None:
    """Price settled calls again, each by the prices of its day as they are known today, and show the difference.

    Workers go on meanwhile. It may be broken off and run again.
    """
    from trivet.cli.costs import span_of
    from trivet.cli.tables import print_error
    from trivet_store import repricing
    from trivet_tasks.errors import InvalidRequest
    from trivet_tasks.prices.price_book import PriceBook

    book = PriceBook()
    tallies: dict[tuple[str, str], Tally] = defaultdict(repricing.Tally)
    with context.client() as client:
        store = client._connections.store
        with store.read() as connection:
            span = span_of(since, until, store.now(connection))
        if apply and (newer := repricing.priced_by_newer(store, book, span)):
            raise InvalidRequest(
                f"Calls of this span were priced by {', '.join(newer)}; here is {book.version}, which is older.",
                hint="Nothing was written. Upgrade Trivet and genai-prices on this machine first.",
            )
        extent = repricing.extent(store, span)
        try:
            _run(store, book, span, extent, tallies, apply=apply)
        except KeyboardInterrupt:
            if apply:
                print_error("Interrupted. What was written so far stays written: the same command goes on.")
            _report(book, span, extent, tallies, apply=apply, as_json=as_json, complete=False)
            raise
    _report(book, span, extent, tallies, apply=apply, as_json=as_json, complete=True)


def _run(
    store: "Store",
    book: "PriceBook",
    span: "Span",
    extent: "Extent",
    tallies: "dict[tuple[str, str], Tally]",
    *,
    apply: bool,
) -> None:
    from trivet.cli.progress import bar
    from trivet_store import repricing

    done = 0
    with bar("Pricing again", extent.calls) as advance:
        for page in repricing.reprice(store, book, span, apply=apply):
            for group, tally in page.items():
                tallies[group] += tally
                done += tally.calls
            advance(done, f"{sum(tally.changed for tally in tallies.values()):,} cost something else")


def _report(
    book: "PriceBook",
    span: "Span",
    extent: "Extent",
    tallies: "dict[tuple[str, str], Tally]",
    *,
    apply: bool,
    as_json: bool,
    complete: bool,
) -> None:
    from trivet_store.repricing import Tally

    total = sum(tallies.values(), Tally())
    groups = sorted(tallies.items(), key=lambda item: (-abs(item[1].after_usd - item[1].before_usd), item[0]))
    if as_json:
        context.print_json(
            {
                "since": span.since,
                "until": span.until,
                "version": book.version,
                "applied": apply,
                "complete": complete,
                "rows": [{"model": model, "route": route, **_figures(tally)} for (model, route), tally in groups],
                "total": _figures(total),
                "without_terms": extent.without_terms,
            }
        )
        return
    _print(book, span, extent, [(group, tally) for group, tally in groups if tally.changed], total, apply=apply)


def _print(
    book: "PriceBook",
    span: "Span",
    extent: "Extent",
    changed: "list[tuple[tuple[str, str], Tally]]",
    total: "Tally",
    *,
    apply: bool,
) -> None:
    from trivet.cli.tables import Column, print_line, print_table

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
    print_line(f"Since {moment(span.since)}, by {book.version}.", style="dim")
    if total.unpriced_before > total.unpriced_after:
        print_line(f"{_calls(total.unpriced_before - total.unpriced_after)} priced for the first time.")
    if total.unpriced_after:
        print_line(f"{_calls(total.unpriced_after)} without a price: `trivet costs` names the models.", style="yellow")
    if extent.without_terms:
        print_line(
            f"{_calls(extent.without_terms)} left as before: a row from before schema 0004 does not keep what it was "
            "priced by.",
            style="yellow",
        )
    if changed:
        print_line("Written." if apply else "Nothing was written: --apply writes it.")


def _calls(count: int) -> str:
    return f"{count:,} call{'s' if count != 1 else ''}"


def _decimals(amount: Decimal) -> int:
    return max(2, -int(amount.normalize().as_tuple().exponent))


def _figures(tally: "Tally") -> dict[str, Any]:
    return {**tally._asdict(), "difference_usd": tally.after_usd - tally.before_usd}
