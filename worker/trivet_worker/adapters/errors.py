"""Classification of errors: of a provider, by `error_rules`, and of the network, by kind and moment.

Error bodies have three forms, brought into one shape (`ProviderError`):

- Anthropic: `{"type": "error", "error": {"type", "message", "details": {"error_code"}}}`
- AWS: header `x-amzn-errortype: Name:http://…` and `{"message": "…"}`
- Google: `{"error": {"code", "message", "status", "details"}}`, or the same in a list

Any wire may carry any of them: Vertex and Bedrock's Messages endpoints pass Anthropic's through. A body in none of
these forms did not come from an API.

Exceptions of httpx2, aiohttp, the TLS layer and the sockets:

| what | before the headers | after them |
|---|---|---|
| connect timed out, refused, reset, no such host, TLS | connection | incomplete |
| a socket timeout of the SDK (an hour; our guard is sooner) | timeout | timeout |
| body cut, encoding broken | connection | incomplete |
| the address in the settings is none | unusable, whole route | |
"""

import re
import ssl
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import aiohttp
import anthropic
import httpx2

from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import Outcome, Scope, Usage
from trivet_worker.adapters import headers as wire_headers
from trivet_worker.adapters.answers import NotJson, loads
from trivet_worker.adapters.error_rules import ProviderError, classify
from trivet_worker.adapters.http import ErrorAnswer
from trivet_worker.adapters.protocol import MESSAGE_LIMIT, Failure, LocalCause

_BLAMES_THE_REQUEST = frozenset({"invalid_request_error", "validationexception", "invalid_argument"})
_GOOGLE_STATUSES = frozenset(
    [
        "cancelled",
        "unknown",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "already_exists",
        "permission_denied",
        "unauthenticated",
        "resource_exhausted",
        "failed_precondition",
        "aborted",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
    ]
)
"""google.rpc.Code."""
_NOT_OF_BEDROCK = frozenset({"forbiddenexception", "wafexception", "requestblocked"})
"""Names under which AWS' own gateways and firewalls refuse before Bedrock is asked."""
_DELAY = re.compile(r"^(\d+(?:\.\d+)?)s$")
_CONNECTING = (httpx2.ConnectTimeout, httpx2.PoolTimeout, aiohttp.ConnectionTimeoutError)
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
_NOT_CONNECTED_AIOHTTP = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
_TIMED_OUT = (httpx2.TimeoutException, aiohttp.ServerTimeoutError, TimeoutError)
_BAD_ADDRESS = (httpx2.UnsupportedProtocol, httpx2.InvalidURL, aiohttp.InvalidURL)
_TLS_CONTEXT = re.compile(r" ssl:(default|True|False|None|<[^>]*>)")
"""Noise in aiohttp's texts."""


def provider_failure(answer: ErrorAnswer, provider: str, *, secrets: Iterable[str], usage: Usage | None) -> Failure:
    """Classify an error: a status that is no 2xx, or an error in the body of a 200.

    Args:
        provider: `anthropic`, `bedrock` or `vertex`.
        secrets: struck out of the provider's words, should they hold one.
        usage: the tokens that the call used before it failed, where known.
    """
    said = wire_headers.plain(answer.headers)
    body = _parsed(answer.body)
    error = read_error(answer.status, said, body, provider)
    words = _safe(error.message, secrets)
    rule = classify(error)
    request_id = wire_headers.request_id(said)
    if request_id is None and isinstance(body, dict):
        request_id = clean(_text(body.get("request_id")), 200) or None
    asked = wire_headers.retry_after_s(said)
    asked = _google_delay(body) if asked is None else asked
    wait = wire_headers.capped(asked)
    return Failure(
        outcome=rule.outcome,
        message=_message(words or _unreadable(error, said), asked, wait),
        status=error.status if not error.in_stream else answer.status,
        request_id=request_id,
        retry_after_s=wait,
        scope=rule.scope,
        from_api=error.from_api,
        limits=wire_headers.limits(said) if provider == "anthropic" else None,
        usage=usage,
        local_cause=LocalCause.KEY_REFUSED if rule.of_key else None,
    )


def error_in_body(body: Any, headers: httpx2.Headers) -> ErrorAnswer:
    """Return the error that the body of a 200 is. A Google error object names the HTTP status that it stands for."""
    error = _document(body).get("error")
    code = error.get("code") if isinstance(error, dict) and isinstance(error.get("status"), str) else None
    return ErrorAnswer(code if isinstance(code, int) and 400 <= code <= 599 else 200, headers, body)


def _parsed(body: object) -> object:
    try:
        return loads(body.strip().encode(errors="replace")) if isinstance(body, str) else body
    except NotJson:
        return body


def _document(body: object) -> dict[str, Any]:
    """Return the object that an error's body is, or the first of a list; empty where there is none."""
    document = body[0] if isinstance(body, list) and body else body
    return document if isinstance(document, dict) else {}


def read_error(status: int, headers: wire_headers.Headers, body: object, provider: str) -> ProviderError:
    """Return an error in the form that is the same for all wires. `body` is parsed JSON, or text where it was none."""
    document = _document(body)
    error = document.get("error")
    if not isinstance(error, dict):
        error = document
    details = error.get("details")
    by_aws = headers.get("x-amzn-errortype") or _text(document.get("__type"))
    kind = _bare(by_aws or _kind(error))
    if provider == "vertex" and error.get("code") == 429:  # some gateways wrap it in a 5xx
        kind = "resource_exhausted"
    message = _text(error.get("message")) or _text(error.get("Message"))
    from_google = kind in _GOOGLE_STATUSES and isinstance(error.get("code"), int)
    in_stream = status < 300
    if in_stream and from_google and 400 <= error["code"] < 600:
        status, in_stream = error["code"], False  # the event is the answer that would have come before the stream
    return ProviderError(
        provider=provider,
        status=400 if in_stream and kind in _BLAMES_THE_REQUEST else status,
        type=kind,
        code=_text(details.get("error_code")) if isinstance(details, dict) else "",
        message=message,
        in_stream=in_stream,
        from_api=(
            in_stream
            or (bool(by_aws) and kind not in _NOT_OF_BEDROCK)
            or from_google
            or (document.get("type") == "error" and (kind.endswith("_error") or kind == "request_too_large"))
            # a gateway that lost AWS' header; what it says of an account is for a probe to find out
            or (provider == "bedrock" and status == 400 and document.keys() <= {"message", "Message"} and bool(message))
        ),
    )


def _unreadable(error: ProviderError, headers: wire_headers.Headers) -> str:
    """Describe what came instead of an error body, never its text: a page may quote the request."""
    form = headers.get("content-type", "").partition(";")[0].strip()[:60] or "no content type"
    who = "not the API: " if error.status < 500 and not error.from_api else ""
    return f"{who}HTTP {error.status} without a readable error body ({form})"


def _kind(error: dict[str, Any]) -> str:
    """Return Google's `status` or Anthropic's `type`; a bare `{"type": "error"}` around them names nothing."""
    return _text(error.get("status")) or _text(error.get("type"))


def _bare(name: str) -> str:
    """Return `throttlingexception` of `com.amazon.coral#ThrottlingException:http://…`."""
    return clean(name.split(":", 1)[0].rsplit("#", 1)[-1], 100).lower()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _safe(said: str, secrets: Iterable[str]) -> str:
    # The first paragraph only: AWS adds the string that should have been signed, with the session token in it.
    words = said.strip().split("\n\n", 1)[0]
    for secret in secrets:
        words = words.replace(secret, "[secret]")
    return clean(words, 4 * MESSAGE_LIMIT)


def _message(words: str, asked: float | None, wait: float | None) -> str:
    """Return the words, cut, and a note where the provider asked for a longer wait than it gets."""
    if asked is None or wait is None or asked <= wait:
        return words[:MESSAGE_LIMIT]
    note = f" (retry-after capped: {wait:,.0f} s instead of {asked:,.0f} s)"[:120]
    return words[: MESSAGE_LIMIT - len(note)] + note


def _google_delay(body: object) -> float | None:
    """Return the seconds of a `google.rpc.RetryInfo` among the details of a Google error."""
    error = _document(body).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = _DELAY.match(_text(detail.get("retryDelay"))) if isinstance(detail, dict) else None
        if delay:
            return float(delay[1])
    return None


class NetworkFailure(NamedTuple):
    """A failure of the network."""

    outcome: Outcome
    message: str
    scope: Scope | None = None
    unreached: bool = False
    """True if the provider saw nothing of the call."""


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
