"""Progress of a command that works or waits, and reasons if nothing moves.

On a terminal bars and spinners are drawn in place; elsewhere a line is printed every 15 s.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from trivet.cli import output
from trivet.times import seconds

if TYPE_CHECKING:
    from trivet.admin import Admin, Blocked
    from trivet_tasks.config.settings import Settings

LINE_EVERY_S = 15.0
"""Seconds between two lines where there is no terminal."""
SPEED_OVER_S = 60.0
"""Seconds that the rate and the time left in a line are taken from."""
SHORTEST_BAR = 6
"""Characters of the bar itself on a narrow terminal; the title is cut before."""
LONGEST_TITLE = 24
FIRST_LOOK_S = 3.0
"""Seconds before the first look: most of what is waited for ends sooner."""
LOOK_EVERY_S = 2.0
"""Seconds between two looks."""
OPEN_S = 1.0
"""Seconds before the first look from which its modules are loaded and its connections made."""


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, completed: int, note: str = "", *, about: int | None = None, held: str = "") -> None:
        """Move to this position, with a few words beside it.

        Args:
            about: how many there may be, where that is not known.
            held: what holds it up, said in place of the time left; nobody knows that time then.
        """


@contextmanager
def bar(title: str, total: int, completed: int = 0, *, unit: str = "") -> Iterator[Advance]:
    """Show a bar with count, rate and time left; where there is no terminal, print a line every 15 s.

    Args:
        unit: what is counted, said with the rate: `jobs`.
    """
    if not output.err.is_terminal or output.err.is_dumb_terminal:
        lines = ProgressLines(title, total, completed, unit=unit)
        with beside("trivet-lines", lines.print_until):
            yield lines.advance
        return
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        """Steps a second, over the last half minute."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if speed is None:
                return Text("")
            each = f" {unit}/s" if unit else "/s"
            return Text(f"{speed:,.0f}{each}" if speed >= 10 else f"{speed:.1f}{each}", style="dim")

    class Left(ProgressColumn):
        """Hours, minutes and seconds until the end, at this rate."""

        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            if task.fields["held"]:
                return Text(task.fields["held"], style="yellow")
            if task.finished or task.time_remaining is None:
                return Text("")
            minutes, seconds = divmod(int(task.time_remaining), 60)
            hours, minutes = divmod(minutes, 60)
            clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
            return Text(f"{clock} left", style="progress.remaining")

    def words(form: str, style: str, longest: int | None = None) -> TextColumn:
        """Return a column that is cut short before any number where there is too little room."""
        cut = Column(max_width=longest, no_wrap=True, overflow="ellipsis")
        return TextColumn(form, style=style, markup=False, table_column=cut)

    def number() -> Column:
        return Column(no_wrap=True, justify="right")

    count = "{task.completed:,.0f}/{task.fields[about]}{task.total:,.0f}"
    shown = Progress(
        words("{task.description}", "", LONGEST_TITLE),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=SHORTEST_BAR)),
        TextColumn(count, style="progress.download", markup=False, table_column=number()),
        Rate(table_column=number()),
        Left(table_column=number()),
        words("{task.fields[note]}", "dim"),
        console=output.err,
        expand=True,
    )
    task = shown.add_task(title, total=total, completed=completed, note="", about="", held="")

    def move(completed: int, note: str = "", *, about: int | None = None, held: str = "") -> None:
        if about is not None:
            shown.tasks[0].total = about  # `update(total=…)` would begin its estimate of the speed anew each time
        shown.update(task, completed=completed, note=note, about="" if about is None else "~", held=held)

    with shown, _log_above():
        yield move


@contextmanager
def _log_above() -> Iterator[None]:
    """Print log lines above the bar that is shown: written past it, each would leave a copy of the bar behind."""
    moved = [
        (handler, handler.setStream(sys.stderr))
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__
    ]
    try:
        yield
    finally:
        for handler, stream in moved:
            if stream is not None:
                handler.setStream(stream)


class ProgressLines:
    """Progress where there is no terminal: a line on standard error every `LINE_EVERY_S`, whether it moves or not."""

    def __init__(self, title: str, total: int, completed: int = 0, *, unit: str = "") -> None:
        self._title = title
        self._unit = unit
        self._total = total
        self._completed = completed
        self._about = False
        self._note = self._held = ""
        self._seen = deque([(time.monotonic(), completed)])

    def advance(self, completed: int, note: str = "", *, about: int | None = None, held: str = "") -> None:
        """Move to this position (`Advance`)."""
        self._completed, self._note, self._held = completed, note, held
        if about is not None:
            self._total, self._about = about, True

    def line(self, now: float) -> str:
        """Return the progress at this monotonic time, e.g. `contracts: 40/100 jobs, $0.12, 1 failed, 2.0 jobs/s, 30.0 s left`."""
        self._seen.append((now, self._completed))
        while len(self._seen) > 2 and self._seen[0][0] < now - SPEED_OVER_S:
            self._seen.popleft()
        (since, before), unit = self._seen[0], f" {self._unit}" if self._unit else ""
        speed = (self._completed - before) / (now - since) if now > since else 0.0
        parts = [f"{self._completed:,}/{'~' if self._about else ''}{self._total:,}{unit}", self._note]
        if speed > 0:
            parts.append(f"{speed:,.1f}{unit}/s")
        if self._held:
            parts.append(self._held)
        elif speed > 0 and self._total > self._completed:
            parts.append(f"{seconds((self._total - self._completed) / speed)} left")
        return f"{self._title}: {', '.join(part for part in parts if part)}"

    def print_until(self, done: threading.Event) -> None:
        """Print a line from time to time until told to stop."""
        while not done.wait(LINE_EVERY_S):
            output.print_error(self.line(time.monotonic()))


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """Show a sign of life while something takes long; where there is no terminal, nothing."""
    if not output.err.is_terminal:
        yield
        return
    from rich.markup import escape

    with output.err.status(escape(title)):
        yield


class Teller:
    """Reports on standard error, once, the reason if nothing moves, and once that it goes on."""

    def __init__(self, told: Sequence[str] = ()) -> None:
        self._warned = frozenset(warning.rstrip(".") for warning in told)
        self._told: frozenset[tuple[str, str]] = frozenset()
        self.held = False
        """True if something wrong blocked the jobs at the last reading."""
        self.budget = False
        """True if a budget held them at the last reading."""
        self.paused = False
        """True if an operator had paused them at the last reading."""

    @property
    def held_by(self) -> str:
        """Return words in place of the time left, which nobody knows then; empty while it is known."""
        return "paused" if self.paused else "held by a budget" if self.budget else ""

    def tell(self, found: "Blocked") -> None:
        """Report what this reading has that the last had not."""
        self.budget = found.budget
        if found.paused and not self.paused:
            output.print_error(" ".join(found.notes), style="yellow")
        elif self.paused and not found.paused:
            output.print_error("It was resumed.", style="yellow")
        self.paused = found.paused
        if found.wrong:
            about = frozenset(one.key for one in found.impairments) or frozenset({("routes", "")})
            if not about <= self._told and not {note.rstrip(".") for note in found.notes} <= self._warned:
                # a line each: a note that ends with a command to type has no full stop
                lines = "\n  ".join((*found.notes, *found.reasons))
                output.print_error(f"Held up: {lines}", style="yellow")
            self._told |= about
        elif self.held:
            output.print_error("It goes on.", style="yellow")
            self._told = frozenset()
        elif (
            found.notes
            and not found.paused
            and not (waits := frozenset({("waits", "budget" if found.budget else "")})) <= self._told
        ):
            output.print_error(f"Waits: {' '.join(found.notes)}", style="yellow")
            self._told |= waits
        self.held = found.wrong


@contextmanager
def telling(settings: "Settings", look: "Callable[[Admin], Blocked]", *, told: Sequence[str] = ()) -> Iterator[Teller]:
    """Report the reason if nothing moves while the block waits.

    Args:
        look: reads the reason. Called in another thread, with connections of its own; a TrivetError that it raises is left
            to the block.
        told: warnings that were printed before; they are not repeated.
    """
    teller = Teller(told)
    with beside("trivet-telling", partial(_look_until, settings, look, teller)):
        yield teller


def _look_until(
    settings: "Settings", look: "Callable[[Admin], Blocked]", teller: Teller, done: threading.Event
) -> None:
    first_look_at = time.monotonic() + FIRST_LOOK_S
    if done.wait(FIRST_LOOK_S - OPEN_S):
        return
    from trivet.admin import Admin
    from trivet_tasks.errors import TrivetError

    with Admin(settings=settings) as admin:
        with suppress(TrivetError):
            _ = admin.batches, admin.jobs, admin.now()
        pause_s = first_look_at - time.monotonic()
        while not done.wait(max(0.0, pause_s)):
            pause_s = LOOK_EVERY_S
            try:
                found = look(admin)
            except TrivetError:  # the command itself meets it, and says so
                continue
            if not done.is_set():
                teller.tell(found)


@contextmanager
def beside(name: str, run: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in a thread of its own beside the block. The event that it gets is set when the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=run, args=(done,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
