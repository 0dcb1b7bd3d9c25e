"""The client for asyncio programs: its calls run in threads of their own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from trivet.client.client import Client
from trivet.client.jobs import Batch, Job
from trivet.client.result import Result
from trivet_store.jobs.batches import Progress
from trivet_tasks.config.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

MAX_WAITERS = 64
"""Calls that may wait for results at a time; each holds a thread, further ones wait for one."""
MAX_CALLS = 8


class _Threads:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="trivet-async")
        self._waiting = ThreadPoolExecutor(MAX_WAITERS, thread_name_prefix="trivet-waiting")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def wait(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work that waits in a pool of its own: it must not block submitting."""
        return await asyncio.get_running_loop().run_in_executor(self._waiting, lambda: work(*args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._waiting.shutdown(wait=False, cancel_futures=True)


class AsyncJob:
    """A submitted job; see `Job`."""

    def __init__(self, threads: _Threads, job: Job) -> None:
        self._threads = threads
        self._job = job
        self.id = job.id

    async def result(self, timeout: float | None = None) -> Result:
        """Wait for the end of the job; see `Job.result`."""
        return await self._threads.wait(self._job.result, timeout)

    async def state(self) -> str:
        """Return its state; see `Job.state`."""
        return await self._threads.run(lambda: self._job.state)

    async def cancel(self) -> bool:
        """Stop the job; see `Job.cancel`."""
        return await self._threads.run(self._job.cancel)

    async def retry(self) -> bool:
        """Run it again; see `Job.retry`."""
        return await self._threads.run(self._job.retry)


class AsyncBatch:
    """Jobs submitted together; see `Batch`."""

    def __init__(self, threads: _Threads, batch: Batch) -> None:
        self._threads = threads
        self._batch = batch
        self.name = batch.name

    async def progress(self) -> Progress:
        """Return its progress; see `Batch.progress`."""
        return await self._threads.run(self._batch.progress)

    async def results(self, timeout: float | None = None) -> AsyncIterator[Result]:
        """Yield every result once, as the jobs end; see `Batch.results`."""
        found = self._batch.results(timeout)
        while (result := await self._threads.wait(next, found, None)) is not None:
            yield result

    async def wait(self, timeout: float | None = None) -> Progress:
        """Wait until every job has ended; see `Batch.wait`."""
        return await self._threads.wait(self._batch.wait, timeout)

    async def cancel(self) -> int:
        """Stop the batch; see `Batch.cancel`."""
        return await self._threads.run(self._batch.cancel)

    async def retry(self, failed: bool = True, expired: bool = False) -> int:
        """Run failed jobs again; see `Batch.retry`."""
        return await self._threads.run(self._batch.retry, failed, expired)


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited."""

    def __init__(self, config: Path | str | None = None, *, settings: Settings | None = None) -> None:
        self._client = Client(config, settings=settings)
        self._threads = _Threads()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def submit(self, prompt: str | None = None, /, **request: Any) -> AsyncJob:
        """Submit one job; see `Client.submit`."""
        return AsyncJob(self._threads, await self._threads.run(self._client.submit, prompt, **request))

    async def submit_many(
        self, requests: Iterable[Mapping[str, Any]], *, name: str | None = None, **defaults: Any
    ) -> AsyncBatch:
        """Submit an iterable of requests as one batch; see `Client.submit_many`. It is iterated in a thread."""
        batch = await self._threads.run(self._client.submit_many, requests, name=name, **defaults)
        return AsyncBatch(self._threads, batch)

    async def job(self, job_id: str) -> AsyncJob:
        """Return the job of this id; see `Client.job`."""
        return AsyncJob(self._threads, await self._threads.run(self._client.job, job_id))

    async def batch(self, name: str) -> AsyncBatch:
        """Return the batch of this name; see `Client.batch`."""
        return AsyncBatch(self._threads, await self._threads.run(self._client.batch, name))

    async def close(self) -> None:
        """Close the connections. Jobs go on."""
        await self._threads.run(self._client.close)
        self._threads.close()
