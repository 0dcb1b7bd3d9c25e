"""Readers of the events of a stream: server-sent ones, and those of AWS.

Both take pieces of any size and return whole events. They hold no more than one event, of bounded size, and skip what
they do not understand: an unknown field, a frame whose checksum does not fit.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import orjson
from botocore.eventstream import EventStreamHeaderParser, ParserError

from trivet_worker.adapters.deltas import joined
from trivet_worker.adapters.http import TooLarge

MAX_EVENT_BYTES = 16 * 2**20
"""Maximum size of an event. An answer of 300,000 tokens has 2 MB."""
AWS_TYPE = "application/vnd.amazon.eventstream"
_TOO_LARGE = f"an event of the stream is larger than {MAX_EVENT_BYTES // 2**20} MB"
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
