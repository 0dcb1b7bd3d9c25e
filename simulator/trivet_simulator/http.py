"""HTTP/1.1 on raw asyncio protocols: one `Connection` per socket, one `Exchange` per request.

An answer is a `Script`: pieces of bytes, each with a delay before it, and how it ends. That one form carries a plain
JSON answer, a stream, and every fault of transport (hang, reset, cut, drip), and needs no task per request.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import httptools

Piece = bytes | Callable[[], bytes]
"""Bytes to send, or a function that makes them at the moment they are sent."""

QUEUED_REQUESTS = 16
"""Pipelined requests held per connection before it is no longer read."""

STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n" for s in HTTPStatus}
STATUS_LINES[529] = "HTTP/1.1 529 Overloaded\r\n"


class Ending(enum.Enum):
    """Fate of the connection after the last piece of a script."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


class Outcome(enum.Enum):
    """End of an exchange."""

    PLAYED = "played"
    CLIENT_GONE = "client_gone"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Script:
    """Pieces to send, each after its delay in seconds, and what happens then."""

    steps: Sequence[tuple[float, Piece]]
    ending: Ending = Ending.KEEP


class Request:
    """One whole request. Header names are lower-case bytes; `body` is empty when `size` was over the limit."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query", "size", "too_large")

    def __init__(
        self, method: str, target: bytes, headers: dict[bytes, bytes], body: bytes, size: int, keep_alive: bool
    ) -> None:
        path, _, query = target.partition(b"?")
        self.method = method
        self.path = unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1")
        self.query = query.decode("latin-1")
        self.headers = headers
        self.body = body
        self.size = size
        self.too_large = size > len(body)
        self.keep_alive = keep_alive

    def header(self, name: bytes) -> str | None:
        """The value of a header, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


def head(status: int, headers: Mapping[str, str], *, length: int | None) -> bytes:
    """Status line and headers; `length` None means chunked."""
    lines = [STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    lines.append("transfer-encoding: chunked\r\n\r\n" if length is None else f"content-length: {length}\r\n\r\n")
    return "".join(lines).encode("latin-1")


def response(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole response with its content-length."""
    return head(status, headers, length=len(body)) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class Exchange:
    """One request being answered. `play` or `pump` may be called once; `done` is told how it ended, exactly once."""

    __slots__ = (
        "_connection",
        "_done",
        "_hastened",
        "_index",
        "_loop",
        "_pump",
        "_script",
        "_timer",
        "over",
        "request",
    )

    def __init__(self, connection: Connection, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._done: Callable[[Outcome], None] | None = None
        self._script: Script | None = None
        self._pump: Iterator[bytes] | None = None
        self._index = 0
        self._hastened = False
        self.request = request
        self.over = False

    def send(self, data: bytes) -> None:
        """Answer at once with a whole response."""
        self._connection.write(data)
        self._end(Outcome.PLAYED)

    def play(self, script: Script, done: Callable[[Outcome], None]) -> None:
        """Play a script; `done` is called when it has ended, the client went away, or the server broke it off."""
        self._script, self._done = script, done
        self._advance()

    def hasten(self) -> None:
        """Play what is left of the script without its delays."""
        self._hastened = True
        if self._timer is not None:
            self._timer.cancel()
            self._due()

    def hold(self, done: Callable[[Outcome], None]) -> None:
        """Wait for what to answer; `done` is told should the client go away before `play` or `pump`."""
        self._done = done

    def pump(self, pieces: Iterable[bytes], done: Callable[[Outcome], None] | None = None) -> None:
        """Answer with a long body, piece by piece, as fast as the client reads it; `done` as with `play`."""
        self._pump, self._done = iter(pieces), done
        self.flow()

    def flow(self) -> None:
        """Send the next piece of a pumped body unless the socket is full."""
        if self.over or self._pump is None or self._connection.full:
            return
        piece = next(self._pump, None)
        if piece is None:
            self._end(Outcome.PLAYED)
            return
        self._connection.write(piece)
        self._loop.call_soon(self.flow)

    def _advance(self) -> None:
        script = self._script
        assert script is not None
        while self._index < len(script.steps):
            delay = script.steps[self._index][0]
            if delay > 0 and not self._hastened:
                self._timer = self._loop.call_later(delay, self._due)
                return
            self._write()
            if self.over:
                return
        match script.ending:
            case Ending.KEEP:
                self._end(Outcome.PLAYED)
            case Ending.CLOSE:
                self._end(Outcome.PLAYED, keep=False)
            case Ending.RESET:
                self._end(Outcome.PLAYED, keep=True, go_on=False)
                self._connection.reset()
            case Ending.HANG:
                pass

    def _due(self) -> None:
        self._timer = None
        self._write()
        if not self.over:
            self._advance()

    def _write(self) -> None:
        assert self._script is not None
        piece = self._script.steps[self._index][1]
        self._index += 1
        data = piece if isinstance(piece, bytes) else piece()
        if data:
            self._connection.write(data)

    def _end(self, outcome: Outcome, *, keep: bool = True, go_on: bool = True) -> None:
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        done, self._done = self._done, None
        if done is not None:
            done(outcome)
        if go_on:
            self._connection.finished(keep=keep and self.request.keep_alive)

    def lost(self, outcome: Outcome) -> None:
        """The connection is gone before the answer was."""
        self._end(outcome, go_on=False)


class Connection(asyncio.Protocol):
    """One client connection: parses requests, answers them in order, keeps alive."""

    __slots__ = (
        "_aborted",
        "_body",
        "_exchange",
        "_handler",
        "_headers",
        "_loop",
        "_max_body",
        "_parser",
        "_peers",
        "_queue",
        "_size",
        "_target",
        "_transport",
        "full",
    )

    def __init__(self, handler: Callable[[Exchange], None], peers: set[Connection], max_body: int) -> None:
        self._handler = handler
        self._peers = peers
        self._max_body = max_body
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._queue: deque[Request] = deque()
        self._aborted = False
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0
        self.full = False

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: a client connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._peers.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Asyncio: the connection is gone."""
        self._peers.discard(self)
        self._transport = None
        self._queue.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost(Outcome.ABORTED if self._aborted else Outcome.CLIENT_GONE)

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes from the client."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort()
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.write(response(400, {"connection": "close"}, b""))
                self._transport.close()

    def pause_writing(self) -> None:
        """Asyncio: the client reads slower than we write."""
        self.full = True

    def resume_writing(self) -> None:
        """Asyncio: the client has caught up."""
        self.full = False
        if self._exchange is not None:
            self._exchange.flow()

    # httptools
    def on_message_begin(self) -> None:
        """Parser: a request begins."""
        self._target, self._headers, self._body, self._size = b"", {}, [], 0

    def on_url(self, url: bytes) -> None:
        """Parser: the target, maybe in parts."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser: one header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Parser: all headers are in; a client that waits for leave to send its body gets it."""
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Parser: part of the body. What is over the limit is counted and thrown away."""
        self._size += len(body)
        if self._size > self._max_body:
            self._body.clear()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Parser: the request is whole."""
        body = b"" if self._size > self._max_body else b"".join(self._body)
        self._body = []
        parser = self._parser
        method = parser.get_method().decode("latin-1")
        request = Request(method, self._target, self._headers, body, self._size, parser.should_keep_alive())
        if self._exchange is not None:
            self._queue.append(request)
            if len(self._queue) >= QUEUED_REQUESTS and self._transport is not None:
                self._transport.pause_reading()
            return
        self._begin(request)

    def _begin(self, request: Request) -> None:
        exchange = Exchange(self, request, self._loop)
        self._exchange = exchange
        try:
            self._handler(exchange)
        except Exception as error:
            # a defect of ours must be seen as one, not taken for a fault that was asked for
            self._loop.call_exception_handler({"message": "the simulator failed on a request", "exception": error})
            if not exchange.over:
                exchange.send(response(500, {"x-simulator-defect": type(error).__name__}, b"defect in the simulator"))

    # for Exchange and the server
    def write(self, data: bytes) -> None:
        """Send bytes, if the client is still there."""
        if self._transport is not None:
            self._transport.write(data)

    def finished(self, *, keep: bool) -> None:
        """The exchange is over: take the next request or close."""
        self._exchange = None
        if self._transport is None:
            return
        if not keep:
            self._transport.close()
            return
        if self._queue:
            request = self._queue.popleft()
            if len(self._queue) == QUEUED_REQUESTS - 1:
                self._transport.resume_reading()
            self._loop.call_soon(self._next, request)

    def _next(self, request: Request) -> None:
        if self._transport is not None:
            self._begin(request)

    @property
    def busy(self) -> bool:
        """Return whether a request is being answered on it."""
        return self._exchange is not None

    def reset(self) -> None:
        """Close so that the client sees a connection reset (RST), not an orderly end."""
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            # uvloop hands out a pseudo socket without a full interface, so the option goes in through a duplicate
            with socket.socket(fileno=os.dup(sock.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def close(self) -> None:
        """Close once all that was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; an exchange in progress ends as aborted."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()
