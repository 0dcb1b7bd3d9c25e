"""A streamed answer: its bytes read as events, server-sent ones or those of AWS, and the events put into an `Assembly`.

Both readers take pieces of any size and return whole events. They hold no more than one event, of bounded size, and
skip what they do not understand: an unknown field, a frame whose checksum does not fit.
"""

import asyncio
import base64
import binascii
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple, Protocol

import httpx2
import orjson
from botocore.eventstream import EventStreamHeaderParser, ParserError

from trivet_worker.adapters.answers import MAX_VALUES, NotJson, is_error, loads
from trivet_worker.adapters.assembly import Assembly
from trivet_worker.adapters.errors import error_in_body
from trivet_worker.adapters.http import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, ErrorAnswer, TooLarge, body_pieces

MAX_EVENT_BYTES = 16 * 2**20
"""Maximum size of an event. An answer of 300,000 tokens has 2 MB."""
AWS_TYPE = "application/vnd.amazon.eventstream"
_TOO_LARGE = f"an event of the stream is larger than {MAX_EVENT_BYTES // 2**20} MB"
_MAX_VALUES = 2 * MAX_VALUES
"""Maximum number of values in all events of a stream: most are gone once they are read."""
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

    def feed(self, piece: bytes) -> Iterator[StreamEvent]:
        """Yield the events that end in this piece. Raises TooLarge or BrokenFraming."""
        ...

    def rest(self) -> Iterator[StreamEvent]:
        """Yield the last event, ended by the end of the stream, if it is complete."""
        ...


class ServerSentEvents:
    """Reads `text/event-stream` (html.spec.whatwg.org, "Server-sent events")."""

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

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, piece: bytes) -> Iterator[StreamEvent]:
        """See `EventReader.feed`."""
        self._bytes += piece
        at = 0
        try:
            while len(self._bytes) - at >= _PRELUDE.size:
                length, headers, checksum = _PRELUDE.unpack_from(self._bytes, at)
                if zlib.crc32(self._bytes[at : at + 8]) != checksum:
                    raise BrokenFraming("a frame of the stream has a wrong checksum")
                if length > MAX_EVENT_BYTES:
                    raise TooLarge(_TOO_LARGE)
                if length < _PRELUDE.size + headers + _CHECKSUM_BYTES:
                    raise BrokenFraming("a frame of the stream is shorter than its headers")
                if len(self._bytes) - at < length:
                    break
                frame = bytes(self._bytes[at : at + length])
                at += length
                yield from _event(frame, headers)
        finally:
            del self._bytes[:at]

    def rest(self) -> Iterator[StreamEvent]:
        """Yield nothing: a frame says its own length."""
        yield from ()


def _event(frame: bytes, header_bytes: int) -> Iterator[StreamEvent]:
    (checksum,) = struct.unpack("!I", frame[-_CHECKSUM_BYTES:])
    if zlib.crc32(frame[:-_CHECKSUM_BYTES]) != checksum:
        yield GARBLED
        return
    payload = frame[_PRELUDE.size + header_bytes : -_CHECKSUM_BYTES]
    try:
        headers = EventStreamHeaderParser().parse(frame[_PRELUDE.size : _PRELUDE.size + header_bytes])
    except (ParserError, ValueError, KeyError, IndexError, struct.error):
        yield GARBLED
        return
    if headers.get(":message-type") in ("exception", "error"):
        yield StreamEvent("error", _exception(headers, payload))
        return
    try:
        yield StreamEvent("", base64.b64decode(orjson.loads(payload)["bytes"]))
    except (binascii.Error, ValueError, KeyError, TypeError):
        if headers.get(":event-type", "chunk") == "chunk":
            yield GARBLED


def _exception(headers: dict[str, object], payload: bytes) -> bytes:
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


async def assemble(response: httpx2.Response, reader: EventReader, assembly: Assembly, encoding: str) -> None:
    """Feed a stream to `assembly`, to its last event; then read the rest, so that the connection can be used again.

    Raises:
        ErrorAnswer: an event is an error.
        TooLarge
        httpx2.HTTPError: and what else the network raises. What `assembly` has by then may be whole.
    """
    values = 0
    async with contextlib.aclosing(body_pieces(response, MAX_ANSWER_BYTES, encoding)) as pieces:
        async for event in _events(pieces, reader, assembly):
            values += event.data.count(b",") + event.data.count(b"[") + event.data.count(b"{")
            if values > _MAX_VALUES:
                raise TooLarge(f"the stream holds more than {_MAX_VALUES:,} values")
            _take(event, assembly, response.headers)
            if assembly.ended:
                break
        await _drain(pieces)
    await response.aclose()


async def _events(pieces: AsyncIterator[bytes], reader: EventReader, assembly: Assembly) -> AsyncIterator[StreamEvent]:
    try:
        async for piece in pieces:
            for event in reader.feed(piece):
                yield event
        if not assembly.is_whole:  # what was cut off behind a whole message is nothing of it
            for event in reader.rest():
                yield event
    except BrokenFraming as error:
        assembly.spoil(str(error))


def _take(event: StreamEvent, assembly: Assembly, headers: httpx2.Headers) -> None:
    if event is GARBLED:
        return assembly.spoil("an event of the stream is garbled")
    if not event.data or event.data == _DONE or event.name == "ping":
        return None
    try:
        document = loads(event.data)
    except NotJson:
        if event.name == "error":
            raise ErrorAnswer(200, headers, event.data[:MAX_ERROR_BYTES].decode("utf-8", "replace")) from None
        return assembly.spoil("an event of the stream is garbled")
    if event.name == "error" or is_error(document):
        raise error_in_body(document, headers)
    assembly.take(document)
    return None


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read the rest. The message is complete, so no error here matters."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in pieces:
                pass
