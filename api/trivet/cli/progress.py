"""Bars and spinners on standard error, only where it is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from trivet.cli import context

SHORTEST_BAR = 6
"""Characters of the bar itself on a narrow terminal; the title is cut before."""
LONGEST_TITLE = 24


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, completed: int, note: str = "", *, about: int | None = None) -> None:
        """Move to this position, with a few words beside it. `about`: how many there may be, where that is not known."""


@contextmanager
def bar(title: str, total: int, completed: int = 0, *, unit: str = "") -> Iterator[Advance]:
    """A bar with count, rate and time left; where there is no terminal, nothing.

    Args:
        unit: what is counted, said with the rate: `jobs`.
    """
    if not context.err.is_terminal:
        yield _nowhere
        return
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Words(ProgressColumn):
        """A field, cut short where there is too little room: before any number is."""

        def __init__(self, field: str, style: str = "", longest: int | None = None) -> None:
            super().__init__(Column(max_width=longest))
            self._field, self._style = field, style

        def render(self, task: Task) -> Text:
            return Text(task.fields[self._field], style=self._style, no_wrap=True, overflow="ellipsis")

    class Count(ProgressColumn):
        """How many of how many."""

        def render(self, task: Task) -> Text:
            about = "~" if task.fields["about"] else ""
            return Text(f"{task.completed:,.0f}/{about}{task.total or 0:,.0f}", style="progress.download")

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

    shown = Progress(
        Words("title", longest=LONGEST_TITLE),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=SHORTEST_BAR)),
        Count(table_column=Column(no_wrap=True, justify="right")),
        Rate(table_column=Column(no_wrap=True, justify="right")),
        Left(table_column=Column(no_wrap=True, justify="right")),
        Words("note", "dim"),
        console=context.err,
        expand=True,
    )
    task = shown.add_task("", total=total, completed=completed, title=title, note="", about=False)

    def move(completed: int, note: str = "", *, about: int | None = None) -> None:
        if about is not None:
            shown.tasks[0].total = about  # `update(total=…)` would begin its estimate of the speed anew each time
        shown.update(task, completed=completed, note=note, about=about is not None)

    with shown:
        yield move


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """A sign of life while something takes long; where there is no terminal, nothing."""
    if not context.err.is_terminal:
        yield
        return
    from rich.markup import escape

    with context.err.status(escape(title)):
        yield


def _nowhere(completed: int, note: str = "", *, about: int | None = None) -> None:
    """Nobody watches."""
