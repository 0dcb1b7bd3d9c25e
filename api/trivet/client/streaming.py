"""Streamed answers as the `anthropic` SDK has them: its `MessageStream` over the events of a job.

Needs the package `anthropic` (`pip install 'trivet[stream]'`). The SDK puts the message together and makes the events of
its helpers (`text`, `input_json`, …); here is only where its raw events come from, and what closing means.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import orjson
from anthropic._models import construct_type_unchecked
from anthropic.lib.streaming import AsyncMessageStream, MessageStream
from anthropic.types import RawMessageStreamEvent

from trivet.client.answer_streams import Broken, Ended, StreamItem
from trivet.client.result import Result
from trivet_routing.message_events import Event
from trivet_tasks.errors import StreamFailed, TrivetError
from trivet_tasks.latency import Lane, Latency

if TYPE_CHECKING:
    from anthropic import AsyncStream, Stream

    from trivet.client.answer_streams import AnswerStreams, JobStream
    from trivet.client.jobs import Job
    from trivet.client.stream_loop import StreamLoop


class WaitedJob(Protocol):
    """A job of an asyncio client."""

    id: str
    existed: bool

    def cancel(self) -> Awaitable[bool]:
        """Stop the job."""
        ...


AsyncJobT = TypeVar("AsyncJobT", bound=WaitedJob)


class _Ends:
    """The end of a stream: the job's result, and whether anything of its answer was passed on."""

    def __init__(self, job_id: str, cancels: bool) -> None:
        self.job_id = job_id
        self.cancels = cancels
        self.result: Result | None = None
        self.began = False
        self.over = False

    def event(self, item: StreamItem) -> RawMessageStreamEvent | None:
        """Return the SDK's event of an item; None at the end. StreamFailed where the answer is not whole."""
        if isinstance(item, Event):
            self.began = True
            document = orjson.loads(item.data)
            return construct_type_unchecked(value=document, type_=cast("Any", RawMessageStreamEvent))  # type: ignore[no-any-return]
        self.over = item.result is not None
        self.result = item.result
        if isinstance(item, Ended):
            return None
        raise self._failed(item)

    def to_cancel(self, cancel: bool | None) -> bool:
        """Return whether the job is to be cancelled now."""
        return not self.over and (self.cancels if cancel is None else cancel)

    def _failed(self, broken: Broken) -> StreamFailed:
        what = "broke off" if self.began else "did not come"
        hint = (
            "" if broken.result is not None else f"`client.job({self.job_id!r}).result()` waits for the whole answer."
        )
        message = f"The answer of the job {self.job_id} {what} ({broken.outcome}): {broken.message}"
        return StreamFailed(message, outcome=broken.outcome, began=self.began, hint=hint)


class _Events:
    """The raw events of a job's answer, in the place of the SDK's own stream of a response."""

    def __init__(self, loop: "StreamLoop", stream: "JobStream", ends: _Ends) -> None:
        self._loop = loop
        self._stream = stream
        self._ends = ends

    def __iter__(self) -> Iterator[RawMessageStreamEvent]:
        while items := self._loop.run(self._stream.next()):
            for item in items:
                event = self._ends.event(item)
                if event is not None:
                    yield event

    def close(self) -> None:
        self._loop.leave(self._stream)


class _AsyncEvents:
    """`_Events` for asyncio."""

    def __init__(self, stream: "JobStream", ends: _Ends) -> None:
        self._stream = stream
        self._ends = ends

    async def __aiter__(self) -> AsyncIterator[RawMessageStreamEvent]:
        while items := await self._stream.next():
            for item in items:
                event = self._ends.event(item)
                if event is not None:
                    yield event

    async def close(self) -> None:
        await self._stream.close()


class JobMessageStream(MessageStream[None]):
    """The SDK's `MessageStream` of a job's answer: `text_stream`, events by iteration, `get_final_message()` and so on.

    Every read raises `StreamFailed` where the answer does not come, or breaks off; what was shown is never spliced.
    """

    def __init__(self, job: "Job", loop: "StreamLoop", stream: "JobStream", ends: _Ends) -> None:
        from anthropic import NOT_GIVEN

        self._ends = ends
        self.job = job
        """The job; its `result()` has cost, route and attempts."""
        super().__init__(cast("Stream[RawMessageStreamEvent]", _Events(loop, stream, ends)), cast("Any", NOT_GIVEN))

    @property
    def request_id(self) -> str | None:
        """The provider's id of the call; None before the end of the answer, and of an answer from the cache."""
        return _request_id(self._ends.result)

    def close(self, *, cancel: bool | None = None) -> None:
        """Read no more; done at the end of a `with` block, too.

        Args:
            cancel: whether to cancel a job that has not ended. None: yes in the classes `realtime` and `interactive`, as
                somebody who closes a connection does; jobs of the other classes go on, and their results are kept.
        """
        try:
            super().close()
        finally:
            if self._ends.to_cancel(cancel):
                self._ends.over = True
                self.job.cancel()


class AsyncJobMessageStream(AsyncMessageStream[None], Generic[AsyncJobT]):
    """`JobMessageStream` for asyncio."""

    def __init__(self, job: AsyncJobT, stream: "JobStream", ends: _Ends) -> None:
        from anthropic import NOT_GIVEN

        self._ends = ends
        self.job = job
        """The job; see `JobMessageStream.job`."""
        events = cast("AsyncStream[RawMessageStreamEvent]", _AsyncEvents(stream, ends))
        super().__init__(events, cast("Any", NOT_GIVEN))

    @property
    def request_id(self) -> str | None:
        """The provider's id of the call; see `JobMessageStream.request_id`."""
        return _request_id(self._ends.result)

    async def close(self, *, cancel: bool | None = None) -> None:
        """Read no more; see `JobMessageStream.close`."""
        try:
            await super().close()
        finally:
            if self._ends.to_cancel(cancel):
                self._ends.over = True
                await self.job.cancel()


class JobStreamManager:
    """Result of `Client.stream`: submits the job where the `with` block begins."""

    def __init__(self, submit: "Callable[[], tuple[Job, Latency]]", loop: "Callable[[], StreamLoop]") -> None:
        self._submit = submit
        self._loop = loop
        self._stream: JobMessageStream | None = None

    def __enter__(self) -> JobMessageStream:
        job, latency = self._submit()
        ends = _Ends(job.id, cancels_on_leaving(job, latency))
        try:
            loop = self._loop()
            stream = loop.run(loop.streams.open(job.id))
        except BaseException as error:  # nobody leaves the block that does not begin
            if ends.cancels:
                try:
                    job.cancel()
                except TrivetError as failed:
                    error.add_note(_goes_on(job.id, failed))
            raise
        self._stream = JobMessageStream(job, loop, stream, ends)
        return self._stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()


class AsyncJobStreamManager(Generic[AsyncJobT]):
    """Result of `AsyncClient.stream`; see `JobStreamManager`."""

    def __init__(
        self,
        submit: Callable[[], Awaitable[tuple[AsyncJobT, Latency]]],
        streams: "Callable[[], AnswerStreams]",
    ) -> None:
        self._submit = submit
        self._streams = streams
        self._stream: AsyncJobMessageStream[AsyncJobT] | None = None

    async def __aenter__(self) -> AsyncJobMessageStream[AsyncJobT]:
        job, latency = await self._submit()
        ends = _Ends(job.id, cancels_on_leaving(job, latency))
        try:
            stream = await self._streams().open(job.id)
        except BaseException as error:
            if ends.cancels:
                try:
                    await job.cancel()
                except TrivetError as failed:
                    error.add_note(_goes_on(job.id, failed))
            raise
        self._stream = AsyncJobMessageStream(job, stream, ends)
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            await self._stream.close()


def cancels_on_leaving(job: "Job | WaitedJob", latency: Latency) -> bool:
    """Return whether leaving the stream of a job cancels it."""
    # a job that somebody submitted before, under the same key, is not only ours
    return latency.lane is Lane.REALTIME and not job.existed


def _goes_on(job_id: str, error: TrivetError) -> str:
    return f"The job {job_id} goes on, because it cannot be cancelled: {error}"


def _request_id(result: Result | None) -> str | None:
    if result is None or result.cached or not result.attempts:
        return None
    return result.attempts[-1].request_id
