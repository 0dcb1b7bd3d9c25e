"""JSON as providers send it, read by orjson where possible and repaired where not.

orjson refuses what a paid answer may well hold: half of a surrogate pair, bytes that are no UTF-8, NaN, nesting over 1,024
levels. It writes no more than 254 levels. What is read here it can write, and a reader after it can read.
"""

import json
import math
import re
from typing import Any

import orjson

from trivet_tasks.foreign_text import paired

MAX_DEPTH = 200
"""Levels of nesting kept as structure; deeper values are kept as their text."""
_MARGIN = 16
"""Levels that others put around an answer: a line of a results file, a page."""
MAX_VALUES = 4_000_000
"""Values that one document may hold: parsed, each takes up to 100 bytes."""
_SMALL = 4_000_000
_SMALL_INT = 18
"""Digits that always fit into 64 bits."""
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""Strings, whole or cut off by the end, and brackets outside of them."""


class NotJson(ValueError):
    """The text is not JSON, or larger than any real answer. The message is for a person."""


def loads(raw: bytes) -> Any:
    """Parse, repairing what orjson refuses. Strings may hold halves of surrogate pairs: `dumps` handles them.

    Raises:
        NotJson
    """
    return read(raw)[0]


def read(raw: bytes) -> tuple[Any, bool]:
    """Parse as `loads` does. Returns (document, whether it was repaired and must be written anew).

    Raises:
        NotJson
    """
    if len(raw) > _SMALL and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise NotJson(f"it holds more than {MAX_VALUES:,} values")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _mended(raw, error), True
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and not _is_shallow(document):
        return _mended(raw, None), True
    return document, False


def dumps(document: object) -> bytes:
    """Write a document of `loads`, or one built from such: valid UTF-8, without halves of surrogate pairs."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        return orjson.dumps(_writable(document))


def _mended(raw: bytes, error: orjson.JSONDecodeError | None) -> Any:
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
    """The text with each value below `MAX_DEPTH` levels replaced by its own text, as a JSON string."""
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
