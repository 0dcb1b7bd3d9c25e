"""Reading answers while they come, in one event loop: any number of streamed jobs over one subscription.

Three tasks serve all readers: one listens to notices, one reads the entries of the streams that have news, one looks at SQL.
A notice only wakes; a lost one delays. What ends a reader is SQL: a job that has ended, or that is no more where the shown
call was made. So a killed worker, an emptied Redis or a lost notice never leaves a reader waiting.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import redis

from trivet.client.own_faults import kept_up, read_apart
from trivet.client.result import Result, read_ends
from trivet.client.stream_notices import StreamNotices
from trivet_routing.answer_publishing import LIVES_AFTER_END_S
from trivet_routing.answer_reading import AnswerReading, Cut
from trivet_routing.answer_stream import StreamSeal, stream_of
from trivet_routing.message_events import Event
from trivet_store.database.engine import Store
from trivet_tasks.config.installation_key import read_key
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ClientClosed, TrivetError
from trivet_tasks.outcomes import Outcome
from trivet_tasks.shared_state import connect_async
from trivet_tasks.states import JobState

log = logging.getLogger("trivet")

LOOK_EVERY_S = 2.0
"""Seconds between two looks at the jobs of all readers in SQL."""
FIRST_LOOK_S = 0.1
"""Seconds after which a reader looks first: its job may have ended before it listened."""
LATE_S = 2.0
"""Seconds for which events that have not arrived are waited for once their job has ended."""
AGAIN_S = 0.5
"""Seconds until the next try after the shared state failed."""
BUSY_READERS = 16
"""Answers that are read at a time from which on their news is given time to gather."""
GATHER_S = 0.02
"""Seconds of that time."""
CLOSE_WITHIN_S = 2.0
"""Maximum seconds for which closing waits for a look at SQL."""
_MAX_UNREAD_BYTES = 2**20
"""Bytes of events that wait for a slow reader before no more are read for it: they stay in Redis meanwhile."""
_ENTRIES_AT_ONCE = 100
_JOBS_AT_ONCE = 200
_LOOKS_AT_ONCE = 1
_CALLED = frozenset({JobState.RUNNING})
"""States of a job whose shown call may still be under way."""


class Ended(NamedTuple):
    """The end of a stream that was shown whole: the job succeeded, and its stored answer is what was shown."""

    result: Result


class Broken(NamedTuple):
    """The end of a stream that was not, and will not be, shown whole. With a result the job has ended, too."""

    outcome: str
    """An outcome of the table of outcomes, e.g. `overloaded`; of a job that expired or was cancelled, its state."""
    message: str
    """The reason, for a person; never a prompt."""
    result: Result | None


class AnyJob(Protocol):
    """A job, of whichever client."""

    id: str


StreamItem: TypeAlias = Event | Ended | Broken
"""A part of a streamed answer; `Ended` or `Broken` is the last."""


@dataclass(eq=False)
class _Watch:
    """One reader of one job's answer."""

    job_id: str
    reading: AnswerReading = field(default_factory=AnswerReading)
    after: str = "-"
    items: list[StreamItem] = field(default_factory=list)
    unread_bytes: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    ended: Result | None = None

    def show(self) -> None:
        """Pass on what may be shown."""
        events = self.reading.events()
        self.items += events
        self.unread_bytes += sum(len(event.data) for event in events)
        if self.over:
            return
        if self.reading.cut is not None:
            self.items.append(_broken(self.reading.cut, self.ended))
            self.over = True
        elif self.reading.complete and self.ended is not None:
            self.items.append(Ended(self.ended))
            self.over = True
        if self.items:
            self.news.set()

    def fail(self, broken: Broken) -> None:
        """End the stream otherwise."""
        if not self.over:
            self.items.append(broken)
            self.over = True
            self.news.set()


class JobStream:
    """The answer of one job while it comes; made by `AnswerStreams.open`."""

    def __init__(self, streams: "AnswerStreams", watch: _Watch) -> None:
        self._streams = streams
        self._watch = watch

    async def next(self) -> list[StreamItem]:
        """Wait for the next items and return them; none once the last was returned.

        Raises:
            ClientClosed: the client was closed.
        """
        watch = self._watch
        while not watch.items and not watch.over:
            watch.news.clear()
            self._streams.check_open()
            await watch.news.wait()
        self._streams.check_open()
        items, watch.items = watch.items, []
        if watch.unread_bytes > _MAX_UNREAD_BYTES:
            self._streams.read_on(watch)
        watch.unread_bytes = 0
        return items

    async def close(self) -> None:
        """Read no more. The job goes on."""
        await self._streams.leave(self._watch)


class AnswerStreams:
    """Readers of streamed answers, for one event loop; one per process is enough for thousands of jobs.

    Made by `Client.answer_streams`; closed with `await close()`.

    Example:
        streams = client.answer_streams()
        job = client.submit_streamed("Tell me …", model="claude-sonnet-5-5", max_tokens=900)
        async for item in streams.events(job):
            ...
    """

    def __init__(self, settings: Settings, store: Callable[[], Store]) -> None:
        self._url = settings.redis_url
        self._store = store
        key = read_key(settings)
        self._seal = None if key is None else StreamSeal(key)
        if key is None:
            log.warning("answers are shown when they are whole, not while they come: [security] key is not set")
        self._watches: dict[str, set[_Watch]] = {}
        self._redis: Any = None
        self._notices = StreamNotices(self._read_on_all, self._look_soon)
        self._serving: asyncio.Task[None] | None = None
        self._unread: dict[_Watch, None] = {}
        self._unread_due = asyncio.Event()
        self._finished: set[str] = set()
        self._looking: asyncio.Future[dict[str, Result | JobState | TrivetError]] | None = None
        self._look_due = asyncio.Event()
        self._threads = ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="trivet-streams")
        self._closed = False

    async def events(self, job: AnyJob) -> AsyncIterator[StreamItem]:
        """Yield the events of a job's answer as they come, then `Ended` or `Broken`.

        Begin it once the job is submitted, with `submit_streamed` or otherwise: the answer of a job that is not streamed,
        or that has ended, comes as the events of the whole message.

        Raises:
            ClientClosed: the client was closed.
        """
        stream = await self.open(job.id)
        try:
            while items := await stream.next():
                for item in items:
                    yield item
        finally:
            await stream.close()

    async def open(self, job_id: str) -> JobStream:
        """Begin to read the answer of a job."""
        self.check_open()
        self._start()
        watch = _Watch(job_id)
        self._watches.setdefault(job_id, set()).add(watch)
        try:
            self.read_on(watch)
            # it may have ended already: no notice comes then
            asyncio.get_running_loop().call_later(FIRST_LOOK_S, self._look_soon, [job_id])
            await self._notices.add(job_id)
        except BaseException:  # nobody would ever leave it
            await self.leave(watch)
            raise
        return JobStream(self, watch)

    async def leave(self, watch: _Watch) -> None:
        """Forget a reader."""
        readers = self._watches.get(watch.job_id)
        if readers is None:
            return
        readers.discard(watch)
        self._unread.pop(watch, None)
        if readers:
            return
        del self._watches[watch.job_id]
        await self._notices.remove(watch.job_id)

    def read_on(self, watch: _Watch) -> None:
        """Read the entries that a reader has not had."""
        self._unread[watch] = None
        self._unread_due.set()

    def check_open(self) -> None:
        """Raise ClientClosed after `close`."""
        if self._closed:
            raise ClientClosed("The client was closed: streamed answers are read no more.")

    async def close(self) -> None:
        """Close the connections. Readers raise `ClientClosed`; jobs go on."""
        self._end_reading()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        if self._looking is not None:  # its connection must be back before the store is closed
            await asyncio.wait([self._looking], timeout=CLOSE_WITHIN_S)
            if self._looking.done() and not self._looking.cancelled():
                self._looking.exception()

    def _start(self) -> None:
        if self._serving is None:
            self._redis = connect_async(self._url)
            self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        """Serve all readers until `close`, or until the event loop ends, as `asyncio.run` does by cancelling its tasks."""
        tasks = [
            asyncio.create_task(kept_up(work, "streamed answers are"))
            for work in (self._listen, self._read, self._look)
        ]
        try:
            await asyncio.wait(tasks)
        finally:
            self._end_reading()
            while left := [task for task in tasks if not task.done()]:
                for task in left:  # a library may swallow it, e.g. in the middle of connecting
                    task.cancel()
                await asyncio.wait(left, timeout=AGAIN_S)
            await self._redis.aclose()
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _end_reading(self) -> None:
        self._closed = True
        for watch in self._all():
            watch.news.set()

    def _all(self) -> list[_Watch]:
        return [watch for readers in self._watches.values() for watch in readers]

    # notices

    async def _listen(self) -> None:
        while True:
            try:
                await self._notices.listen(self._redis)
            except (redis.RedisError, OSError) as error:
                log.debug("no notices of streamed answers: %s", error)
            await asyncio.sleep(AGAIN_S)

    def _read_on_all(self, job_id: str) -> None:
        for watch in self._watches.get(job_id, ()):
            self.read_on(watch)

    def _look_soon(self, job_ids: Iterable[str]) -> None:
        self._finished.update(job_ids)
        self._look_due.set()

    # entries

    async def _read(self) -> None:
        while True:
            await self._unread_due.wait()
            if len(self._watches) >= BUSY_READERS:
                await asyncio.sleep(GATHER_S)  # so that one round trip reads for many, and several events of each
            self._unread_due.clear()
            watches = [w for w in self._unread if not w.over and w.unread_bytes <= _MAX_UNREAD_BYTES]
            self._unread = {}
            if not watches or self._seal is None:
                continue
            try:
                await self._read_entries(watches, self._seal)
            except (redis.RedisError, OSError) as error:
                log.debug("streamed answers cannot be read: %s", error)
                self._unread |= dict.fromkeys(watches)
                await asyncio.sleep(AGAIN_S)
                self._unread_due.set()

    async def _read_entries(self, watches: Sequence[_Watch], seal: StreamSeal) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for watch in watches:
            pipeline.xrange(stream_of(watch.job_id), min=watch.after, count=_ENTRIES_AT_ONCE)
        answers = await pipeline.execute(raise_on_error=False)
        for watch, entries in zip(watches, answers, strict=True):
            if isinstance(entries, redis.ResponseError):  # a foreign value of another type
                continue
            if isinstance(entries, Exception):
                raise entries
            for number, fields in entries:
                watch.after = f"({number.decode()}"
                entry = seal.open(watch.job_id, fields)
                if entry is not None:
                    watch.reading.take(entry)
            if (ended := watch.ended) is not None:
                watch.reading.conclude(_answering(ended), ended.message, patient=True)
            watch.show()
            if len(entries) == _ENTRIES_AT_ONCE:
                self.read_on(watch)

    # the database

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        next_all = loop.time() + LOOK_EVERY_S
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_due.wait(), max(0.0, next_all - loop.time()))
            self._look_due.clear()
            if loop.time() >= next_all:
                next_all = loop.time() + LOOK_EVERY_S
                self._finished |= self._watches.keys()
            wanted = [job_id for job_id in self._finished if job_id in self._watches]
            self._finished = set()
            for at in range(0, len(wanted), _JOBS_AT_ONCE):
                await self._look_at(wanted[at : at + _JOBS_AT_ONCE])

    async def _look_at(self, ids: Sequence[str]) -> None:
        shown = {watch: watch.reading.shown for job_id in ids for watch in self._watches.get(job_id, ())}
        try:
            self._looking = asyncio.get_running_loop().run_in_executor(self._threads, read_apart, self._states, ids)
            states = await asyncio.shield(self._looking)
        except ClientClosed:
            self._end_reading()
            return
        except TrivetError as error:  # the next look is soon
            log.debug("the jobs of streamed answers cannot be looked at: %s", error)
            return
        for watch, attempt in shown.items():
            found = states.get(watch.job_id)
            if watch.over:
                continue
            if found is None:
                watch.fail(Broken("not_found", f"No job has the id {watch.job_id!r}.", None))
            elif isinstance(found, TrivetError):
                watch.fail(Broken("unreadable", found.message, None))
            elif isinstance(found, Result):
                self._conclude(watch, found)
            elif attempt and found not in _CALLED:
                watch.reading.given_up()
            watch.show()

    def _states(self, ids: Sequence[str]) -> dict[str, Result | JobState]:
        """Return for each job its result, or the state of one that has not ended."""
        with self._store().read() as connection:
            return read_ends(connection, ids)

    def _conclude(self, watch: _Watch, result: Result) -> None:
        """Let the reader have the rest, now that its job has ended."""
        known, watch.ended = watch.ended, result
        if result.message is None:
            if watch.reading.cut is None:
                watch.fail(_unsuccessful(result))
        elif not watch.reading.conclude(_answering(result), result.message, patient=True) and known is None:
            self.read_on(watch)
            loop = asyncio.get_running_loop()
            loop.call_later(LATE_S, self._give_up, watch, result, watch.after, loop.time() + LIVES_AFTER_END_S)

    def _give_up(self, watch: _Watch, result: Result, after: str, until: float) -> None:
        """Wait no more for events that have not arrived: none did in `LATE_S`, and none is still to be read.

        Args:
            after: the last entry that was read when this was called before.
            until: time of the event loop after which the stream is no more in Redis.
        """
        if watch.over or watch not in self._watches.get(watch.job_id, ()):
            return
        loop = asyncio.get_running_loop()
        slow = watch.unread_bytes > _MAX_UNREAD_BYTES or watch in self._unread
        if loop.time() < until and (slow or watch.after != after):
            loop.call_later(LATE_S, self._give_up, watch, result, "" if slow else watch.after, until)
            return
        watch.reading.conclude(_answering(result), result.message)
        watch.show()


def _answering(result: Result) -> str | None:
    """Return the attempt whose answer is the result; None where that came from the cache."""
    if result.cached:
        return None
    ids = [attempt.id for attempt in result.attempts if attempt.outcome == Outcome.SUCCEEDED.value]
    return ids[-1] if ids else None


def _broken(cut: Cut, result: Result | None) -> Broken:
    return Broken(cut.outcome, cut.message, result)


def _unsuccessful(result: Result) -> Broken:
    error = result.error
    if error is None:
        return Broken("pruned", "Its result was pruned.", result)
    return Broken(error.outcome or result.status, error.message, result)
