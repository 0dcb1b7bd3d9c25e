"""State that the endpoints of one gateway process share, and the bounds on all they hold at one time."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from trivet.admin import Admin
from trivet.client.async_results import AsyncResults
from trivet.client.client import Client
from trivet.gateway.access import Access
from trivet.gateway.errors import ApiError
from trivet.gateway.event_hub import EventHub
from trivet.gateway.job_errors import Answered, retry_headers
from trivet.gateway.route_counts import TokenCounting
from trivet.gateway.submitter import Submitter
from trivet_tasks.config.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

MAX_CALLS = 16
"""Calls of the client that one process makes at a time: each holds a thread and perhaps a database connection."""
MIB = 2**20


class Gateway:
    """The client, the operations API and the threads in which their calls run. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bounds = settings.gateway
        self.client = Client(settings=settings)
        self.admin = Admin(settings=settings)
        self.bodies = BodyMemory(int(self.bounds.max_bodies_mb * MIB))
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="trivet-gateway")
        self.results = AsyncResults(self.client, self._threads)
        self.submitter = Submitter(self.client, self.run, lambda: self.waiting)
        self.access = Access(self.admin.keys, self.run)
        self.events = EventHub(lambda: self.admin.events)
        self.counting = TokenCounting()
        self._ended = False
        self.waiting = 0
        """Number of requests that wait for an answer."""

    async def start(self) -> None:
        """Open the connections, so that the first request does not wait for them."""
        self.streams = self.client.answer_streams()
        await self.results.start()
        await self.run(self.client.prepare)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request that waits for an answer.

        Raises:
            ApiError: 529; too many wait already.
        """
        if self.waiting >= self.bounds.max_waiting:
            raise overloaded(f"This gateway has {self.waiting:,} requests that wait for an answer, its maximum.")
        with self.counted():
            yield

    def check_waiting(self) -> None:
        """Refuse a request that would wait for its answer once waiting was ended; call it before its job is submitted.

        Raises:
            ApiError: 503; nothing was submitted.
        """
        if self._ended:
            raise stopped("Nothing was submitted.")

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request that was admitted before."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def end_waiting(self) -> None:
        """Answer all requests that wait with 503, all streams with an `error` event. Further ones are refused."""
        self._ended = True
        await self.results.close()
        await self.streams.close()

    async def stop(self) -> None:
        """End all waiting, then close the connections."""
        self.events.close()
        await self.end_waiting()
        await self.access.close()
        await self.counting.close()
        self.client.close()
        self.admin.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class BodyMemory:
    """Bytes of all bodies that one process holds, bounded."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        """Bytes held now."""

    def take(self, size: int) -> None:
        """Count further bytes.

        Raises:
            ApiError: 529; there are too many already.
        """
        if self.held + size > self._most:
            raise overloaded("This gateway reads as many bodies as its memory allows.")
        self.held += size

    def give_back(self, size: int) -> None:
        """Take bytes off the count."""
        self.held -= size


def overloaded(message: str) -> ApiError:
    """Return the answer to a request that this process has no room for."""
    return ApiError(529, f"{message} Try again shortly.", retry_headers(Answered(529, again=True), 1.0))


def stopped(message: str) -> ApiError:
    """Return the answer to a request that is worth repeating at another gateway, or when this one has started again."""
    return ApiError(503, f"This gateway stops. {message}", retry_headers(Answered(503, again=True), 1.0))
