"""Waiting for the ends of many jobs in one event loop: no thread per job, and one look at SQL for all that have news."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from trivet.client.client import Client
from trivet.client.own_faults import kept_up, read_apart
from trivet.client.result import Result, read_ends
from trivet_store.reports import results
from trivet_tasks.errors import ClientClosed, NotFound, TrivetError

P = ParamSpec("P")
T = TypeVar("T")

LOOK_EVERY_S = 2.0
"""Seconds between two looks at all jobs that are waited for: a notice may be lost."""
RESULTS_A_LOOK = 50
"""Results, with their messages, that are read in one look."""
IDS_A_LOOK = 500
"""Jobs of which one look asks whether they have ended."""


class AsyncResults:
    """Ends of jobs, for coroutines of one event loop.

    Example:
        waiting = AsyncResults(client, threads)
        result = await waiting.result(job.id)
        await waiting.close()
    """

    def __init__(self, client: Client, threads: Executor) -> None:
        """Nothing is asked yet.

        Args:
            client: whose jobs they are.
            threads: run the looks at SQL, two at a time.
        """
        self._connections = client._connections
        self._threads = threads
        self._loop: asyncio.AbstractEventLoop | None = None
        self._futures: dict[str, set[asyncio.Future[Result]]] = {}
        self._unwatch: dict[str, Callable[[], None]] = {}
        self._due: dict[str, None] = {}
        self._looking = False
        self._task: asyncio.Task[None] | None = None
        self._slow: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of jobs that are waited for."""
        return len(self._futures)

    async def start(self) -> None:
        """Listen for notices from now on."""
        self._loop = asyncio.get_running_loop()
        await self._run(self._connections.notices.start)
        self._slow = asyncio.create_task(kept_up(self._look_slowly, "results are"))

    async def result(self, job_id: str, *, existed: bool = False) -> Result:
        """Wait for the end of a job, as long as it takes.

        Args:
            existed: whether it was submitted before `start`, or long ago, so that it may have ended unnoticed.

        Raises:
            NotFound: there is no such job.
            ClientClosed: waiting was ended by `close`.
        """
        if self._closed:
            raise ClientClosed(f"The job {job_id} is not waited for.")
        assert self._loop is not None
        future: asyncio.Future[Result] = self._loop.create_future()
        self._futures.setdefault(job_id, set()).add(future)
        if job_id not in self._unwatch:
            self._unwatch[job_id] = self._connections.notices.watch(f"job {job_id}", lambda: self._tell([job_id]))
        if existed or not self._connections.notices.listening:
            self._news([job_id])
        try:
            return await future
        finally:
            self._forget(job_id, future)

    async def close(self) -> None:
        """End all waiting with ClientClosed."""
        self._closed = True
        if self._slow is not None:
            self._slow.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._slow
        for job_id, futures in list(self._futures.items()):
            _answer(futures, ClientClosed(f"The job {job_id} is not waited for any more."))

    def _forget(self, job_id: str, future: asyncio.Future[Result]) -> None:
        futures = self._futures.get(job_id)
        if futures is None:
            return
        futures.discard(future)
        if not futures:
            del self._futures[job_id]
            self._due.pop(job_id, None)
            self._unwatch.pop(job_id)()

    def _tell(self, job_ids: Sequence[str]) -> None:
        """Bring news into the loop; called from the thread that listens."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._news, job_ids)

    def _news(self, job_ids: Iterable[str]) -> None:
        self._due.update((job_id, None) for job_id in job_ids if job_id in self._futures)
        if self._due and not self._looking:
            self._looking = True
            self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Read what has news, group by group: what comes meanwhile goes into the next group."""
        try:
            while self._due:
                ids = list(self._due)[:RESULTS_A_LOOK]
                for job_id in ids:
                    del self._due[job_id]
                try:
                    found = await self._run(read_apart, self._read, ids)
                except TrivetError:
                    continue  # the slow look comes back to them
                for job_id in ids:
                    result = found.get(job_id, NotFound(f"There is no job {job_id}."))
                    if result is not None:
                        _answer(self._futures.get(job_id, ()), result)
        finally:
            self._looking = False

    async def _look_slowly(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            ids = list(self._futures)
            for first in range(0, len(ids), IDS_A_LOOK):
                with contextlib.suppress(TrivetError):
                    self._news(await self._run(self._ended, ids[first : first + IDS_A_LOOK]))

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def _read(self, ids: Sequence[str]) -> dict[str, Result | None]:
        """Return the results of jobs; None for one that has not ended. Unknown ids are left out."""
        with self._connections.store.read() as connection:
            found = read_ends(connection, ids)
        return {job_id: end if isinstance(end, Result) else None for job_id, end in found.items()}

    def _ended(self, ids: Sequence[str]) -> list[str]:
        with self._connections.store.read() as connection:
            return results.ended_among(connection, ids)


def _answer(futures: Iterable[asyncio.Future[Result]], result: Result | TrivetError) -> None:
    for future in list(futures):
        if future.done():
            continue
        if isinstance(result, TrivetError):
            future.set_exception(result)
        else:
            future.set_result(result)
