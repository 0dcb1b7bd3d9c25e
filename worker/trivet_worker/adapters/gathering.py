"""Gathering of a streamed answer: the kernel keeps its bytes until many are there, and aiohttp never sees them.

Providers send each event of a stream as an HTTP chunk and a TCP segment of its own, 1,000 of them for 3,000 tokens.
Reading and parsing each one as it comes takes several times the CPU of a plain call, and nobody watches. So between two
reads of such an answer the socket is readable only once it holds much (`SO_RCVLOWAT`), for a time that grows with the
stream's age. `GatheredBody` stands between the connection and aiohttp meanwhile: it takes the chunks apart itself, and
gives aiohttp only the head of the answer and its end, which is all that aiohttp needs to keep the connection.

An answer of any other kind is left to aiohttp from its first byte: one with a length, a compressed one, an error, one
whose head comes in pieces. Where `SO_RCVLOWAT` does not work as on Linux, each event is read as it comes.
"""

import asyncio
import math
import re
import socket
import sys
from typing import Any, Protocol

import aiohttp

_SHARE = 1 / 16
"""Share of a stream's age for which its bytes may wait in the kernel, and so by which its end may be late."""
_LONGEST_S = 1.0
"""Maximum number of seconds for which bytes wait in the kernel."""
_SHORTEST_S = 0.02
"""Seconds that are not worth waiting."""
_TOGETHER_S = 1 / 32
"""Seconds within which the waits of all streams end together, so that one turn of the event loop reads many."""
_SHARE_OF_STALL = 1 / 4
"""Share of the limit between two bytes for which bytes may wait unseen."""
_MANY_BYTES = 64 * 2**10
"""Bytes that are read at once, however short the time since the last read."""
_WAKES = sys.platform == "linux"
"""True if a reader is woken when its socket becomes readable because `SO_RCVLOWAT` was lowered."""
_STATUS = re.compile(rb"HTTP/1\.1 200[ \r]")
_HEADERS = re.compile(rb"\n(transfer-encoding|content-encoding|content-type):([^\r\n]*)")
_HEAD_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
_KINDS = (b"text/event-stream", b"application/vnd.amazon.eventstream")
_FIRST_LINE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_FIRST_LINES = re.compile(rb"\r\n([0-9a-fA-F]{1,8})\r\n")
_LONGEST_LINE = 256
_SEVERAL_BYTES = 1_000
"""Bytes that may be several chunks."""
_NO_CHUNK = b"?"
"""Begins no chunk, so that aiohttp breaks the answer off."""

_MAX_KEPT_BYTES = 2**20
"""Maximum size of what is kept unread."""
_LONGEST_SIGN = 40


class BodyReader(Protocol):
    """Reads a body that is gathered. The event loop calls it."""

    stall_s: float
    """Seconds between two bytes after which the call is given up."""
    until: float
    """Time of the event loop at which the call is given up: the bytes there by then shall have been read."""

    def hear(self) -> None:
        """Note that bytes have come."""
        ...

    def may_end(self, piece: bytes) -> bool:
        """Return whether a piece may hold the end of the message: it is to be read now."""
        ...

    def keep(self, piece: bytes) -> bool:
        """Take the next piece of the body. True if no more is needed."""
        ...


class Chunks:
    """Takes the chunks of HTTP/1.1 apart."""

    def __init__(self) -> None:
        self._left = 0  # bytes still to come of the current chunk and of the line end behind it
        self._line = b""  # the beginning of a chunk's first line

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the payload in `data`, and the rest from the last chunk on, or from what is none; None: more is to come."""
        data = self._line + data
        pieces: list[bytes] = []
        at = 0 if self._left or len(data) < _SEVERAL_BYTES else self._several(data, pieces)
        rest = self._each(data, at, pieces)
        return b"".join(pieces), rest

    def _several(self, data: bytes, pieces: list[bytes]) -> int:
        """Add the payload of the first chunks if they are as they seem to be; return where the next begins.

        Each by itself takes four times as long.
        """
        _, *parts = _FIRST_LINES.split(b"\r\n" + data)
        payloads = parts[1:-1:2]
        lengths = [int(length, 16) for length in parts[:-2:2]]
        if lengths != [len(payload) for payload in payloads]:
            return 0
        pieces += payloads
        return sum(lengths) + sum(map(len, parts[:-2:2])) + 2 * len(_LINE_END) * len(lengths)

    def _each(self, data: bytes, at: int, pieces: list[bytes]) -> bytes | None:
        size, left = len(data), self._left
        self._line = b""
        while at < size:
            if left > len(_LINE_END):
                end = min(at + left - len(_LINE_END), size)
                pieces.append(data[at:end])
                left -= end - at
                at = end
            elif left:
                line_end = data[at : at + left]
                if not _LINE_END[-left:].startswith(line_end):
                    return _NO_CHUNK
                at += len(line_end)
                left -= len(line_end)
            elif found := _FIRST_LINE.match(data, at):
                length = int(found[1], 16)
                if not length:
                    return data[at:]
                at, left = found.end(), length + len(_LINE_END)
            else:
                line = data[at:]
                if b"\n" in line or len(line) > _LONGEST_LINE:
                    return line
                self._line = line
                break
        self._left = left
        return None


class GatheredBody(asyncio.Protocol):
    """The body of a streamed answer on its way from the connection to its reader, past aiohttp.

    It is the connection's protocol from before the request to the end of the answer, and passes on to aiohttp what is
    none of the body.
    """

    def __init__(self, transport: asyncio.Transport, below: asyncio.Protocol) -> None:
        """Take the place of `below` as the protocol of the connection."""
        self._transport = transport
        self._below = below
        self._socket: Any = transport.get_extra_info("socket")
        self._loop = asyncio.get_running_loop()
        self._reader: BodyReader | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._tail = b""
        self._chunks = Chunks()
        self._comes = False
        self._begun = 0.0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    @classmethod
    def on(cls, connection: aiohttp.connector.Connection) -> "GatheredBody | None":
        """Return one for the next answer on a connection; None where the connection is lost already."""
        transport, below = connection.transport, connection.protocol
        return None if transport is None or below is None else cls(transport, below)

    async def read(self, reader: BodyReader) -> None:
        """Give the body to its reader; return when that needs no more, or aiohttp has what is left of the answer.

        What the reader raises is raised here. `unread` has the rest then, and after a cancellation.
        """
        self._reader = reader
        try:
            if self._kept:
                reader.hear()
                if reader.keep(self.unread()):
                    return
            if self._comes:
                await self._over
        finally:
            self._reader = None
            self._end()
            if not self._over.cancelled():
                self._over.exception()  # so that no one misses it where the reader has gone

    def unread(self) -> bytes:
        """Return the body that has come and was not read; leave the connection to aiohttp where the body has ended."""
        body, rest = self._taken()
        if rest is not None and self._comes:
            self._leave(rest)
        return body

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        if not self._comes:
            self._begin(data)
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        seen = self._tail + data
        self._tail = seen[-_LONGEST_SIGN:]
        reader = self._reader
        if reader is None:
            if self._over.done():  # the reader needs no more: only the end of the answer matters
                self.unread()
            return
        reader.hear()
        if self._kept_bytes > _MAX_KEPT_BYTES or seen.endswith(_HEAD_END) or reader.may_end(seen):
            self._give(reader)
        elif self._timer is None:
            self._gather(reader)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._below.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on: aiohttp makes it an error of the answer."""
        self._comes = False
        self._end()
        self._below.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._below.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._below.resume_writing()

    # the body

    def _begin(self, data: bytes) -> None:
        """Take the head of the answer."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END) or not _is_gathered(data[:end]):
            self._leave(data)
            return
        self._comes, self._begun = True, self._loop.time()
        self._below.data_received(data[:end])
        if len(data) > end:
            self.data_received(data[end:])

    def _give(self, reader: BodyReader) -> None:
        """Give what is kept to the reader."""
        body, rest = self._taken()
        try:
            if not self._over.done() and reader.keep(body):
                self._end()
        except Exception as error:
            self._over.set_exception(error)
        if rest is not None:
            self._leave(rest)

    def _taken(self) -> tuple[bytes, bytes | None]:
        """Return the body that is kept, and keep it no longer; with it the rest of the answer once the body has ended."""
        kept, self._kept, self._kept_bytes = b"".join(self._kept), [], 0
        return self._chunks.feed(kept)

    def _leave(self, rest: bytes) -> None:
        """Leave the connection, with the rest of the answer, to aiohttp."""
        self._comes = False
        self._end()
        self._transport.set_protocol(self._below)
        self._below.data_received(rest)

    def _end(self) -> None:
        """End the reading."""
        self._read_each()
        if not self._over.done():
            self._over.set_result(None)

    # gathering in the kernel

    def _gather(self, reader: BodyReader) -> None:
        """Have the next bytes wait in the kernel for a while."""
        now = self._loop.time()
        wait_s = min(_LONGEST_S, _SHARE * (now - self._begun), _SHARE_OF_STALL * reader.stall_s)
        due = math.ceil((now + wait_s) / _TOGETHER_S) * _TOGETHER_S
        if wait_s < _SHORTEST_S or due > reader.until or self._over.done():
            return
        if self._readable_from(_MANY_BYTES):
            self._timer = self._loop.call_at(due, self._read_each)

    def _read_each(self) -> None:
        """Have the next byte read as it comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._readable_from(1)

    def _readable_from(self, number: int) -> bool:
        """Have the socket count as readable from so many bytes on. False where the system does not do that."""
        if not _WAKES or self._transport.is_closing():  # its number may be that of another socket by now
            return False
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, number)
        except (AttributeError, OSError):
            return False
        return True


def _is_gathered(head: bytes) -> bool:
    """Return whether an answer with this head is a stream of events in chunks, as it was written."""
    found: dict[bytes, bytes] = {}
    for name, value in _HEADERS.findall(head.lower()):
        if name in found:
            return False
        found[name] = value.strip()
    return (
        _STATUS.match(head) is not None
        and found.get(b"transfer-encoding") == b"chunked"
        and found.get(b"content-encoding", b"identity") == b"identity"
        and found.get(b"content-type", b"").startswith(_KINDS)
    )
