"""HTTP under a route's SDK client: aiohttp with a pool that fits the route, and bodies of bounded size.

httpx2 decodes gzip and deflate in pieces of at most 1 MiB, so a bound on their sum bounds the memory. A reader that
stops closes the response: the connection is then dropped, not read to its end.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ssl import SSLContext
from typing import Any, TypeVar

import aiohttp
import anthropic
import httpx2

from trivet_worker.adapters.gathering import GatheredBody

_Client = TypeVar("_Client")

CONNECT_S = 5.0
"""Seconds that connecting may take. Short, to distinguish a host that drops packets from one that is at work."""
CONNECT_SHARE = 0.75
"""Share of a short call's time that connecting may take."""
SOCKET_S = 3600.0
"""Seconds that any other socket operation may take. Generous: what bounds an attempt is the guard around it."""
TIMEOUT = httpx2.Timeout(SOCKET_S, connect=CONNECT_S, pool=None)
"""Timeouts of the socket operations of a call that has time."""

SPARE_CONNECTIONS = 16
"""Connections beyond the route's limit of calls in flight: for probes, and calls that end while the next begins."""
IDLE_S = 20.0
"""Seconds that an idle connection is kept. AWS load balancers close theirs after 60 s, and a POST that meets a closing
connection fails and is not repeated."""
_KEEPALIVE_S = 60
"""TCP keep-alive, as the SDK sets on its own default client: NAT gateways drop connections silent for 350 s, and a long
answer that is not streamed is silent for minutes."""
MAX_ANSWER_BYTES = 64 * 2**20
"""Maximum size of an answer, decoded. 300,000 tokens have 2 MB."""
MAX_ERROR_BYTES = 2**20
"""Maximum size of the body of an error, decoded."""
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
NETWORK_ERRORS = (
    anthropic.APIConnectionError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    aiohttp.ClientError,
    OSError,  # with ssl.SSLError, gaierror and TimeoutError
    EOFError,
)
"""Exceptions of a call that are no status of the provider and no mistake of ours."""


class TooLarge(Exception):
    """More data than any real answer has. The text is for a person."""


class ErrorAnswer(anthropic.AnthropicError):
    """A provider's answer that is an error: a status that is no 2xx, or an error in the body of a 200.

    `body` is parsed JSON or text; empty where it was too large or could not be read.
    """

    def __init__(self, status: int, headers: httpx2.Headers, body: object) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


@dataclass(slots=True)
class Contact:
    """Record of a call's connection to the provider."""

    gathers: bool = False
    """True if the body of a streamed answer is to be gathered."""
    made: bool = False
    """True once the call has got a connection."""
    gathered: GatheredBody | None = None
    """The body, where it is gathered."""


_contact: ContextVar[Contact | None] = ContextVar("contact", default=None)


@contextlib.contextmanager
def noting(contact: Contact) -> Iterator[None]:
    """Note in `contact` the connection that a request of this context gets, new or from the pool."""
    token = _contact.set(contact)
    try:
        yield
    finally:
        _contact.reset(token)


def timeout_within(timeout_s: float, *, stream: bool) -> httpx2.Timeout:
    """Return the timeouts of a call's socket operations: a short one must learn that it got no connection.

    A streamed answer has its own limit between two bytes.
    """
    connect_s = min(CONNECT_S, CONNECT_SHARE * timeout_s)
    if stream:
        return httpx2.Timeout(SOCKET_S, connect=connect_s, read=None, pool=None)
    return TIMEOUT if connect_s == CONNECT_S else httpx2.Timeout(SOCKET_S, connect=connect_s, pool=None)


def build_http_client(max_concurrency: int, auth: httpx2.Auth | None = None) -> httpx2.AsyncClient:
    """Return an HTTP client for up to `max_concurrency` calls at a time. Binds to the event loop of its first call.

    Its calls raise `ErrorAnswer` for an answer that is no 2xx.
    """
    connections = max_concurrency + SPARE_CONNECTIONS
    client = anthropic.DefaultAioHttpClient(
        timeout=TIMEOUT,
        limits=httpx2.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_S
        ),
        verify=_tls(),
        auth=auth,
        event_hooks={"response": [_raise_for_status]},
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
            contact.gathered = GatheredBody.on(connection) if contact.gathers else None
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
    """Return one TLS context for all routes: loading the certificate store takes 25 ms. `SSL_CERT_FILE` is honoured."""
    return httpx2.create_ssl_context()


async def _raise_for_status(response: httpx2.Response) -> None:
    """Raise `ErrorAnswer` for an answer that is no 2xx. The SDK would read all of its body."""
    if response.is_success:
        return
    try:
        body = await read_body(response, MAX_ERROR_BYTES, response.headers.get("content-encoding", ""))
    except (TooLarge, *NETWORK_ERRORS):  # the status is an answer all the same
        body = b""
    finally:
        await response.aclose()
    raise ErrorAnswer(response.status_code, response.headers, body.decode("utf-8", "replace"))


async def read_body(response: httpx2.Response, limit: int, encoding: str) -> bytes:
    """Return the whole decoded body, whose `content-encoding` is `encoding`.

    Raises:
        TooLarge: it has more than `limit` bytes; the response is to be closed then.
    """
    async with contextlib.aclosing(body_pieces(response, limit, encoding)) as pieces:
        return b"".join([piece async for piece in pieces])


async def body_pieces(response: httpx2.Response, limit: int, encoding: str) -> AsyncGenerator[bytes, None]:
    """Yield the decoded body as it comes. TooLarge once it has more than `limit` bytes."""
    if encoding and not all(one.strip().lower() in _ENCODINGS for one in encoding.split(",")):
        raise TooLarge("the answer is in an encoding that was not asked for")
    left = limit
    async with contextlib.aclosing(response.aiter_bytes()) as pieces:
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise TooLarge(f"the answer is larger than {limit // 2**20} MB")
            yield piece
