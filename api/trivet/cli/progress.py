"""Bars and spinners on standard error, only where it is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from trivet.cli import context


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, completed: int, note: str) -> None:
        """Move to this position, with a few words beside it."""


@contextmanager
def bar(title: str, total: int, completed: int = 0) -> Iterator[Advance]:
    """A bar with count, rate and time left; where there is no terminal, nothing."""
    if not context.err.is_terminal:
        yield _nowhere
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Steps a second, over the last half minute."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s", style="dim")

    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
        console=context.err,
        expand=True,
    )
    task = shown.add_task(escape(title), total=total, completed=completed, note="")

    def move(completed: int, note: str) -> None:
        shown.update(task, completed=completed, note=escape(note))

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


def _nowhere(completed: int, note: str) -> None:
    """Nobody watches."""
