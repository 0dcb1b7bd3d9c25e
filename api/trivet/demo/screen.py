"""The live screen: progress, routes, throttling and what happened last; it fits a terminal of 80 by 24."""

import errno

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

from trivet.demo.journal import Line
from trivet.demo.stage import MODEL
from trivet.demo.view import State
from trivet.demo.watch import Condition
from trivet_tasks.states import RouteState

WIDEST = 104
"""Columns used at most: lines that are read at a glance."""
_OTHER_LINES = 13
"""All of the screen but the journal, with three routes."""
_STYLES: dict[str, str] = {RouteState.HEALTHY: "green", RouteState.LIMITED: "yellow", RouteState.OPEN: "red"}


class LiveScreen:
    """Draws in place, and leaves the whole journal behind at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._status: Status | None = None
        self._on_terminal = console.file.isatty()

    def starting(self, what: str) -> None:
        """A line that moves while one waits."""
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
        head = Text.assemble(
            ("Trivet demo", "bold"), (f"  {state.jobs:,} documents · {MODEL} · simulated providers", "dim")
        )
        body: list[RenderableType] = [head, Text(), _progress(state, width), Text()]
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
