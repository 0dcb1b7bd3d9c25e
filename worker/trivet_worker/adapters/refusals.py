"""From a refusal to a `Failure`: the three wires' error bodies brought into one shape and sorted.

- Anthropic: `{"type": "error", "error": {"type", "message", "details": {"error_code"}}}`
- Bedrock: header `x-amzn-errortype: Name:http://…` and `{"message": "…"}`
- Vertex: `{"error": {"code", "message", "status", "details"}}`, the same in a list, or Anthropic's own form
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import httpx2

from trivet_tasks.outcomes import Outcome
from trivet_tasks.store.foreign_text import clean
from trivet_tasks.usage import Usage
from trivet_worker.adapters import headers as wire_headers
from trivet_worker.adapters.answer_json import NotJson, loads
from trivet_worker.calls import MESSAGE_LIMIT, Failure
from trivet_worker.sorting import Refusal, sort

_BLAMES_THE_REQUEST = frozenset({"invalid_request_error", "validationexception", "invalid_argument"})
_DELAY = re.compile(r"^(\d+(?:\.\d+)?)s$")


def failure_from(
    status: int,
    headers: httpx2.Headers,
    body: object,
    provider: str,
    *,
    secrets: Iterable[str] = (),
    usage: Usage | None = None,
) -> Failure:
    """Sort a refusal: a status that is no 2xx, or an error event inside a stream.

    Args:
        body: parsed JSON, or text where it was none.
        provider: `anthropic`, `bedrock` or `vertex`.
        secrets: struck out of the provider's words, should they hold one.
        usage: what the call used before it failed, where known.
    """
    said = wire_headers.plain(headers)
    refusal = read_refusal(status, said, body, provider)
    words = _safe(refusal.message, secrets)
    row = sort(replace(refusal, shown=words or _safe(_text(body), secrets)))
    request_id = wire_headers.request_id(said)
    if request_id is None and isinstance(body, dict):
        request_id = clean(_text(body.get("request_id")), 200) or None
    asked = wire_headers.retry_after_s(said)
    asked = _google_delay(body) if asked is None else asked
    wait = wire_headers.capped(asked)
    return Failure(
        outcome=row.outcome,
        message=_message(words or f"HTTP {refusal.status} without a readable error body", asked, wait),
        status=refusal.status if not refusal.in_stream else status,
        request_id=request_id,
        retry_after_s=wait,
        whole_route=row.outcome is Outcome.UNUSABLE and row.whole_route,
        limits=wire_headers.limits(said) if provider == "anthropic" else None,
        usage=usage,
    )


def body_of(text: str) -> object:
    """An error's body as the SDK gives it: parsed JSON, or the text where it is none."""
    stripped = text.strip()
    try:
        return loads(stripped.encode())
    except NotJson:
        return stripped


def read_refusal(status: int, headers: wire_headers.Headers, body: object, provider: str) -> Refusal:
    """A refusal in the words of no wire in particular. `body` is parsed JSON, or text where it was none."""
    document = body[0] if isinstance(body, list) and body else body
    if not isinstance(document, dict):
        document = {}
    error = document.get("error")
    if not isinstance(error, dict):
        error = document
    details = error.get("details")
    kind = _bare(headers.get("x-amzn-errortype") or _text(document.get("__type")) or _kind(error))
    if provider == "vertex" and error.get("code") == 429:  # some gateways wrap it in a 5xx
        kind = "resource_exhausted"
    in_stream = status < 300
    return Refusal(
        provider=provider,
        status=400 if in_stream and kind in _BLAMES_THE_REQUEST else status,
        type=kind,
        code=_text(details.get("error_code")) if isinstance(details, dict) else "",
        message=_text(error.get("message")) or _text(error.get("Message")),
        in_stream=in_stream,
    )


def _kind(error: dict[str, Any]) -> str:
    """`status` is Google's, `type` is Anthropic's; a bare `{"type": "error"}` around them names nothing."""
    return _text(error.get("status")) or _text(error.get("type"))


def _bare(name: str) -> str:
    """`com.amazon.coral#ThrottlingException:http://…` is `throttlingexception`."""
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
    """The words, cut; and where the provider asked for a longer wait than it gets, that."""
    if asked is None or wait is None or asked <= wait:
        return words[:MESSAGE_LIMIT]
    note = f" (retry-after capped: {wait:,.0f} s instead of {asked:,.0f} s)"[:120]
    return words[: MESSAGE_LIMIT - len(note)] + note


def _google_delay(body: object) -> float | None:
    """`google.rpc.RetryInfo` among the details of a Google error, in seconds."""
    document = body[0] if isinstance(body, list) and body else body
    error = document.get("error") if isinstance(document, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = _DELAY.match(_text(detail.get("retryDelay"))) if isinstance(detail, dict) else None
        if delay:
            return float(delay[1])
    return None
