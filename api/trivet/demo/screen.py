"""Showing the demo: a live screen on a terminal, plain lines elsewhere, and the summary at the end."""

import errno
from collections.abc import Iterator
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

from trivet.demo.documents import MODEL
from trivet.demo.ledger import DemoResult, Ledger
from trivet.demo.watch import Condition, Line, State
from trivet_tasks.states import RouteState

EVERY_S = 3.0

WIDEST = 104
"""Columns used at most: lines that are read at a glance."""
_OTHER_LINES = 13
"""All of the screen but the journal, with three routes."""
_STYLES: dict[str, str] = {RouteState.HEALTHY: "green", RouteState.LIMITED: "yellow", RouteState.OPEN: "red"}


class View(Protocol):
    """Something that shows states."""

    def starting(self, what: str) -> None:
        """Report the process being started or stopped, before and after there is a state to show."""

    def show(self, state: State) -> None:
        """Show the state; called a few times a second."""

    def finish(self, state: State | None) -> None:
        """End the display; leave the final state on the terminal. None: the run was interrupted."""


class PlainView:
    """Prints each event as it happens, and a line of status every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = EVERY_S

    def starting(self, what: str) -> None:
        """Print one line."""
        self._print(what)

    def show(self, state: State) -> None:
        """Print the new lines of the journal, and the state when it is time for it again."""
        self._journal(state, state.elapsed_s)
        if state.reading is not None and state.elapsed_s >= self._next_s and state.journal.all_printed:
            self._next_s = state.elapsed_s + EVERY_S
            self._print(_status(state))

    def finish(self, state: State | None) -> None:
        """Print the lines that were not printed yet."""
        if state is not None:
            self._journal(state, float("inf"))

    def _journal(self, state: State, now_s: float) -> None:
        for line in state.journal.unprinted(now_s):
            self._print(f"{line.at_s:6.1f} s  {line.who + ':':<7} {line}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _status(state: State) -> str:
    reading = state.reading
    assert reading is not None
    routes = (
        f"{name} {state.watch.conditions[name].word} {route.tally.succeeded:,}"
        for name, route in reading.routes.items()
    )
    parts = [
        f"{state.elapsed_s:6.1f} s  {reading.progress.ended:,}/{state.jobs:,}",
        f"{state.watch.per_s:.0f}/s",
        *routes,
        f"failovers {reading.failovers:,}",
        f"throttled {state.watch.throttled_s:.1f} s",
        f"${reading.cost_usd:,.4f}",
    ]
    return " · ".join(parts)


class LiveScreen:
    """Draws in place, and leaves the whole journal behind at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._status: Status | None = None
        self._on_terminal = console.file.isatty()

    def starting(self, what: str) -> None:
        """Show a line that moves."""
        if self._status is None:
            self._status = self._console.status(what, spinner="dots", spinner_style="dim")
            self._status.start()
        else:
            self._status.update(what)

    def show(self, state: State) -> None:
        """Draw the screen anew. OSError when the terminal is gone: rich would take it for a file and draw nothing."""
        if self._on_terminal and not self._console.file.isatty():
            raise OSError(errno.EIO, "the terminal is gone")
        self._stop_status()
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._drawn(state), refresh=True)

    def finish(self, state: State | None) -> None:
        """Put the terminal back; print what happened from the first line to the last."""
        self._stop_status()
        if self._live is not None:
            self._live.stop()
            self._live = None
        if state is not None:
            self._console.print(_head(state), Text(), _journal(state.journal.lines), sep="\n")

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _drawn(self, state: State) -> RenderableType:
        width = min(WIDEST, self._console.width)
        room = max(3, self._console.height - _OTHER_LINES)
        body: list[RenderableType] = [_head(state), Text(), _progress(state, width), Text()]
        if state.reading is not None:
            body += [_routes(state, width), Text(), _sums(state), Text()]
        body.append(_journal(state.journal.lines[-room:]))
        return Group(*body)


def _head(state: State) -> Text:
    return Text.assemble(
        ("Trivet demo", "bold"), (f"  {state.jobs:,} documents · {MODEL} · simulated providers", "dim")
    )


def _progress(state: State, width: int) -> RenderableType:
    reading = state.reading
    if reading is None:
        done, said = state.submitted, f"{state.submitted:,} of {state.jobs:,} submitted"
    else:
        done = reading.progress.ended
        said = f"{done:,} of {state.jobs:,}  {state.watch.per_s:3.0f}/s  {state.elapsed_s:5.1f} s"
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column()
    line.add_column(justify="right", no_wrap=True)
    bar = ProgressBar(state.jobs, done, width=width - len(said) - 4, complete_style="green", finished_style="green")
    line.add_row(bar, said)
    return line


def _routes(state: State, width: int) -> RenderableType:
    assert state.reading is not None
    total = sum(route.tally.succeeded for route in state.reading.routes.values())
    table = Table(box=None, pad_edge=False, header_style="dim", width=width, padding=(0, 2, 0, 0))
    table.add_column("route", no_wrap=True, ratio=1)
    table.add_column("state", no_wrap=True, min_width=12)
    for heading, least in (("done", 5), ("share", 5), ("in flight", 9), ("failed over", 11), ("cost", 7)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=least)
    for name, route in state.reading.routes.items():
        tally = route.tally
        table.add_row(
            name,
            _condition(state.watch.conditions.get(name), state.reading.at),
            f"{tally.succeeded:,}",
            f"{tally.succeeded / total:.0%}" if total else "",
            f"{tally.running:,}",
            f"{tally.left:,}",
            f"${tally.cost_usd:,.4f}",
        )
    return table


def _condition(condition: Condition | None, now: float) -> Text:
    if condition is None:
        return Text()
    since = f" {now - condition.since:.0f} s" if condition.word != RouteState.HEALTHY else ""
    return Text(f"{condition.word}{since}", style=_STYLES.get(condition.word, ""))


def _sums(state: State) -> Text:
    assert state.reading is not None
    reading, watch = state.reading, state.watch
    progress = reading.progress
    line = Text.assemble(
        f"waiting {progress.waiting:,}", ("  ·  ", "dim"),
        f"failovers {reading.failovers:,}", ("  ·  ", "dim"),
        (f"throttled {watch.throttled_s:.1f} s", "bold yellow" if watch.throttled else ""), ("  ·  ", "dim"),
        f"cost ${reading.cost_usd:,.4f}",
    )  # fmt: skip
    if progress.failed or progress.expired:
        line.append(f"  ·  failed {progress.failed + progress.expired:,}", style="red")
    return line


def _journal(lines: list[Line]) -> RenderableType:
    shown = Text(no_wrap=True, overflow="ellipsis")
    for number, line in enumerate(lines):
        shown.append("\n" if number else "")
        shown.append(f"{line.at_s:5.1f} s  {line.who:<6}  ", style="dim")
        shown.append(str(line), style="cyan" if line.who == "demo" else "")
    return shown


def as_object(result: DemoResult) -> dict[str, Any]:
    """Return the object that `--json` prints. Amounts are decimals as strings, times are seconds."""
    ledger = result.ledger
    return {
        "jobs": ledger.jobs,
        "succeeded": ledger.succeeded,
        "failed": ledger.failed,
        "expired": ledger.expired,
        "lost": ledger.lost,
        "doubled": ledger.doubled,
        "attempts": ledger.attempts,
        "failovers": ledger.failovers,
        "throttled_s": round(result.throttled_s, 1),
        "cost_usd": format(ledger.cost_usd, "f"),
        "seconds": round(result.seconds, 1),
        "first_token_s": round(result.streamed.first_token_s, 3),
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


def print_summary(console: Console, result: DemoResult) -> None:
    """Print the table by route and the totals below it."""
    ledger = result.ledger
    console.print()
    console.print(_by_route(ledger))
    console.print()
    for line in _lines(result):
        console.print(line, soft_wrap=not console.is_terminal)  # a file gets whole lines


def _lines(result: DemoResult) -> Iterator[Text]:
    ledger = result.ledger
    yield _headline(result)
    yield Text(f"Jobs waited {result.throttled_s:.1f} s without any route that had room; no attempt was spent on that.")
    if probes := sum(route.probes for route in ledger.routes.values()):
        yield Text(f"{probes} probes of one token found out when routes were back; no job was spent on that.")
    for said in ledger.mismatches:
        yield Text(f"The books are wrong: {said}.", style="bold red")
    if not ledger.mismatches:
        yield Text(f"Each of the {ledger.calls:,} calls in the simulator's log has its one row in the ledger.")
    if ledger.estimated_usd:
        yield Text(f"Calls whose fate is not known may have cost ${ledger.estimated_usd:,.4f} more at most.")
    for said in result.streamed.lines():
        yield Text(said, style="bold red" if result.streamed.error else "")
    if result.left_behind:
        yield Text(f"Processes left behind: {', '.join(map(str, result.left_behind))}.", style="bold red")
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


def _headline(result: DemoResult) -> Text:
    ledger = result.ledger
    counts = [f"{ledger.succeeded:,} of {ledger.jobs:,} jobs succeeded in {result.seconds:.1f} s"]
    counts += [
        f"{number:,} {word}" for word, number in (("failed", ledger.failed), ("expired", ledger.expired)) if number
    ]
    said = f"{', '.join(counts)}; lost: {ledger.lost}, doubled: {ledger.doubled}."
    good = ledger.succeeded == ledger.jobs and not (ledger.lost or ledger.doubled)
    return Text(said, style="bold green" if good else "bold red")
