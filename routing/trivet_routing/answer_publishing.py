"""Publishing the events of streamed calls to Redis, for all calls of one process together.

Events that come while others are written wait for the next write, so the busier the process, the more go together. A
stream is a convenience for whoever waits, never a reason for a call to fail: where Redis is away, or too much comes, the
rest of that stream is dropped and its reader gets an error, or the whole answer from SQL.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any

import redis

from trivet_routing.answer_stream import AttemptEnd, EntryKind, StreamEntry, StreamSeal, stream_of
from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import Outcome
from trivet_tasks.shared_state import connect_async

log = logging.getLogger("trivet.streams")

MAX_BYTES = 16 * 2**20
"""Maximum bytes of events of one attempt."""
MAX_ENTRIES = 20_000
"""Maximum entries of the stream of one job."""
LIVES_S = 600.0
"""Seconds for which a stream is kept after its last entry: longer than a provider may be silent."""
LIVES_AFTER_END_S = 60.0
"""Seconds for which it is kept after the end of an attempt."""
UNHEARD_S = 5.0
"""Seconds without a reader, from its first event on, after which nothing more of an attempt is published."""
PAUSE_S = 0.01
"""Seconds between two writes, so that the events of fast answers go together."""
CLOSE_WITHIN_S = 1.0
"""Maximum seconds for which closing waits until all is written."""
_URGENT_WRITES = 8
"""Writes at the beginning of an attempt for which nothing waits."""
_SHARE = 1 / 16
"""Share of the age of an answer for which its events wait for more of them, up to `_SMOOTH_S`."""
_SMOOTH_S = 0.25
"""Seconds between two writes that people who read along hardly see."""
_SHARE_OF_LONG = 1 / 4096
"""The same share for an answer of a quarter of an hour and more: half a day of events fits into `MAX_ENTRIES`."""
_WORDS_CHARS = 500
TOO_MUCH = f"the answer is larger than the {MAX_BYTES // 2**20} MB that can be passed on while it comes"
TOO_MANY = f"the answer came in more than the {MAX_ENTRIES:,} pieces that can be passed on while it comes"


def pause_s(age_s: float) -> float:
    """Return the seconds for which the events of an answer of this age wait for more of them."""
    return min(_SHARE * age_s, max(_SMOOTH_S, _SHARE_OF_LONG * age_s))


class AttemptStream:
    """The events of one attempt on their way to the job's stream. Belongs to the event loop of its publisher."""

    def __init__(self, publisher: "AnswerPublisher", job_id: str, attempt_id: str) -> None:
        self.job_id = job_id
        self.attempt_id = attempt_id
        self.writes = 0
        self._begun_at: float | None = None
        self._written_at = 0.0
        self._heard_at = 0.0
        self._publisher = publisher
        self._pending: list[bytes] = []
        self._end: AttemptEnd | None = None
        self._number = 0
        self._bytes = 0
        self._closed = False

    def put(self, event: bytes) -> None:
        """Publish an event: its JSON on one line. Returns at once."""
        if self._closed:
            return
        self._bytes += len(event)
        if self._bytes > MAX_BYTES:
            self.end(Outcome.INCOMPLETE, TOO_MUCH)
            return
        if self._number >= MAX_ENTRIES - 2:
            self.end(Outcome.INCOMPLETE, TOO_MANY)
            return
        self._pending.append(event)
        self._publisher.wake(self)

    def end(self, outcome: Outcome, message: str = "") -> None:
        """Publish the end of the attempt, and with `succeeded` that nothing is missing. Returns at once."""
        if not self._closed:
            self._closed = True
            self._end = AttemptEnd(outcome.value, clean(message, _WORDS_CHARS))
            self._publisher.wake(self)

    def drop(self) -> None:
        """Publish nothing more, not even the end."""
        self._closed = True
        self._pending, self._end = [], None

    @property
    def ended(self) -> bool:
        """Return whether nothing comes after what was taken."""
        return self._closed

    @property
    def urgent(self) -> bool:
        """Return whether nothing is to be waited for: the answer begins, or nothing more comes."""
        return self._closed or self.writes < _URGENT_WRITES

    def due(self, now: float) -> bool:
        """Return whether what is there is to be written now; `now` is of the monotonic clock."""
        return self.urgent or self._begun_at is None or now - self._written_at >= pause_s(now - self._begun_at)

    def wrote(self, now: float, *, heard: bool) -> bool:
        """Note a write, and whether somebody listened. Return whether anybody has lately; `now` is of the monotonic clock."""
        if self._begun_at is None:  # a provider may take longer to begin than nobody may listen
            self._begun_at = self._heard_at = now
        self.writes += 1
        self._written_at = now
        if heard:
            self._heard_at = now
        return now - self._heard_at <= UNHEARD_S

    def taken(self) -> list[StreamEntry]:
        """Return the entries to write now, each once."""
        entries: list[StreamEntry] = []
        if self._pending:
            entries.append(self._entry(EntryKind.EVENTS, b"\n".join(self._pending)))
            self._pending = []
        if self._end is not None:
            entries.append(self._entry(EntryKind.END, self._end.data()))
            self._end = None
        return entries

    def _entry(self, kind: EntryKind, data: bytes) -> StreamEntry:
        self._number += 1
        return StreamEntry(self.attempt_id, self._number - 1, kind, data)


class AnswerPublisher:
    """Writes the events of all streamed calls of one event loop. Connects when there is something to write.

    Args:
        url: of the shared state.
        seal: signs the entries.
    """

    def __init__(self, url: str, seal: StreamSeal) -> None:
        self._url = url
        self._seal = seal
        self._redis: Any = None
        self._waiting: dict[AttemptStream, None] = {}
        self._urgent = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    def open(self, job_id: str, attempt_id: str) -> AttemptStream:
        """Return the stream of an attempt that begins."""
        return AttemptStream(self, job_id, attempt_id)

    def wake(self, stream: AttemptStream) -> None:
        """Write what a stream has to publish, soon."""
        self._waiting[stream] = None
        if stream.urgent:
            self._urgent.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_all())

    async def close(self) -> None:
        """Write the rest, and close the connection."""
        self._closing = True
        self._urgent.set()
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=CLOSE_WITHIN_S)
            self._writer.cancel()
        if self._redis is not None:
            await self._redis.aclose()

    async def _write_all(self) -> None:
        while self._waiting:
            now = time.monotonic()
            streams = [stream for stream in self._waiting if self._closing or stream.due(now)]
            for stream in streams:
                del self._waiting[stream]
            self._urgent.clear()
            try:
                await self._write(streams)
            except (redis.RedisError, OSError) as error:
                log.warning("%d streamed answers cannot be passed on: %s", len(streams), type(error).__name__)
                for stream in streams:
                    stream.drop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), PAUSE_S)

    async def _write(self, streams: list[AttemptStream]) -> None:
        """Write the new entries of these streams in one round trip."""
        if self._redis is None:
            self._redis = connect_async(self._url)
        pipeline = self._redis.pipeline(transaction=False)
        written: list[tuple[AttemptStream, int]] = []
        for stream in streams:
            key = stream_of(stream.job_id)
            entries = stream.taken()
            if not entries:
                continue
            for entry in entries:
                fields = self._seal.fields(stream.job_id, entry)
                pipeline.xadd(key, fields, maxlen=MAX_ENTRIES, approximate=True)
            lives_s = LIVES_AFTER_END_S if stream.ended else LIVES_S
            pipeline.pexpire(key, int(lives_s * 1_000))
            pipeline.publish(key, b"")
            written.append((stream, len(entries) + 2))
        if not written:
            return
        answers = await pipeline.execute(raise_on_error=False)
        now = time.monotonic()
        at = 0
        unheard: list[AttemptStream] = []
        for stream, commands in written:
            of_stream = answers[at : at + commands]
            at += commands
            if any(isinstance(answer, Exception) for answer in of_stream):
                stream.drop()
            elif not stream.wrote(now, heard=bool(of_stream[-1])) and not stream.ended:
                stream.drop()
                unheard.append(stream)
        if unheard:  # a reader that comes later gets the whole answer instead of its beginning
            await self._redis.delete(*(stream_of(stream.job_id) for stream in unheard))
