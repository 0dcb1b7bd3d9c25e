"""Gathering of a streamed answer: the kernel keeps its bytes until many are there, and aiohttp never sees them.

Providers send each event of a stream as an HTTP chunk and a TCP segment of its own, 1,000 of them for 3,000 tokens.
Reading and parsing each one as it comes takes several times the CPU of a plain call, and nobody watches. So between two
reads of such an answer the socket is readable only once it holds much (`SO_RCVLOWAT`), for a time that grows with the
stream's age. `GatheredBody` stands between the connection and aiohttp meanwhile: it takes the chunks apart itself, and
gives aiohttp only the head of the answer and its end, which is all that aiohttp needs to keep the connection.

An answer of any other kind is left to aiohttp from its first byte: one with a length, a compressed one, an error, one
whose head comes in pieces. Where the system has no `SO_RCVLOWAT`, each event is read as it comes.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Any

import aiohttp

_SHARE = 1 / 16
"""Share of a stream's age for which its bytes may wait in the kernel, and so by which its end may be late."""
_LONGEST_S = 1.0
"""Maximum number of seconds for which bytes wait in the kernel."""
_SHORTEST_S = 0.02
"""Seconds that are not worth waiting."""
_SHARE_OF_STALL = 1 / 4
"""Share of the limit between two bytes for which bytes may wait unseen."""
_MANY_BYTES = 64 * 2**10
"""Bytes that are read at once, however short the time since the last read."""
_STATUS = re.compile(rb"HTTP/1\.1 200[ \r]")
_HEADERS = re.compile(rb"\n(transfer-encoding|content-encoding|content-type):([^\r\n]*)")
_HEAD_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
_KINDS = (b"text/event-stream", b"application/vnd.amazon.eventstream")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_LONGEST_CHUNK_LINE = 256
_NO_CHUNK = b"?"
"""Begins no chunk, so that aiohttp breaks the answer off."""

Taker = Callable[[bytes], bool]
"""Takes a piece of the body; returns True if it needs no more."""


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
        self._take: Taker | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._early: list[bytes] = []  # pieces that came before their reader
        self._comes = False
        self._begun = 0.0
        self._until = 0.0
        self._longest_s = 0.0
        self._left = 0  # bytes still to come of the current chunk and of the line end behind it
        self._line = b""  # the beginning of a chunk's first line
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    @classmethod
    def on(cls, connection: aiohttp.connector.Connection) -> "GatheredBody | None":
        """Return one for the next answer on a connection; None where the connection is lost already."""
        transport, below = connection.transport, connection.protocol
        return None if transport is None or below is None else cls(transport, below)

    async def read(self, take: Taker, *, stall_s: float, until: float) -> None:
        """Give the body to `take` piece by piece; return when it needs no more, or aiohttp has what is left.

        Args:
            take: is called by the event loop. An exception of it ends the reading, and is raised here.
            stall_s: seconds between two bytes after which the caller gives up.
            until: time of the event loop at which the caller gives up: the bytes there by then shall have been read.
        """
        self._take, self._until = take, until
        self._longest_s = min(_LONGEST_S, _SHARE_OF_STALL * stall_s)
        early, self._early = self._early, []
        try:
            if (early and take(b"".join(early))) or not self._comes:
                return
            self._gather()
            await self._over
        finally:
            self._end()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        if self._comes:
            self._read(data)
            self._gather()
            return
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END) or not _is_gathered(data[:end]):
            self._leave(data)
            return
        self._comes, self._begun = True, self._loop.time()
        self._below.data_received(data[:end])
        if len(data) > end:
            self._read(data[end:])

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

    def _read(self, data: bytes) -> None:
        """Take the payload of the chunks in `data`; leave what is none to aiohttp, as a rule the last chunk."""
        pieces: list[bytes] = []
        rest = self._chunks(self._line + data, pieces)
        if pieces:
            self._give(b"".join(pieces))
        if rest is not None:
            self._leave(rest)

    def _chunks(self, data: bytes, pieces: list[bytes]) -> bytes | None:
        """Add the payload in `data` to `pieces`; return what aiohttp is to have, None while more chunks are to come."""
        at, size, left = 0, len(data), self._left
        self._line = b""
        while at < size:
            if left > 2:
                end = min(at + left - 2, size)
                pieces.append(data[at:end])
                left -= end - at
                at = end
            elif left:
                line_end = data[at : at + left]
                if not _LINE_END[-left:].startswith(line_end):
                    return _NO_CHUNK
                at += len(line_end)
                left -= len(line_end)
            elif found := _CHUNK.match(data, at):
                length = int(found[1], 16)
                if not length:
                    return data[at:]
                at, left = found.end(), length + len(_LINE_END)
            else:
                line = data[at:]
                if b"\n" in line or len(line) > _LONGEST_CHUNK_LINE:
                    return line
                self._line = line
                break
        self._left = left
        return None

    def _give(self, piece: bytes) -> None:
        if self._over.done():
            return
        if self._take is None:
            self._early.append(piece)
            return
        try:
            if self._take(piece):
                self._end()
        except Exception as error:
            self._over.set_exception(error)

    def _leave(self, rest: bytes) -> None:
        """Leave the connection, with the rest of the answer, to aiohttp."""
        self._comes = False
        self._read_each()
        self._transport.set_protocol(self._below)
        self._below.data_received(rest)
        if self._take is not None:
            self._end()

    def _end(self) -> None:
        """End the reading."""
        self._read_each()
        if not self._over.done():
            self._over.set_result(None)
        elif not self._over.cancelled():
            self._over.exception()  # the reader may be gone

    # gathering in the kernel

    def _gather(self) -> None:
        """Have the next bytes wait in the kernel for a while."""
        if self._timer is not None or self._take is None or self._over.done():
            return
        now = self._loop.time()
        wait_s = min(self._longest_s, _SHARE * (now - self._begun))
        if wait_s >= _SHORTEST_S and now + wait_s < self._until and self._readable_from(_MANY_BYTES):
            self._timer = self._loop.call_later(wait_s, self._read_each)

    def _read_each(self) -> None:
        """Have the next byte read as it comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._readable_from(1)

    def _readable_from(self, number: int) -> bool:
        """Have the socket count as readable from so many bytes on. False where the system does not do that."""
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
