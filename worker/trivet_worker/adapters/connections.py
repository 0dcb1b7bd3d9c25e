"""The HTTP client under a route's SDK client: aiohttp, with a pool that fits the route."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ssl import SSLContext
from typing import Any, TypeVar

import aiohttp
import anthropic
import httpx2

from trivet_worker.adapters.bodies import refuse

_Client = TypeVar("_Client")

CONNECT_S = 5.0
"""Seconds that connecting may take, so that a host that swallows packets is told from one that thinks."""
CONNECT_SHARE = 0.75
"""The same as a share of the time that a short call has."""
SOCKET_S = 3600.0
"""Seconds that any other socket operation may take. Generous: what bounds an attempt is the guard around it."""
TIMEOUT = httpx2.Timeout(SOCKET_S, connect=CONNECT_S, pool=None)
"""Of the socket operations of a call that has time."""

SPARE_CONNECTIONS = 16
"""Beyond the route's own limit of calls in flight: probes, and calls that end while the next begins."""

IDLE_S = 20.0
"""Idle connections are kept so long: under the 60 s after which AWS load balancers close them, since a POST that meets
a closing connection fails and is not repeated."""

_KEEPALIVE_S = 60
"""TCP keep-alive, as the SDK sets on its own default client: NAT gateways drop connections silent for 350 s, and a long
answer that is not streamed is silent for minutes."""


@dataclass(slots=True)
class Contact:
    """Record of whether a call has got as far as a connection to the provider."""

    made: bool = False


_contact: ContextVar[Contact | None] = ContextVar("contact", default=None)


@contextmanager
def noting(contact: Contact) -> Iterator[None]:
    """Note in `contact` the connection that a request of this context gets, new or from the pool."""
    token = _contact.set(contact)
    try:
        yield
    finally:
        _contact.reset(token)


def timeout_within(timeout_s: float) -> httpx2.Timeout:
    """Return the timeouts of a call's socket operations: a short one must learn that it got no connection."""
    connect_s = CONNECT_SHARE * timeout_s
    return TIMEOUT if connect_s >= CONNECT_S else httpx2.Timeout(SOCKET_S, connect=connect_s, pool=None)


def build_http_client(max_concurrency: int, auth: httpx2.Auth | None = None) -> httpx2.AsyncClient:
    """An HTTP client for up to `max_concurrency` calls at a time. Binds to the event loop of its first call.

    Its calls raise `Refused` for an answer that is no 2xx.
    """
    connections = max_concurrency + SPARE_CONNECTIONS
    client = anthropic.DefaultAioHttpClient(
        timeout=TIMEOUT,
        limits=httpx2.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_S
        ),
        verify=_tls(),
        auth=auth,
        event_hooks={"response": [refuse]},
    )
    # The SDK's aiohttp transport takes a session factory, but the client that makes it has no way to pass one on, and
    # drops socket options. Each proxy of the environment has a transport of its own; there is none for NO_PROXY.
    transports: list[Any] = [client._transport, *filter(None, client._mounts.values())]
    for transport in transports:
        transport.client = lambda: _session(connections)
    return client


def without_environment(client: _Client) -> _Client:
    """Take away the headers that `ANTHROPIC_CUSTOM_HEADERS` gave to a client: they may hold credentials, or a version.

    The SDK reads the variable for every client and has no way to say no.
    """
    client._custom_headers = {}  # type: ignore[attr-defined]
    return client


class _Connector(aiohttp.TCPConnector):
    """Bounds the whole way to a connection, and notes when there is one.

    aiohttp bounds name lookup and a proxy's answer to CONNECT by nothing.
    """

    async def connect(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:  # noqa: ASYNC109
        """Return a connection, new or from the pool."""
        connection = await super().connect(req, traces, timeout)
        if (contact := _contact.get()) is not None:
            contact.made = True
        return connection

    async def _create_connection(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:  # noqa: ASYNC109
        async with asyncio.timeout(timeout.sock_connect):  # aiohttp makes a ConnectionTimeoutError of it
            return await super()._create_connection(req, traces, timeout)


def _session(connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_Connector(
            limit=connections, keepalive_timeout=IDLE_S, ssl=_tls(), socket_factory=_socket_kept_alive
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


def _socket_kept_alive(address: "aiohttp.AddrInfoType") -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):  # TCP_KEEPALIVE is macOS's TCP_KEEPIDLE
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), _KEEPALIVE_S)
    return made


@lru_cache(maxsize=1)
def _tls() -> SSLContext:
    """One TLS context for all routes: loading the certificate store takes 25 ms. `SSL_CERT_FILE` is honoured."""
    return httpx2.create_ssl_context()
