"""`trivet routes --watch`: the status of the routes, redrawn in place on a terminal, printed one below the other elsewhere."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from rich.console import Group
from rich.live import Live
from rich.text import Text

from trivet.admin import ClusterStatus
from trivet.cli import output
from trivet.cli.output import said_lines
from trivet.cli.routes_remarks import remarks, summary
from trivet.cli.routes_view import as_object, routes_table
from trivet.times import ago, moment
from trivet_tasks.errors import BrokerUnavailable, StoreUnavailable
from trivet_tasks.processes.signals import StopSignals, interrupt

SHORTEST_SLEEP_S = 0.05


class StatusWatch:
    """Reads the status again and again; while the database is away it keeps the last one.

    Args:
        read: reads the status.
    """

    def __init__(self, read: Callable[[], ClusterStatus]) -> None:
        self._read = read
        self._last: ClusterStatus | None = None
        self._seen_at = 0.0
        self._impairment = ""

    def look(self) -> None:
        """Read the status once more. A database that does not answer is shown.

        Raises:
            ConfigError, SchemaMismatch: the configuration or the database does not fit this Trivet.
        """
        try:
            self._last = self._read()
            self._seen_at = time.monotonic()
            self._impairment = self._last.impairment or ""
        except (StoreUnavailable, BrokerUnavailable) as error:
            self._impairment = str(error)

    def lines(self, room: int | None) -> list[Text]:
        """Return the lines to show: first waiting jobs and impairments, then the routes."""
        lines = said_lines(self._impairment, "bold red", room=room) if self._impairment else []
        status = self._last
        if status is None:
            return lines
        age_s = time.monotonic() - self._seen_at
        if self._impairment and not status.impairment:
            lines += said_lines(f"The status below was read {ago(age_s)} ago.", "red", room=room)
            status = replace(status, now=status.now + age_s)
        lines += [*summary(status, room), Text()]
        if status.routes:
            lines += routes_table(status, room)
        said = remarks(status, room)
        return [*lines, *([Text()] if said else []), *said]

    def as_json(self) -> str:
        """Return one line; `impairment` gives the reason if the status is not current."""
        found = as_object(self._last) if self._last else {}
        return output.as_json({**found, "impairment": self._impairment or None})


def watch(read: Callable[[], ClusterStatus], interval_s: float, *, as_json: bool) -> None:
    """Show the status every `interval_s` seconds until Ctrl-C or SIGTERM."""
    looking = StatusWatch(read)
    try:
        with StopSignals(interrupt):  # the terminal is restored after SIGTERM, too
            if as_json:
                for _ in _looks(looking, interval_s):
                    print(looking.as_json(), flush=True)  # noqa: T201
            elif output.out.is_terminal:
                _in_place(looking, interval_s)
            else:
                _one_below_the_other(looking, interval_s)
    except KeyboardInterrupt:
        return  # the way to end it


def _in_place(looking: StatusWatch, interval_s: float) -> None:
    """Draw on the terminal's other screen, so that the earlier text comes back at the end."""
    with Live(console=output.out, screen=True, auto_refresh=False, transient=True) as live:
        for _ in _looks(looking, interval_s):
            heading = f"trivet routes  {moment(time.time())}  every {interval_s:g} s, Ctrl-C ends"
            room, height = output.out.size
            lines = [Text(heading, style="dim"), *looking.lines(room)]
            if len(lines) > height:
                hidden = len(lines) - height + 1
                lines = [*lines[: height - 1], Text(f"… {hidden} more lines: the window is too low", style="dim")]
            for line in lines:
                line.no_wrap, line.overflow = True, "ellipsis"
            live.update(Group(*lines), refresh=True)


def _one_below_the_other(looking: StatusWatch, interval_s: float) -> None:
    for number, _ in enumerate(_looks(looking, interval_s)):
        if number:
            output.print_line("")
        output.print_line(moment(time.time()))
        for line in looking.lines(output.room()):
            output.print_whole(line)
        output.out.file.flush()


def _looks(looking: StatusWatch, interval_s: float) -> Iterator[None]:
    while True:
        began = time.monotonic()
        looking.look()
        yield
        time.sleep(max(SHORTEST_SLEEP_S, interval_s - (time.monotonic() - began)))
