"""A streamed answer: its bytes kept, watched, and read as events into an `Assembly`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx2

from trivet_worker.adapters.answers import MAX_VALUES, NotJson, dumps, is_error, read_json
from trivet_worker.adapters.assembly import Assembly
from trivet_worker.adapters.errors import error_in_body
from trivet_worker.adapters.gathering import GatheredBody
from trivet_worker.adapters.http import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, ErrorAnswer, TooLarge, body_pieces
from trivet_worker.adapters.protocol import EventSink, StreamLimits
from trivet_worker.adapters.stream_events import GARBLED, BrokenFraming, EventReader, StreamEvent

_MAX_VALUES = 2 * MAX_VALUES
"""Maximum number of values in all events of a stream: most are gone once they are read."""
_MAX_KEPT_BYTES = 2**20
"""Maximum size of what is kept unread."""
_LONGEST_SIGN = 40
_FIRST_BYTE_S = 30.0
"""Seconds to the first byte of an answer to a short request. Twice as many where the model thinks first, or where no
pings are sent."""
_BYTES_PER_S = 40_000
"""Bytes of a request that take a second more: about 10,000 tokens."""
_STALL_S = 30.0
"""Seconds between two bytes of an answer. Twice as many where no pings are sent."""
_STALL_THINKING_S = 300.0
"""Seconds between two bytes of an answer by a model that thinks, where no pings are sent."""
_THINKING = b'"thinking":'
"""Part of a request that has the model think; a dialogue that has thoughts in it has it too."""
_DRAIN_S = 1.0
"""Seconds after a stream's last event to wait for the end of the body, without which the connection cannot be reused."""
_DONE = b"[DONE]"
"""The last event of other vendors' streams, which gateways add."""


def silence_limits(limits: StreamLimits, body: bytes, *, pings: bool) -> tuple[float, float]:
    """Return the seconds to the first byte of an answer and between two of its bytes.

    Args:
        limits: those that the class sets, if any.
        body: the request. A long one takes time to read; a model that thinks may be silent for minutes.
        pings: the wire sends pings meanwhile.
    """
    thinks = _THINKING in body
    stall_s = _STALL_S if pings else _STALL_THINKING_S if thinks else 2 * _STALL_S
    first_byte_s = _FIRST_BYTE_S * (1 + thinks) * (1 if pings else 2) + len(body) / _BYTES_PER_S
    return limits.first_byte_s or first_byte_s, limits.stall_s or stall_s


class Silence:
    """Watch over a streamed call: ends it when its first byte stays away, or the next one."""

    def __init__(self, guard: asyncio.Timeout, first_byte_s: float, stall_s: float) -> None:
        """Begin to watch.

        Args:
            guard: the call's timeout, which is brought forward to end it.
            first_byte_s: seconds from now to the first byte. Nothing ends sooner, also after a first byte.
            stall_s: seconds between two bytes.
        """
        self.first_byte_s, self.stall_s = first_byte_s, stall_s
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._heard: float | None = None
        self._check = self._loop.call_later(first_byte_s, self._look)
        self.ended = False
        """True once it has ended the call."""

    def words(self, received: int) -> str:
        """Return the reason for which it ended the call, after so many bytes."""
        if self._heard is None:
            return f"no byte of its answer within {self.first_byte_s:.3g} s"
        return f"no byte for {self.stall_s:.3g} s after {received:,} bytes"

    def hear(self) -> None:
        """Note that bytes have come."""
        self._heard = self._loop.time()

    def close(self) -> None:
        """Watch no more."""
        self._check.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        due = now if self._heard is None else max(self._begun + self.first_byte_s, self._heard + self.stall_s)
        if now < due:
            self._check = self._loop.call_at(due, self._look)
        elif not self._guard.expired():
            self.ended = True
            self._guard.reschedule(now)


class StreamedAnswer:
    """A streamed answer: its bytes are kept as they come, and read together once its message may have ended.

    With a sink each piece is read as it comes, and its events are passed on.
    """

    def __init__(self, reader: EventReader, headers: httpx2.Headers, sink: EventSink | None = None) -> None:
        self.assembly = Assembly()
        self._sink = sink
        self._reader = reader
        self._headers = headers
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._tail = b""
        self._values = 0
        self.received = 0
        """Number of bytes that have come."""
        self.over = False
        """True if nothing that still comes can change the message."""

    def may_end(self, piece: bytes) -> bool:
        """Return whether a piece has a sign of the end."""
        for sign in self._reader.signs_of_end:  # noqa: SIM110 - run for each piece, where `any` takes twice as long
            if sign in piece:
                return True
        return False

    def keep(self, piece: bytes) -> None:
        """Keep a piece; read what is kept if it has a sign of the end, or has become large.

        Raises:
            ErrorAnswer: an event is an error.
            TooLarge
        """
        self.add(piece)
        if self._sink is not None:
            self.read()
            return
        seen = self._tail + piece
        self._tail = seen[-_LONGEST_SIGN:]
        if self._kept_bytes > _MAX_KEPT_BYTES or self.may_end(seen):
            self.read()

    def add(self, piece: bytes) -> None:
        """Keep a piece, to be read later. TooLarge with too many bytes."""
        self._kept.append(piece)
        self._kept_bytes += len(piece)
        self.received += len(piece)
        if self.received > MAX_ANSWER_BYTES:
            raise TooLarge(f"the answer is larger than {MAX_ANSWER_BYTES // 2**20} MB")

    def read(self) -> None:
        """Read what is kept. Raises as `keep` does."""
        kept, self._kept, self._kept_bytes = b"".join(self._kept), [], 0
        try:
            for event in self._reader.feed(kept):
                self._take(event)
        except BrokenFraming as error:
            self.assembly.spoil(str(error))
            self.over = True

    def end(self) -> None:
        """Read the rest of a body that has ended. Raises as `keep` does."""
        self.read()
        if not self.assembly.is_whole:  # what was cut off behind a whole message is nothing of it
            for event in self._reader.rest():
                self._take(event)

    def _take(self, event: StreamEvent) -> None:
        if self.over:
            return None
        self._values += event.data.count(b",") + event.data.count(b"[") + event.data.count(b"{")
        if self._values > _MAX_VALUES:
            raise TooLarge(f"the stream holds more than {_MAX_VALUES:,} values")
        if event is GARBLED:
            return self.assembly.spoil("an event of the stream is garbled")
        if not event.data or event.data == _DONE or event.name == "ping":
            return None
        try:
            document, repaired = read_json(event.data)
        except NotJson:
            if event.name == "error":
                words = event.data[:MAX_ERROR_BYTES].decode("utf-8", "replace")
                raise ErrorAnswer(200, self._headers, words) from None
            return self.assembly.spoil("an event of the stream is garbled")
        if event.name == "error" or is_error(document):
            raise error_in_body(document, self._headers)
        self.assembly.take(document)
        self.over = self.assembly.ended
        if self._sink is not None and not self.assembly.spoiled and isinstance(document.get("type"), str):
            as_it_came = not repaired and b"\n" not in event.data and b"\r" not in event.data
            self._sink.put(event.data if as_it_came else dumps(document))
        return None


class _Reading:
    """Reading of a streamed answer under the watch of its silence: a `BodyReader`."""

    def __init__(self, answer: StreamedAnswer, silence: Silence, until: float) -> None:
        self._answer = answer
        self.stall_s, self.until = silence.stall_s, until
        self.hear, self.may_end = silence.hear, answer.may_end

    def keep(self, piece: bytes) -> bool:
        """See `BodyReader.keep`. Raises as `StreamedAnswer.keep` does."""
        self._answer.keep(piece)
        return self._answer.over


async def receive(
    response: httpx2.Response,
    encoding: str,
    answer: StreamedAnswer,
    silence: Silence,
    gathered: GatheredBody | None,
    until: float,
) -> None:
    """Receive a stream up to its last event; then the rest, so that the connection can be used again.

    Args:
        gathered: the body, as far as it is gathered.
        until: time of the event loop at which the call is over.

    Raises:
        ErrorAnswer: an event is an error.
        TooLarge
        httpx2.HTTPError: and what else the network raises. What `answer` has by then may be whole.
    """
    reading = _Reading(answer, silence, until)
    if gathered is not None:
        try:
            await gathered.read(reading)
        finally:
            answer.add(gathered.unread())
    async with contextlib.aclosing(body_pieces(response, MAX_ANSWER_BYTES, encoding)) as pieces:
        if not answer.over:
            async for piece in pieces:
                reading.hear()
                if reading.keep(piece):
                    break
        answer.end()
        await _drain(pieces)
    await response.aclose()


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read the rest. The message is complete, so no error here matters."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in pieces:
                pass
