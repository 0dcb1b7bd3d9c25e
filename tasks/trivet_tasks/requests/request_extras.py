"""`extra_headers` and `extra_body` of a request: headers and fields of the body that Trivet does not know itself.

As in the SDK they are sent as given. What would carry credentials, lead the call elsewhere or change how it is framed is
refused; so is what Trivet or the request sets. Field names are unbounded here only in kind: count and size have limits.
Errors name the header or field where it is a plain name, and never hold a value.
"""

import re
from collections.abc import Mapping

from trivet_tasks.requests.request_messages import PLAIN_NAME, kind, shown, wrong

MAX_HEADERS = 32
MAX_HEADER_BYTES = 8_192
"""Names and values together."""
MAX_FIELDS = 50
BETA_HEADER = "anthropic-beta"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")
_SECRET_NAME = re.compile(
    r"auth|cookie|secret|passw(?:or)?d|credential|signature|api[-_]?key|apikey|session|jwt"
    r"|(?:^|[-_.])(?:key|token|pwd)$"
)
_SECRET_VALUE = re.compile(
    r"(?:bearer|basic|negotiate|digest|aws4-hmac-sha256)\s|sk-ant-|ya29\.|a(?:kia|sia)[0-9a-z]{16}", re.I
)
_SET_HERE = frozenset({
    "accept", "accept-charset", "accept-encoding", "connection", "date", "expect", "host", "http2-settings", "keep-alive",
    "max-forwards", "range", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via",
})  # fmt: skip
_SET_HERE_BEGIN = ("content-", "if-", "x-stainless-", "x-trivet-")
_LEADS_AWAY = frozenset({"forwarded", "location", "origin", "referer", "x-original-url", "x-rewrite-url", "x-real-ip"})
_LEADS_AWAY_BEGIN = ("proxy-", "x-forwarded-", "x-http-method", "x-method-override")
_PROVIDER_BEGIN = ("x-amz", "x-goog-")
_FIRST_PARTY = {
    "anthropic-version": "Trivet sets it for each provider.",
    "anthropic-workspace-id": "it belongs to a route's credentials.",
    "anthropic-organization-id": "it belongs to a route's credentials.",
    "anthropic-user-profile-id": "Trivet does not send it.",
    "anthropic-dangerous-direct-browser-access": "Trivet is no browser.",
}
_NEVER_IN_BODY = frozenset(
    {"model", "stream", "anthropic_version", "anthropic_beta", "betas", "messages", "max_tokens"}
)


def read_extra_headers(value: object) -> tuple[dict[str, str], list[str]]:
    """The headers by lower-case names, sorted, and the betas of an `anthropic-beta` among them.

    Raises:
        InvalidRequest: naming the header.
    """
    if not isinstance(value, Mapping):
        raise wrong("extra_headers", f"must be an object of names and texts, is {kind(value)}.")
    if len(value) > MAX_HEADERS:
        raise wrong("extra_headers", f"may hold at most {MAX_HEADERS} headers, holds {len(value):,}.")
    headers: dict[str, str] = {}
    for name, text in value.items():
        if text is None:
            continue
        lower, text = _header(name, text)
        if lower in headers:
            raise wrong(
                f"extra_headers.{lower}", "is given twice; names of headers are the same in upper and lower case."
            )
        headers[lower] = text
    size = sum(len(name) + len(text) for name, text in headers.items())
    if size > MAX_HEADER_BYTES:
        raise wrong("extra_headers", f"may have at most {MAX_HEADER_BYTES:,} bytes in all, has {size:,}.")
    betas = [beta for part in headers.pop(BETA_HEADER, "").split(",") if (beta := part.strip())]
    return dict(sorted(headers.items())), betas


def _header(name: object, text: object) -> tuple[str, str]:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        what = "a name must be 1 to 100 letters, digits or !#$%&'*+-.^_`|~ (RFC 9110)"
        raise wrong("extra_headers", f"{what}, is {kind(name)}.")
    lower = name.lower()
    field = f"extra_headers.{lower}" if PLAIN_NAME.fullmatch(lower) else "extra_headers"
    if reason := _refusal(lower):
        raise wrong(field, reason)
    if not isinstance(text, str):
        raise wrong(field, f"must be a string, is {kind(text)}.")
    if not _VALUE.fullmatch(text):
        what = "must be visible ASCII characters, with no control characters and no spaces at its ends"
        raise wrong(field, f"{what}, is {kind(text)}.")
    if _SECRET_VALUE.match(text):
        raise wrong(field, "looks like a credential; credentials belong to routes (api_key), not to requests.")
    return lower, text


def _refusal(name: str) -> str:
    """Return the reason for which a header may not be given; empty = it may."""
    if name in _FIRST_PARTY:
        return f"may not be given: {_FIRST_PARTY[name]}"
    if name in _SET_HERE or name.startswith(_SET_HERE_BEGIN):
        return "may not be given: it is set where the call is made."
    if name in _LEADS_AWAY or name.startswith(_LEADS_AWAY_BEGIN):
        return "may not be given: it could lead the call elsewhere."
    if name.startswith(_PROVIDER_BEGIN):
        return "may not be given: it speaks for a provider's account."
    if _SECRET_NAME.search(name):
        return "may not be given: it carries credentials, which belong to routes (api_key), not to requests."
    return ""


def read_extra_body(
    value: object, given: Mapping[str, object], known: frozenset[str], own: frozenset[str], refused: Mapping[str, str]
) -> tuple[dict[str, object], dict[str, object]]:
    """Fields of the body that Trivet knows, to be read as if they stood beside `messages`, and those it does not know.

    Args:
        value: what was given.
        given: the other fields of the request.
        known: fields of the body that Trivet checks.
        own: Trivet's own fields.
        refused: fields that are not taken, and what to do instead.

    Raises:
        InvalidRequest: naming the field.
    """
    if not isinstance(value, Mapping):
        raise wrong("extra_body", f"must be an object, is {kind(value)}.")
    if len(value) > MAX_FIELDS:
        raise wrong("extra_body", f"may hold at most {MAX_FIELDS} fields, holds {len(value):,}.")
    ours: dict[str, object] = {}
    theirs: dict[str, object] = {}
    for name, item in value.items():
        if not isinstance(name, str) or not _FIELD.fullmatch(name):
            raise wrong("extra_body", f"a name must be 1 to 60 letters, digits or _, is {kind(name)}.")
        field = f"extra_body.{shown(name)}"
        if name in _NEVER_IN_BODY:
            raise wrong(field, "may not be given: the request or Trivet sets it.")
        if name in own:
            raise wrong(field, "is a field of Trivet; give it beside extra_body.")
        if name in refused:
            raise wrong(field, refused[name])
        if name in given:
            raise wrong(field, "is given beside extra_body, too; give it once.")
        if item is not None:
            (ours if name in known else theirs)[name] = item
    return ours, theirs
