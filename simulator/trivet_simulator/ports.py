"""A listening port on loopback that can be shut and opened again under the same number."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from trivet_simulator.http import Connection, Exchange

HOST = "127.0.0.1"
BACKLOG = 4096


class PortTakenError(OSError):
    """Somebody else listens on the port asked for."""


class Port:
    """One port and the connections on it. While shut it stays bound, so that nobody else can take it."""

    def __init__(self, what: str, handler: Callable[[Exchange], None], max_body: int) -> None:
        self._what = what
        self._handler = handler
        self._max_body = max_body
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None
        self.peers: set[Connection] = set()
        self.number = 0

    @property
    def up(self) -> bool:
        """Return whether it accepts connections."""
        return self._server is not None

    def bind(self, number: int) -> None:
        """Take the port (0: any free one) without listening yet; PortTakenError when it is taken."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, number))
        except OSError as error:
            sock.close()
            raise PortTakenError(
                f"port {number} for {self._what} cannot be opened on {HOST}: {error.strerror}. "
                f"Choose another, or 0 for any free one."
            ) from error
        self._held = sock
        self.number = sock.getsockname()[1]

    async def open(self) -> None:
        """Listen. Nothing when it does already."""
        if self._server is not None or self._held is None:
            return
        sock, self._held = self._held, None
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self._handler, self.peers, self._max_body), sock=sock, backlog=BACKLOG
            )
        except OSError as error:
            sock.close()
            raise PortTakenError(
                f"port {self.number} for {self._what} cannot be opened on {HOST}: {error.strerror}. "
                f"Choose another, or 0 for any free one."
            ) from error

    async def shut(self) -> None:
        """Refuse connections from now on, and break the calls in progress: what was answered whole still arrives."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for peer in list(self.peers):
            if peer.busy:
                peer.reset()
            else:
                peer.close()
        # the loop closes the listener's socket on a later turn, and only then can the port be held
        for _ in range(100):
            await asyncio.sleep(0)
            try:
                self.bind(self.number)
            except PortTakenError:
                await asyncio.sleep(0.01)
            else:
                return
        raise PortTakenError(f"port {self.number} for {self._what} could not be held while it is down")

    def break_calls(self) -> None:
        """Reset the connections that have a call in progress."""
        for peer in list(self.peers):
            if peer.busy:
                peer.reset()

    def close(self) -> None:
        """Give the port up for good."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._held is not None:
            self._held.close()
            self._held = None
        for peer in list(self.peers):
            peer.abort()
