"""Classification of network failures: exceptions of httpx2, aiohttp, the TLS layer and the sockets, by kind and moment.

| what | before the headers | after them |
|---|---|---|
| connect timed out, refused, reset, no such host, TLS | connection | incomplete |
| a socket timeout of the SDK (an hour; our guard is sooner) | timeout | timeout |
| body cut, encoding broken | connection | incomplete |
| the address in the settings is none | unusable, whole route | |
"""

import re
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp
import anthropic
import httpx2

from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import Outcome, Scope
from trivet_worker.adapters.protocol import MESSAGE_LIMIT

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

_CONNECTING = (httpx2.ConnectTimeout, httpx2.PoolTimeout, aiohttp.ConnectionTimeoutError)
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
_NOT_CONNECTED_AIOHTTP = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
_TIMED_OUT = (httpx2.TimeoutException, aiohttp.ServerTimeoutError, TimeoutError)
_BAD_ADDRESS = (httpx2.UnsupportedProtocol, httpx2.InvalidURL, aiohttp.InvalidURL)


_TLS_CONTEXT = re.compile(r" ssl:(default|True|False|None|<[^>]*>)")
"""Noise in aiohttp's texts."""


class NetworkFailure(NamedTuple):
    """A failure of the network."""

    outcome: Outcome
    message: str
    scope: Scope | None = None
    unreached: bool = False
    """The provider saw nothing of the call."""


def network_failure(error: BaseException, *, headers_seen: bool) -> NetworkFailure:
    """Classify an exception of the network. `headers_seen`: the provider had begun to answer with a 200."""
    chain = tuple(_chain(error))
    words = _words(chain)
    if any(isinstance(e, _BAD_ADDRESS) for e in chain):
        return NetworkFailure(Outcome.UNUSABLE, f"the route's base_url is no address: {words}", Scope.ROUTE)
    unreached = not headers_seen and _is_unreached(chain)
    if not headers_seen and any(isinstance(e, _CONNECTING) for e in chain):
        return NetworkFailure(Outcome.CONNECTION, f"no connection in time: {words}", unreached=unreached)
    if any(isinstance(e, _TIMED_OUT) for e in chain):
        return NetworkFailure(Outcome.TIMEOUT, f"the socket was silent too long: {words}")
    if headers_seen:
        return NetworkFailure(Outcome.INCOMPLETE, f"the answer broke off: {words}")
    if any(isinstance(e, ssl.SSLError | ssl.CertificateError) for e in chain):
        return NetworkFailure(Outcome.CONNECTION, f"TLS failed: {words}", unreached=unreached)
    return NetworkFailure(Outcome.CONNECTION, f"no answer: {words}", unreached=unreached)


def is_local_io(error: BaseException) -> bool:
    """Return whether a file or a program of this machine is at fault: the network names none."""
    return (
        isinstance(error, OSError)
        and error.filename is not None
        and not isinstance(error, aiohttp.ClientError | ssl.SSLError | ConnectionError | TimeoutError)
    )


def _is_unreached(chain: tuple[BaseException, ...]) -> bool:
    """Return whether no connection to the provider was made. aiohttp is asked where it was at work: the SDK's transport
    calls a connection that was reset later a failed connect, too."""
    if under := [error for error in chain if isinstance(error, aiohttp.ClientError)]:
        return any(isinstance(error, _NOT_CONNECTED_AIOHTTP) for error in under)
    return any(isinstance(error, _NOT_CONNECTED) for error in chain)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(chain: tuple[BaseException, ...]) -> str:
    """Return the text of the outermost exception that has one: it names the host. The SDK's only say "Connection error."."""
    for error in chain:
        if not isinstance(error, anthropic.AnthropicError) and (text := _TLS_CONTEXT.sub("", str(error))):
            return clean(f"{type(error).__name__}: {text}", MESSAGE_LIMIT - 60)
    return type(chain[-1]).__name__
