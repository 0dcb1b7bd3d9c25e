"""A streamed answer: its bytes kept, watched, and read as events, server-sent ones or those of AWS, into an `Assembly`.

Both readers take pieces of any size and return whole events. They hold no more than one event, of bounded size, and
skip what they do not understand: an unknown field, a frame whose checksum does not fit.
"""

import asyncio
import base64
import binascii
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import NamedTuple, Protocol

import httpx2
import orjson
from botocore.eventstream import EventStreamHeaderParser, ParserError

from trivet_worker.adapters.answers import MAX_VALUES, NotJson, is_error, loads
from trivet_worker.adapters.assembly import Assembly
from trivet_worker.adapters.deltas import joined
from trivet_worker.adapters.errors import error_in_body
from trivet_worker.adapters.gathering import GatheredBody
from trivet_worker.adapters.http import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, ErrorAnswer, TooLarge, body_pieces
from trivet_worker.adapters.protocol import EventSink, StreamLimits

MAX_EVENT_BYTES = 16 * 2**20
"""Maximum size of an event. An answer of 300,000 tokens has 2 MB."""
AWS_TYPE = "application/vnd.amazon.eventstream"
_TOO_LARGE = f"an event of the stream is larger than {MAX_EVENT_BYTES // 2**20} MB"
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
_PRELUDE = struct.Struct("!III")
"""Total length, length of the headers, checksum of these two."""
_CHECKSUM_BYTES = 4


class BrokenFraming(Exception):
    """The bytes are no stream of events: the start of the next one cannot be found."""


class StreamEvent(NamedTuple):
    """One event. `data` is JSON in most cases; a stream may name an event or leave that to the data."""

    name: str
    data: bytes


GARBLED = StreamEvent("garbled", b"")
"""Stands for an event that came damaged."""


class EventReader(Protocol):
    """Reads the events of a stream out of its bytes."""

    signs_of_end: tuple[bytes, ...]
    """Bytes that the last event of a stream has, or an error. A text that quotes them has them too."""

    def feed(self, piece: bytes) -> Iterator[StreamEvent]:
        """Yield the events that end in this piece. Raises TooLarge or BrokenFraming."""
        ...

    def rest(self) -> Iterator[StreamEvent]:
        """Yield the last event, ended by the end of the stream, if it is complete."""
        ...


class ServerSentEvents:
    """Reads `text/event-stream` (html.spec.whatwg.org, "Server-sent events")."""

    signs_of_end: tuple[bytes, ...] = (b"message_stop", b'"error"', b"event: error", b"event:error")

    def __init__(self) -> None:
        self._line: list[bytes] = []  # pieces of a line that has not ended
        self._line_bytes = 0
        self._after_cr = False  # a line feed now would belong to the line before
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[StreamEvent]:
        """See `EventReader.feed`."""
        if not piece:
            return
        piece = joined(piece)
        start = 1 if self._after_cr and piece.startswith(b"\n") else 0
        self._after_cr = piece.endswith(b"\r")
        for line in piece[start:].splitlines(keepends=True):
            ends = line.endswith((b"\n", b"\r"))
            if not ends or self._line:
                self._line.append(line)
                self._line_bytes += len(line)
                if self._line_bytes > MAX_EVENT_BYTES:
                    raise TooLarge(_TOO_LARGE)
                if not ends:
                    break
                line = b"".join(self._line)
                self._line, self._line_bytes = [], 0
            yield from self._take(line.rstrip(b"\r\n"))

    def rest(self) -> Iterator[StreamEvent]:
        """See `EventReader.rest`."""
        yield from self._take(b"".join(self._line))
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[StreamEvent]:
        if not line:
            name, data = self._name, self._data
            self._name, self._data, self._data_bytes = "", [], 0
            if data or name:
                yield StreamEvent(name, data[0] if len(data) == 1 else b"\n".join(data))
            return
        field, _, value = line.removeprefix(b"\xef\xbb\xbf").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > MAX_EVENT_BYTES:
                raise TooLarge(_TOO_LARGE)
        elif field == b"event":
            self._name = value[:100].decode("utf-8", "replace")


class AwsEvents:
    """Reads `application/vnd.amazon.eventstream`: frames of headers and a payload, each with checksums.

    The event itself is in the payload, as base64 under `bytes`. An exception becomes an event `error` in the form of
    the Messages API, as the SDK has it.
    """

    # three bytes make four letters, so what an event begins with looks the same in all; other lengths would end in padding
    signs_of_end: tuple[bytes, ...] = (
        base64.b64encode(b'{"type":"message_stop'),
        base64.b64encode(b'{"type":"error"'),
        b":exception-type",
        b":error-code",
    )

    def __init__(self) -> None:
        self._bytes = b""
        self._chunk_headers: bytes | None = None
        """Headers that all frames with an event have, once one has come."""

    def feed(self, piece: bytes) -> Iterator[StreamEvent]:
        """See `EventReader.feed`."""
        plain: list[bytes] = []
        broken: TooLarge | BrokenFraming | None = None
        try:
            for data in self._frames(self._bytes + piece):
                if isinstance(data, bytes):
                    plain.append(data)
                else:
                    yield from _server_sent(plain)
                    plain = []
                    yield data
        except (TooLarge, BrokenFraming) as error:
            broken = error
        yield from _server_sent(plain)
        if broken is not None:
            raise broken

    def rest(self) -> Iterator[StreamEvent]:
        """Yield nothing: a frame says its own length."""
        yield from ()

    def _frames(self, data: bytes) -> Iterator[bytes | StreamEvent]:
        """Yield the data of each whole frame, or another event that it stands for; keep what is left."""
        at, size = 0, len(data)
        try:
            while size - at >= _PRELUDE.size:
                length, headers, checksum = _PRELUDE.unpack_from(data, at)
                end, payload = at + length - _CHECKSUM_BYTES, at + _PRELUDE.size + headers
                if payload <= end <= size - _CHECKSUM_BYTES and length <= MAX_EVENT_BYTES:
                    sound = zlib.crc32(data[at:end]) == int.from_bytes(data[end : end + _CHECKSUM_BYTES], "big")
                else:
                    sound = False
                if not sound:
                    if zlib.crc32(data[at : at + 8]) != checksum:
                        raise BrokenFraming("a frame of the stream has a wrong checksum")
                    if length > MAX_EVENT_BYTES:
                        raise TooLarge(_TOO_LARGE)
                    if end < payload:
                        raise BrokenFraming("a frame of the stream is shorter than its headers")
                    if size - at < length:
                        break
                head = data[at + _PRELUDE.size : payload]
                at += length
                event = self._event(head, data[payload:end]) if sound else GARBLED
                if event:
                    yield event
        finally:
            self._bytes = data[at:]

    def _event(self, head: bytes, payload: bytes) -> bytes | StreamEvent | None:
        """Return the data of a frame, or another event; None for a kind that carries none."""
        if head != self._chunk_headers:
            try:
                headers = EventStreamHeaderParser().parse(head)
            except (ParserError, ValueError, KeyError, IndexError, struct.error):
                return GARBLED
            if headers.get(":message-type") in ("exception", "error"):
                return StreamEvent("error", _exception(headers, payload))
            if headers.get(":event-type", "chunk") != "chunk":
                return None
            self._chunk_headers = head
        try:
            data = binascii.a2b_base64(orjson.loads(payload)["bytes"])
        except (binascii.Error, ValueError, KeyError, TypeError):
            return GARBLED
        return data if b"\n" not in data else StreamEvent("", data)


def _server_sent(events: list[bytes]) -> Iterator[StreamEvent]:
    """Yield events as a reader of server-sent ones does, which joins deltas."""
    if events:
        yield from ServerSentEvents().feed(b"data: %b\n\n" % b"\n\ndata: ".join(events))


def _exception(headers: Mapping[str, object], payload: bytes) -> bytes:
    """Return an exception or error frame as the first-party error body that says the same."""
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        document = None
    said = document if isinstance(document, dict) else {}
    words = said.get("message") or said.get("Message") or headers.get(":error-message")
    kind = headers.get(":exception-type") or headers.get(":error-code")
    error = {"type": str(kind or ""), "message": words if isinstance(words, str) else ""}
    return orjson.dumps({"type": "error", "error": error})


def reader_for(content_type: str, provider: str) -> EventReader:
    """Return the reader of a stream: by its content type, or, without one, by the provider."""
    aws = content_type.startswith(AWS_TYPE) or (provider == "bedrock" and not content_type.startswith("text/"))
    return AwsEvents() if aws else ServerSentEvents()


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
            document = loads(event.data)
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
            self._sink.put(event.data if b"\n" not in event.data else orjson.dumps(document))
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
