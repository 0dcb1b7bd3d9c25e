"""Server-sent events: one thread of a process follows what happens, for all who listen to it."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from trivet.admin import Happening
from trivet_tasks.errors import TrivetError, place_of

if TYPE_CHECKING:
    from trivet.admin import Events

log = logging.getLogger("trivet.gateway")

MAX_LISTENERS = 200
"""Listeners of one process."""
READY_S = 5.0
"""Seconds for which a listener waits until the thread misses nothing; then it begins all the same."""
MAX_PENDING = 2_000
"""Happenings that one listener may be behind; then its connection ends."""


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, TrivetError) else place_of(error)


class Listener:
    """The queue of one connection."""

    def __init__(self, wanted: Callable[[Happening], bool]) -> None:
        self.wanted = wanted
        self.queue: asyncio.Queue[Happening | None] = asyncio.Queue(MAX_PENDING)
        """None: it was too slow, or the process stops."""


class EventHub:
    """Hands what happens to the connections of one process that listen. For one event loop.

    Example:
        async with hub.listening(lambda happening: True) as listener:
            happening = await listener.queue.get()
    """

    def __init__(self, events: "Callable[[], Events]") -> None:
        self._events = events
        self._listeners: set[Listener] = set()
        self._stop: threading.Event | None = None
        self._ready = asyncio.Event()

    @property
    def full(self) -> bool:
        """True if no further connection may listen."""
        return len(self._listeners) >= MAX_LISTENERS

    @contextlib.asynccontextmanager
    async def listening(self, wanted: Callable[[Happening], bool]) -> AsyncIterator[Listener]:
        """Listen within the block to what is wanted. The first listener starts the thread, the last ends it."""
        listener = Listener(wanted)
        self._listeners.add(listener)
        if self._stop is None:
            self._stop = threading.Event()
            self._ready.clear()
            arguments = (asyncio.get_running_loop(), self._stop)
            threading.Thread(target=self._follow, args=arguments, name="trivet-events", daemon=True).start()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READY_S):
                    await self._ready.wait()
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._end()

    def close(self) -> None:
        """End the connections of all listeners."""
        for listener in list(self._listeners):
            self._drop(listener)
        self._end()

    def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def _follow(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        try:
            for number, group in enumerate(self._events().follow(stop)):
                if number == 0:
                    loop.call_soon_threadsafe(self._ready.set)
                if group:
                    loop.call_soon_threadsafe(self._hand_out, group)
        except Exception as error:
            if not loop.is_closed():
                log.warning("events: the connections end, and clients connect again: %s", _words(error))
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._ended, stop)

    def _hand_out(self, group: Sequence[Happening]) -> None:
        for listener in list(self._listeners):
            for happening in group:
                if not listener.wanted(happening):
                    continue
                if listener.queue.qsize() >= MAX_PENDING - 1:
                    self._drop(listener)
                    break
                listener.queue.put_nowait(happening)

    def _ended(self, stop: threading.Event) -> None:
        """End the connections whose thread ended by itself: clients connect again."""
        if self._stop is stop:
            self.close()

    def _drop(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        with contextlib.suppress(asyncio.QueueFull):
            listener.queue.put_nowait(None)
