"""The client for asyncio programs: its calls run in threads of their own."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from trivet.client.async_requests import AsyncRequests
from trivet.client.client import Client, Dedupe
from trivet.client.jobs import Batch, Job
from trivet.client.result import Result
from trivet.client.waiting import GIVEN_UP
from trivet_store.jobs.batches import Progress
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ClientClosed, TrivetError, no_sdk
from trivet_tasks.latency import Latency
from trivet_tasks.requests.submit_params import OnDone, RequestParams, StreamParams, SubmitParams
from trivet_tasks.states import JobStateName

if TYPE_CHECKING:
    from trivet.client.answer_streams import AnswerStreams
    from trivet.client.streaming import AsyncJobStreamManager

log = logging.getLogger("trivet")

P = ParamSpec("P")
T = TypeVar("T")

MAX_WAITERS = 64
"""Calls that may wait for results at a time; each holds a thread, further ones wait for one."""
MAX_CALLS = 8
UNDO_WITHIN_S = 3.0
"""Maximum seconds for which a task that is cancelled waits until what it began is undone."""
CLOSE_WITHIN_S = 3.0
"""Maximum seconds for which closing waits for the readers of another event loop."""


class _Threads:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="trivet-async")
        self._waiting = ThreadPoolExecutor(MAX_WAITERS, thread_name_prefix="trivet-waiting")
        self._closed = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.check_open()
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def run_or_undo(self, work: Callable[[], T], undo: Callable[[T], object]) -> T:
        """Run work; undo what it returns if the task that waits for it is cancelled meanwhile."""
        self.check_open()
        begun = self._pool.submit(work)
        try:
            return await asyncio.wrap_future(begun)
        except asyncio.CancelledError:  # has cancelled what was not begun
            undone = self._pool.submit(_undo, begun, undo)
            await asyncio.wait([asyncio.wrap_future(undone)], timeout=UNDO_WITHIN_S)
            raise

    async def wait(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work that waits in a pool of its own: it must not block submitting."""
        self.check_open()
        given_up = threading.Event()

        def waiting() -> T:
            GIVEN_UP.set(given_up)
            return work(*args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._waiting, waiting)
        finally:
            given_up.set()  # a task that is cancelled, e.g. by `asyncio.timeout`, takes no thread any longer

    async def run_alone(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work that waits for the event loop in a thread of its own: what it waits for may need the others."""
        self.check_open()
        thread = ThreadPoolExecutor(1, thread_name_prefix="trivet-async")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, lambda: work(*args, **kwargs))
        finally:
            thread.shutdown(wait=False)

    async def close(self, close_client: Callable[[], None]) -> None:
        """Close the client, and end the threads: calls that wait in one raise `ClientClosed`."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(close_client)
        self._pool.shutdown(wait=False)
        self._waiting.shutdown(wait=False)

    def check_open(self) -> None:
        """Raise ClientClosed after `close`."""
        if self._closed:
            raise ClientClosed("The client was closed.")


def _undo(begun: "Future[T]", undo: Callable[[T], object]) -> None:
    try:
        made = begun.result()
    except (CancelledError, TrivetError):
        return  # there is nothing to undo
    try:
        undo(made)
    except TrivetError as error:
        log.warning("what a cancelled task had begun goes on: %s", error)


class AsyncJob:
    """A submitted job; see `Job`. `await job` waits for its result.

    job = await client.submit("Summarise: …", model="claude-sonnet-5-5", max_tokens=300)
    print((await job).text)
    """

    def __init__(self, threads: _Threads, job: Job) -> None:
        self._threads = threads
        self._job = job
        self.id = job.id
        self.existed = job.existed
        """See `Job.existed`."""
        self.warnings = job.warnings
        """See `Job.warnings`."""

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r})"

    def __await__(self) -> Generator[Any, None, Result]:
        return self.result().__await__()

    async def result(self, timeout: float | None = None, *, with_request: bool = False) -> Result:
        """Wait for the end of the job; see `Job.result`."""
        return await self._threads.wait(self._job.result, timeout, with_request=with_request)

    async def state(self) -> JobStateName:
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
        self.warnings = batch.warnings
        """See `Job.warnings`."""

    def __repr__(self) -> str:
        return f"AsyncBatch({self.name!r})"

    async def progress(self) -> Progress:
        """Return its progress; see `Batch.progress`."""
        return await self._threads.run(self._batch.progress)

    async def results(self, timeout: float | None = None, *, with_request: bool = False) -> AsyncIterator[Result]:
        """Yield every result once, as the jobs end; see `Batch.results`."""
        found = self._batch.results(timeout, with_request=with_request)
        while (result := await self._threads.wait(next, found, None)) is not None:
            yield result

    async def wait(self, timeout: float | None = None) -> Progress:
        """Wait until every job has ended; see `Batch.wait`."""
        return await self._threads.wait(self._batch.wait, timeout)

    async def cancel(self) -> int:
        """Stop the batch; see `Batch.cancel`."""
        return await self._threads.run(self._batch.cancel)

    async def job(self, key: str, *, tenant: str | None = None) -> AsyncJob:
        """Return the job of this key; see `Batch.job`."""
        return AsyncJob(self._threads, await self._threads.run(lambda: self._batch.job(key, tenant=tenant)))

    async def discard(self) -> int:
        """Delete it, if it never was complete; see `Batch.discard`."""
        return await self._threads.run(self._batch.discard)

    async def pause(self, reason: str = "") -> bool:
        """Let no further job begin; see `Batch.pause`."""
        return await self._threads.run(self._batch.pause, reason)

    async def resume(self) -> bool:
        """Let it go on; see `Batch.resume`."""
        return await self._threads.run(self._batch.resume)

    async def prioritize(self, priority: int) -> None:
        """Dispatch it before others; see `Batch.prioritize`."""
        await self._threads.run(self._batch.prioritize, priority)

    async def retry(self, failed: bool = True, expired: bool = False) -> int:
        """Run failed jobs again; see `Batch.retry`."""
        return await self._threads.run(self._batch.retry, failed, expired)


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited."""

    def __init__(self, config: Path | str | None = None, *, settings: Settings | None = None) -> None:
        self._client = Client(config, settings=settings)
        self._threads = _Threads()
        self._streams: dict[asyncio.AbstractEventLoop, AnswerStreams] = {}
        self._streams_lock = threading.Lock()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def submit(self, prompt: str | None = None, /, **request: Unpack[SubmitParams]) -> AsyncJob:
        """Submit one job; see `Client.submit`."""
        return AsyncJob(self._threads, await self._threads.run(lambda: self._client.submit(prompt, **request)))

    async def submit_streamed(self, prompt: str | None = None, /, **request: Unpack[SubmitParams]) -> AsyncJob:
        """Submit one job whose answer is read while it comes; see `Client.submit_streamed`."""
        job = await self._threads.run(lambda: self._client.submit_streamed(prompt, **request))
        return AsyncJob(self._threads, job)

    def answer_streams(self) -> "AnswerStreams":
        """Return the reader of streamed answers for the running event loop; see `Client.answer_streams`.

        Raises:
            RuntimeError: no event loop runs here.
            ClientClosed: the client was closed.
        """
        loop = asyncio.get_running_loop()
        with self._streams_lock:
            self._threads.check_open()
            for ended in [one for one in self._streams if one.is_closed()]:
                del self._streams[ended]
            if loop not in self._streams:
                self._streams[loop] = self._client.answer_streams()
            return self._streams[loop]

    def stream(
        self, prompt: str | None = None, /, **request: Unpack[StreamParams]
    ) -> "AsyncJobStreamManager[AsyncJob]":
        """Submit one job and read its answer while it comes; see `Client.stream`.

        async with client.stream("Tell me …", model="claude-sonnet-5-5", max_tokens=900) as stream:
            async for text in stream.text_stream:
                print(text, end="", flush=True)
        """
        try:
            from trivet.client.streaming import AsyncJobStreamManager, cancels_on_leaving  # as in `Client.stream`
        except ModuleNotFoundError as error:
            raise no_sdk("client.stream", error) from None

        def undo(begun: tuple[Job, Latency]) -> None:
            job, latency = begun
            if cancels_on_leaving(job, latency):
                job.cancel()

        async def submit() -> tuple[AsyncJob, Latency]:
            begin = partial(self._client.begin_stream, prompt, request)
            job, latency = await self._threads.run_or_undo(begin, undo)
            return AsyncJob(self._threads, job), latency

        return AsyncJobStreamManager(submit, self.answer_streams)

    async def submit_many(
        self,
        requests: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        name: str | None = None,
        dedupe: Dedupe = None,
        on_done: OnDone = None,
        **defaults: Unpack[RequestParams],
    ) -> AsyncBatch:
        """Submit requests as one batch; see `Client.submit_many`.

        async def requests():
            async for document in documents:
                yield {"prompt": f"Summarise: {document.text}", "key": document.name}

        batch = await client.submit_many(requests(), model="claude-sonnet-5-5", max_tokens=300)

        Args:
            requests: an iterable, which is iterated in a thread; or an asynchronous one (an async generator), which is
                iterated in the event loop and closed at the end.
            name: as of `Client.submit_many`.
            dedupe: likewise.
            on_done: likewise.
            defaults: likewise.
        """
        submit = partial(self._client.submit_many, name=name, dedupe=dedupe, on_done=on_done, **defaults)
        if not isinstance(requests, AsyncIterable):
            return AsyncBatch(self._threads, await self._threads.run(submit, requests))
        async with AsyncRequests(requests) as pulled:
            batch = await self._threads.run_alone(submit, pulled)
        return AsyncBatch(self._threads, batch)

    async def job(self, job_id: str) -> AsyncJob:
        """Return the job of this id; see `Client.job`."""
        return AsyncJob(self._threads, await self._threads.run(self._client.job, job_id))

    async def batch(self, name: str) -> AsyncBatch:
        """Return the batch of this name; see `Client.batch`."""
        return AsyncBatch(self._threads, await self._threads.run(self._client.batch, name))

    async def close(self) -> None:
        """Close the connections, for good. Jobs go on.

        Tasks that wait for a result, and every later call, raise `ClientClosed`.
        """
        with self._streams_lock:
            opened = list(self._streams.items())
        for loop, streams in opened:
            if loop is asyncio.get_running_loop():
                await streams.close()
            elif loop.is_running():
                with contextlib.suppress(TimeoutError):
                    closing = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(streams.close(), loop))
                    await asyncio.wait_for(closing, CLOSE_WITHIN_S)
        await self._threads.close(self._client.close)
