"""One piece of work at a time that any number of callers wait for."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class SingleFlight:
    """Runs a coroutine once for all callers that ask while it runs. A caller that is cancelled does not cancel it."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        """Start the work, or join it where it runs already (in this event loop)."""
        task = self._task
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._task = asyncio.ensure_future(work())
            task.add_done_callback(_note_failure)
        return task

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start or join the work and wait for its end; its exception is raised in everyone who waits."""
        await asyncio.shield(self.start(work))


def _note_failure(task: "asyncio.Task[None]") -> None:
    """Mark the exception as seen: who waits gets it; with nobody waiting the next call meets it again."""
    if not task.cancelled():
        task.exception()
