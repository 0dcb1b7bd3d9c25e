"""Commands with `--watch`: a reading redrawn in place on a terminal, printed one below the other elsewhere."""

import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Group
from rich.live import Live
from rich.text import Text

from trivet.cli import output
from trivet.times import moment
from trivet_tasks.processes.signals import StopSignals, interrupt

SHORTEST_SLEEP_S = 0.05


class Watched(Protocol):
    """Something that is read again and again. It keeps its last reading while the database is away."""

    title: str
    """The command, as the heading names it."""

    def look(self) -> None:
        """Read it once more."""

    def lines(self, room: int | None) -> list[Text]:
        """Return the last reading for a terminal of so many columns; None: at full width."""

    def as_json(self) -> str:
        """Return the last reading as one line of JSON."""


def watch(watched: Watched, interval_s: float, *, as_json: bool) -> None:
    """Show a reading every `interval_s` seconds until Ctrl-C or SIGTERM."""
    try:
        with StopSignals(interrupt):  # the terminal is restored after SIGTERM, too
            if as_json:
                for _ in _looks(watched, interval_s):
                    print(watched.as_json(), flush=True)  # noqa: T201
            elif output.out.is_terminal:
                _in_place(watched, interval_s)
            else:
                _one_below_the_other(watched, interval_s)
    except KeyboardInterrupt:
        return  # the way to end it


def _in_place(watched: Watched, interval_s: float) -> None:
    """Draw on the terminal's other screen, so that the earlier text comes back at the end."""
    with Live(console=output.out, screen=True, auto_refresh=False, transient=True) as live:
        for _ in _looks(watched, interval_s):
            heading = f"{watched.title}  {moment(time.time())}  every {interval_s:g} s, Ctrl-C ends"
            room, height = output.out.size
            lines = [Text(heading, style="dim"), *watched.lines(room)]
            if len(lines) > height:
                hidden = len(lines) - height + 1
                lines = [*lines[: height - 1], Text(f"… {hidden} more lines: the window is too low", style="dim")]
            for line in lines:
                line.no_wrap, line.overflow = True, "ellipsis"
            live.update(Group(*lines), refresh=True)


def _one_below_the_other(watched: Watched, interval_s: float) -> None:
    for number, _ in enumerate(_looks(watched, interval_s)):
        if number:
            output.print_line("")
        output.print_line(moment(time.time()))
        for line in watched.lines(output.room()):
            output.print_whole(line)
        output.out.file.flush()


def _looks(watched: Watched, interval_s: float) -> Iterator[None]:
    while True:
        began = time.monotonic()
        watched.look()
        yield
        time.sleep(max(SHORTEST_SLEEP_S, interval_s - (time.monotonic() - began)))
