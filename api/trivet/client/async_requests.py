"""Requests of an asynchronous iterable, for a thread that takes them in."""

import asyncio
import threading
from collections.abc import AsyncIterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self, TypeAlias

Request: TypeAlias = Mapping[str, Any]

GROUP_REQUESTS = 100
"""Maximum number of requests that a thread takes from the event loop at a time."""


class AsyncRequests:
    """Iterates an asynchronous iterable in the event loop for a thread that iterates this.

    async with AsyncRequests(requests) as pulled:
        await asyncio.to_thread(take_in, pulled)

    An exception of the iterable is raised in the thread, after the requests before it. At the end of the block, also when
    its task is cancelled, the thread is not left waiting, and a generator is closed.
    """

    def __init__(self, requests: AsyncIterable[Request]) -> None:
        self._requests = aiter(requests)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._running = asyncio.Lock()
        self._pulling: Future[list[Request]] | None = None
        self._error: Exception | None = None
        self._ended = False
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            pulling = self._pulling
        if pulling is not None:
            pulling.cancel()
        async with self._running:  # a generator that runs cannot be closed
            if (close := getattr(self._requests, "aclose", None)) is not None:
                await close()

    def __iter__(self) -> Iterator[Request]:
        while group := self._next_group():
            yield from group

    def _next_group(self) -> list[Request]:
        with self._lock:
            if self._closed:  # no end of the requests: the batch must not run without the others
                raise CancelledError
            self._pulling = asyncio.run_coroutine_threadsafe(self._pull(), self._loop)
        return self._pulling.result()

    async def _pull(self) -> list[Request]:
        """Return the next requests; none at the end."""
        group: list[Request] = []
        async with self._running:
            if self._error is not None:
                raise self._error
            try:
                while not self._ended and len(group) < GROUP_REQUESTS:
                    group.append(await anext(self._requests))
            except StopAsyncIteration:
                self._ended = True
            except Exception as error:
                if not group:
                    raise
                self._error = error
        return group
