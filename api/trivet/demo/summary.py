"""The end of the demo: the table for people, the object for programs."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivet.demo.ledger import Ledger
from trivet.demo.run import Outcome


def as_object(outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints. Amounts are decimals as strings, times are seconds."""
    ledger = outcome.ledger
    return {
        "jobs": ledger.jobs,
        "succeeded": ledger.succeeded,
        "failed": ledger.failed,
        "expired": ledger.expired,
        "lost": ledger.lost,
        "doubled": ledger.doubled,
        "attempts": ledger.attempts,
        "failovers": ledger.failovers,
        "throttled_s": round(outcome.throttled_s, 1),
        "cost_usd": format(ledger.cost_usd, "f"),
        "seconds": round(outcome.seconds, 1),
        "by_route": {
            name: {
                "attempts": route.attempts,
                "succeeded": route.succeeded,
                "failed": route.failed,
                "cost_usd": format(route.cost_usd, "f"),
            }
            for name, route in sorted(ledger.routes.items())
        },
    }


def print_summary(console: Console, outcome: Outcome) -> None:
    """The table by route, and below it what it comes to."""
    ledger = outcome.ledger
    console.print()
    console.print(_by_route(ledger))
    console.print()
    for line in _lines(outcome):
        console.print(line, soft_wrap=not console.is_terminal)  # a file gets whole lines


def _lines(outcome: Outcome) -> Iterator[Text]:
    ledger = outcome.ledger
    yield _result(outcome)
    yield Text(
        f"Jobs waited {outcome.throttled_s:.1f} s without any route that had room; no attempt was spent on that."
    )
    if probes := sum(route.probes for route in ledger.routes.values()):
        yield Text(f"{probes} probes of one token found out when routes were back; no job was spent on that.")
    for said in ledger.mismatches:
        yield Text(f"The books are wrong: {said}.", style="bold red")
    if not ledger.mismatches:
        yield Text(f"Each of the {ledger.calls:,} calls in the simulator's log has its one row in the ledger.")
    if ledger.estimated_usd:
        yield Text(f"Calls whose fate is not known may have cost ${ledger.estimated_usd:,.4f} more at most.")
    if outcome.left_behind:
        yield Text(f"Processes left behind: {', '.join(map(str, outcome.left_behind))}.", style="bold red")
    else:
        yield Text("No process was left behind.")


def _by_route(ledger: Ledger) -> Table:
    table = Table(
        box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), show_footer=True, footer_style="bold"
    )
    routes = sorted(ledger.routes.items())
    succeeded = sum(route.succeeded for _, route in routes)
    limited = sum(route.limited for _, route in routes)
    failed = sum(route.failed for _, route in routes)
    table.add_column("route", "all", no_wrap=True)
    for heading, footer in (
        ("attempts", f"{ledger.attempts:,}"),
        ("succeeded", f"{succeeded:,}"),
        ("share", "100%" if succeeded else ""),
        ("429", f"{limited:,}"),
        ("failed", f"{failed - limited:,}"),
        ("failed over", f"{ledger.failovers:,}"),
        ("cost", f"${ledger.cost_usd:,.4f}"),
    ):
        table.add_column(heading, footer, justify="right", no_wrap=True)
    for name, route in routes:
        table.add_row(
            name,
            f"{route.attempts:,}",
            f"{route.succeeded:,}",
            f"{route.succeeded / succeeded:.0%}" if succeeded else "",
            f"{route.limited:,}",
            f"{route.failed - route.limited:,}",
            f"{route.left:,}",
            f"${route.cost_usd:,.4f}",
        )
    return table


def _result(outcome: Outcome) -> Text:
    ledger = outcome.ledger
    counts = [f"{ledger.succeeded:,} of {ledger.jobs:,} jobs succeeded in {outcome.seconds:.1f} s"]
    counts += [
        f"{number:,} {word}" for word, number in (("failed", ledger.failed), ("expired", ledger.expired)) if number
    ]
    said = f"{', '.join(counts)}; lost: {ledger.lost}, doubled: {ledger.doubled}."
    good = ledger.succeeded == ledger.jobs and not (ledger.lost or ledger.doubled)
    return Text(said, style="bold green" if good else "bold red")
