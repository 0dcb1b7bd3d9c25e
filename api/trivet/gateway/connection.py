"""One connection to the gateway, bounded: uvicorn's protocol over httptools, with limits that uvicorn leaves out.

httptools counts neither the bytes of a head nor the time it takes, and uvicorn waits for a client that reads nothing as long
as the client likes. Each of these is bounded here, so that no client holds memory or a connection for nothing.
"""

import asyncio
from typing import ClassVar

from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from trivet.gateway.errors import ApiError
from trivet.gateway.job_errors import Answered, retry_headers
from trivet_tasks.config.gateway import GatewaySettings

CLOSE_S = 5.0
"""Seconds that a client has to take the rest of an answer once its connection is being closed."""
LEAST_TAKEN = 16 * 1024
"""Bytes that a client must take of its answer within `[gateway] write_timeout_s`."""


class BoundedConnection(HttpToolsProtocol):
    """A connection whose head, idle time and reading are bounded. `bounds` is set once, before the server starts."""

    bounds: ClassVar[GatewaySettings] = GatewaySettings()

    _pending = 0
    """Bytes that came in a row and completed nothing: no head, no piece of a body, no request."""
    _completed = False
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    refused = False
    """True if no more of what the client sends is read: the connection closes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; one connection too many is answered and closed."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections:
            message = f"This gateway has {self.bounds.max_connections:,} connections, its maximum. Try again shortly."
            self._refuse(ApiError(529, message, retry_headers(Answered(529, again=True), 1.0)))
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; nothing is timed any more."""
        self._stop_timer("_head_timer")
        self._stop_timer("_write_timer")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read, unless the connection was refused; count what completes nothing, such as half a head or trailers."""
        if self.refused:
            return
        idle, self._completed = self.timeout_keep_alive_task, False
        super().data_received(data)
        self._pending = 0 if self._completed else self._pending + len(data)
        self._check_head(self._pending)
        if idle is not None and self._head_timer is None and self._answered and not self.transport.is_closing():
            # it began no request: an empty line, or the rest of a body that nobody reads; uvicorn would wait for ever
            self.timeout_keep_alive_task = self.loop.call_at(idle.when(), self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        """Begin to time the head of a request."""
        self._in_head = True
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers, which come after the body, are left out."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Serve the request, unless its head was too large."""
        self._in_head, self._completed = False, True
        self._stop_timer("_head_timer")
        if self._check_head(len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)):
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._completed = True
        if not self.refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self._completed = True
        if not self.refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request, or close a connection that was refused while this answer was under way."""
        if self.refused:
            self.pipeline.clear()
            self.transport.close()
            self._abort_soon()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Give the client time to read."""
        super().pause_writing()
        self._time_reading()

    def resume_writing(self) -> None:
        """Note that the client reads."""
        self._stop_timer("_write_timer")
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also one whose client does not take the rest."""
        super().timeout_keep_alive_handler()
        self._abort_soon()

    def shutdown(self) -> None:
        """Close the connection once its request is answered."""
        super().shutdown()
        if self.transport.is_closing():
            self._abort_soon()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the shape of the Anthropic API."""
        if not self.refused:
            self._refuse(ApiError(400, msg))

    @property
    def _answered(self) -> bool:
        """True if no request is being served."""
        return self.cycle is None or self.cycle.response_complete

    def _check_head(self, size: int) -> bool:
        """Refuse a request whose head is larger than is allowed. Returns whether it may go on."""
        if size > self.bounds.max_header_kb * 1024:
            most = f"{self.bounds.max_header_kb:g} KiB"
            self._refuse(ApiError(431, f"The request line and headers are larger than {most}."))
        return not self.refused

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.bounds.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        self._refuse(ApiError(408, f"No request came within {self.bounds.head_timeout_s:g} s."))

    def _time_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stop_timer("_write_timer")
        self._write_timer = self.loop.call_later(self.bounds.write_timeout_s, self._check_reading, left)

    def _check_reading(self, before: int) -> None:
        self._write_timer = None
        if before - self.transport.get_write_buffer_size() < LEAST_TAKEN:
            self.transport.abort()
        else:
            self._time_reading()

    def _abort_soon(self) -> None:
        if self.transport.get_write_buffer_size():
            self.loop.call_later(CLOSE_S, self.transport.abort)

    def _stop_timer(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close. An answer that is under way goes on to its end instead."""
        if self.refused or self.transport.is_closing():
            return
        self.refused = True
        self._stop_timer("_head_timer")
        if not self._answered and (self.pipeline or self.cycle.response_started or not self.cycle.more_body):
            return  # it would be read as the answer to an earlier request, or as a part of it
        request_id = f"req_{uuid7().hex}"
        body = error.body(request_id)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "request-id": request_id,
            "connection": "close",
            **error.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + head.encode() + b"\r\n" + body)
        self.transport.close()
        self._abort_soon()
