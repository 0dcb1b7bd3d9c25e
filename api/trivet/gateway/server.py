"""Running the gateway: one process on uvicorn, or several that share a socket."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn

from trivet.gateway.app import make_app
from trivet.gateway.connection import BoundedConnection
from trivet.gateway.context import Gateway
from trivet_tasks.config.gateway import GatewaySettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.processes.signals import StopSignals

log = logging.getLogger("trivet.gateway")

BACKLOG = 4_096
"""Connections that wait to be accepted; the system may have a lower maximum."""
SEND_BUFFER = 256 * 1024
"""Bytes of an answer that the system holds for a client that does not read; it would take several MiB by itself."""
LAST_ANSWERS_S = 3
"""Seconds for the last answers of a process that stops, after its grace."""


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        address: an IP address or a name of this machine.
        port: the port; 0: any free one.

    Raises:
        ConfigError: it cannot be opened.
    """
    try:
        family, *_, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(where[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{address}:{port} cannot be opened: {error.strerror}.", hint="Choose another --address or --port."
        ) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the base URL for clients on this machine, e.g. `http://127.0.0.1:8080`."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GatewayServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its process and ends waiting requests within the grace."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_ready = on_ready

    def ask_to_stop(self) -> None:
        """Stop within the grace; a second time: at once. May be called in a signal handler."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: `run_gateway` handles them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections; answer waiting requests with 503 after the grace."""
        self._gateway.events.close()
        ending = asyncio.create_task(self._end_waiting())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_waiting(self) -> None:
        await asyncio.sleep(0 if self.force_exit else self._gateway.bounds.shutdown_grace_s)
        await self._gateway.end_waiting()


def run_gateway(
    settings: Settings, listener: socket.socket, *, on_ready: Callable[[], None], on_hangup: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT. For the main thread of a process of its own.

    Args:
        listener: socket that listens; closed at the end.
        on_ready: called once requests are served.
        on_hangup: called at SIGHUP, in the signal handler.
    """
    gateway = Gateway(settings)
    server = GatewayServer(_config(gateway, settings.gateway), gateway, on_ready)
    with StopSignals(server.ask_to_stop, on_hangup):
        server.run([listener])


def _config(gateway: Gateway, bounds: GatewaySettings) -> uvicorn.Config:
    BoundedConnection.bounds = bounds
    return uvicorn.Config(
        make_app(gateway),
        http=BoundedConnection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=bounds.idle_timeout_s,  # type: ignore[arg-type]  # a number of seconds
        timeout_graceful_shutdown=bounds.shutdown_grace_s + LAST_ANSWERS_S,  # type: ignore[arg-type]  # as above
    )
