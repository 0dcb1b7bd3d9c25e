"""Answers of providers: JSON, read by orjson where possible and repaired where not, and judged to be whole or broken.

orjson refuses what a paid answer may well hold: half of a surrogate pair, bytes that are no UTF-8, NaN, nesting over
1,024 levels. It writes no more than 254 levels. What is read here it can write, and a reader after it can read.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from trivet_tasks.foreign_text import clean, paired
from trivet_tasks.outcomes import Usage
from trivet_worker.adapters.usage import usage_of

MAX_DEPTH = 200
"""Levels of nesting kept as structure; deeper values are kept as their text."""
_MARGIN = 16
"""Levels that others put around an answer: a line of a results file, a page."""
MAX_VALUES = 4_000_000
"""Values that one document may hold: parsed, each takes up to 100 bytes."""
_SMALL = 4_000_000
_SMALL_INT = 18
"""Digits that always fit into 64 bits."""
_STOP_REASON = 40
_BYTES_PER_TOKEN = 4
"""Bytes of an answer's content as JSON that come to a token, roughly."""
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""Strings, whole or cut off by the end, and brackets outside of them."""


class NotJson(ValueError):
    """The text is not JSON, or larger than any real answer. The message is for a person."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole message."""

    stop_reason: str
    usage: Usage | None
    """None where the message states no usage, or an impossible one."""
    message: bytes = field(default=b"", compare=False, repr=False)
    """The message as JSON: valid UTF-8 that any reader takes."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An incomplete message: the reason, and its usage where it states one."""

    reason: str
    usage: Usage | None = None
    error: object = field(default=None, repr=False)
    """The document, where it is an error and no message."""


def read_message(body: bytes) -> Whole | Broken:
    """Judge the body of a 200. Parsed once, here; the bytes themselves are kept, unless they had to be repaired."""
    if not body or body.isspace():
        return Broken("the answer is empty")
    try:
        document, repaired = read_json(body)
    except NotJson as error:
        return Broken(f"the answer is not JSON ({error})")
    return judge(document, None if repaired else body)


def judge(document: object, body: bytes | None = None) -> Whole | Broken:
    """Judge a parsed answer: of type `message`, with a list of content blocks and a stop reason.

    Args:
        document: as `loads` returns it, or put together from such.
        body: the answer as JSON; None where it is still to be written.
    """
    if is_error(document):
        return Broken("the answer is an error", usage_of(document), document)
    if not isinstance(document, dict) or document.get("type", "message") != "message":
        return Broken("the answer is no message", usage_of(document))
    usage = usage_of(document)
    content = document.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        return Broken("the message has no content list", usage)
    stop_reason = document.get("stop_reason")
    word = clean(stop_reason, _STOP_REASON) if isinstance(stop_reason, str) else ""
    if not word:
        return Broken("the message has no stop reason", usage)
    return Whole(word, usage, dumps(document) if body is None else body)


def is_error(document: object) -> bool:
    """Return whether a document is an error: of the Messages API, or Google's, which has no type and may stand in a list."""
    if isinstance(document, list):
        return len(document) > 0 and isinstance(document[0], dict) and isinstance(document[0].get("error"), dict)
    if not isinstance(document, dict):
        return False
    kind = document.get("type")
    return kind == "error" or (not isinstance(kind, str) and isinstance(document.get("error"), dict))


def content_tokens(message: bytes) -> int:
    """Return an estimate of the tokens of a message's content, at least one."""
    try:
        content = loads(message)["content"]
        return max(1, len(dumps(content)) // _BYTES_PER_TOKEN)
    except (NotJson, KeyError, TypeError):
        return max(1, len(message) // _BYTES_PER_TOKEN)


def loads(raw: bytes) -> Any:
    """Parse, repairing what orjson refuses. Strings may hold halves of surrogate pairs: `dumps` handles them.

    Raises:
        NotJson
    """
    return read_json(raw)[0]


def read_json(raw: bytes) -> tuple[Any, bool]:
    """Parse as `loads` does, raising as it does. Return the document, and True if it was repaired: `dumps` writes it anew."""
    if len(raw) > _SMALL and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise NotJson(f"it holds more than {MAX_VALUES:,} values")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _repaired(raw, error), True
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and not _is_shallow(document):
        return _repaired(raw, None), True
    return document, False


def dumps(document: object) -> bytes:
    """Write a document of `loads`, or one built from such: valid UTF-8, without halves of surrogate pairs."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        return orjson.dumps(_writable(document))


def _repaired(raw: bytes, error: orjson.JSONDecodeError | None) -> Any:
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    text = text.removeprefix("\ufeff")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        text = _flattened(text)
    try:
        return json.loads(text, strict=False, parse_int=_int, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise NotJson(f"byte {error.pos if error else 0:,} of {len(raw):,}") from None


def _is_shallow(document: object) -> bool:
    for _ in range(254 - MAX_DEPTH - _MARGIN):
        document = [document]
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return False
    return True


def _flattened(text: str) -> str:
    """Return the text with each value below `MAX_DEPTH` levels replaced by its own text, as a JSON string."""
    kept: list[str] = []
    depth, copied, deep_from = 0, 0, 0
    for token in _TOKENS.finditer(text):
        sign = token[0]
        if sign in ("[", "{"):
            depth += 1
            if depth == MAX_DEPTH + 1:
                deep_from = token.start()
        elif sign in ("]", "}"):
            if depth == MAX_DEPTH + 1:
                kept += text[copied:deep_from], json.dumps(text[deep_from : token.end()])
                copied = token.end()
            depth -= 1
    kept.append(text[copied:])
    return "".join(kept)


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _SMALL_INT else float(digits)


def _no_number(_: str) -> None:
    """NaN and the infinities, which JSON has no form for."""


def _writable(value: Any) -> Any:
    match value:
        case str():
            return paired(value)
        case dict():
            return {paired(str(name)): _writable(one) for name, one in value.items()}
        case list():
            return [_writable(one) for one in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value) if abs(value) < 2**1000 else None
        case float() if not math.isfinite(value):
            return None
    return value
