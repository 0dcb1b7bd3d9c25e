"""Progress of a command that works or waits: bars and spinners on a terminal, and reasons if nothing moves."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, Self

from trivet.cli import output

if TYPE_CHECKING:
    from trivet.admin import Admin, Blocked
    from trivet_tasks.config.settings import Settings

SHORTEST_BAR = 6
"""Characters of the bar itself on a narrow terminal; the title is cut before."""
LONGEST_TITLE = 24
FIRST_LOOK_S = 3.0
"""Most of what is waited for ends sooner, and is then not looked at."""
LOOK_EVERY_S = 2.0
OPEN_S = 1.0
"""Seconds before the first look from which its modules are loaded and its connections made."""


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, completed: int, note: str = "", *, about: int | None = None) -> None:
        """Move to this position, with a few words beside it. `about`: how many there may be, where that is not known."""


@contextmanager
def bar(title: str, total: int, completed: int = 0, *, unit: str = "") -> Iterator[Advance]:
    """Show a bar with count, rate and time left; where there is no terminal, nothing.

    Args:
        unit: what is counted, said with the rate: `jobs`.
    """
    if not output.err.is_terminal:
        yield _nowhere
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
    task = shown.add_task(title, total=total, completed=completed, note="", about="")

    def move(completed: int, note: str = "", *, about: int | None = None) -> None:
        if about is not None:
            shown.tasks[0].total = about  # `update(total=…)` would begin its estimate of the speed anew each time
        shown.update(task, completed=completed, note=note, about="" if about is None else "~")

    with shown:
        yield move


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """Show a sign of life while something takes long; where there is no terminal, nothing."""
    if not output.err.is_terminal:
        yield
        return
    from rich.markup import escape

    with output.err.status(escape(title)):
        yield


def _nowhere(completed: int, note: str = "", *, about: int | None = None) -> None:
    """Do nothing: nobody watches."""


class Teller:
    """Reports on standard error, once, the reason if nothing moves while its block waits, and once that it goes on.

    Args:
        look: reads the reason. Called in another thread, with connections of its own; a TrivetError that it raises is left
            to the block.
    """

    def __init__(self, settings: "Settings", look: "Callable[[Admin], Blocked]") -> None:
        self._settings = settings
        self._look = look
        self._told: frozenset[tuple[str, str]] = frozenset()
        self.held = False
        """True if something wrong blocked the jobs at the last reading."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trivet-telling", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        first_look_at = time.monotonic() + FIRST_LOOK_S
        if self._done.wait(FIRST_LOOK_S - OPEN_S):
            return
        from trivet.admin import Admin
        from trivet_tasks.errors import TrivetError

        with Admin(settings=self._settings) as admin:
            with suppress(TrivetError):
                _ = admin.batches, admin.jobs, admin.now()
            pause_s = first_look_at - time.monotonic()
            while not self._done.wait(max(0.0, pause_s)):
                pause_s = LOOK_EVERY_S
                try:
                    found = self._look(admin)
                except TrivetError:  # the command itself meets it, and says so
                    pass
                else:
                    if not self._done.is_set():
                        self._tell(found)

    def _tell(self, found: "Blocked") -> None:
        if found.wrong:
            about = frozenset(one.key for one in found.impairments) or frozenset({("routes", "")})
            if not about <= self._told:
                # a line each: a note that ends with a command to type has no full stop
                lines = "\n  ".join((*found.notes, *found.reasons))
                output.print_error(f"Held up: {lines}", style="yellow")
            self._told |= about
        elif self.held:
            output.print_error("It goes on.", style="yellow")
            self._told = frozenset()
        self.held = found.wrong
