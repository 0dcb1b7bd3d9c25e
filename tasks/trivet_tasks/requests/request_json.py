"""A checked Messages API body as JSON: written once, measured, and refused where JSON has no form for a value.

JSON that people write is read so that nothing of it changes in silence. orjson is quick, but keeps the last of two keys that
are equal and makes a float of an integer over 64 bits; what it refuses (NaN, a lone surrogate) it refuses without the name
of its field. A text in which one of these may be is read a second time by the standard library, which keeps them for the
checks of a request to refuse.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests.request_messages import PLAIN_NAME, kind, wrong

MAX_BODY_BYTES = 32 * 1024 * 1024
"""The Messages API takes requests of up to 32 MB (platform.claude.com/docs/en/api/overview, request size limits)."""

_KEPT_IN_ORDER = ("tools", "output_config")  # the model reads the order of a schema's properties and answers in it
_WRITE = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
MAX_METADATA_BYTES = 16 * 1024
"""Size of a request's metadata as JSON; with the row of its job it is read and written many times."""
MAX_DEPTH = 250
"""Levels of nesting; orjson stops at 254."""

_BYTES_PER_TOKEN = 3.5
_IMAGE_TOKENS = 1_600
_TOOLS_TOKENS = 350
_PAGE_TOKENS = 3_600
_PAGE_BYTES = 50_000
_UNSEEN_PAGES = 10

_EXACT = 2.0**63
"""From here on a float may have been an integer of more than 64 bits."""
_LONGEST_INTEGER = 40
_OVER_64_BITS = 2**65


def write_body(body: dict[str, object]) -> bytes:
    """The body as JSON, each part written once; equal bodies give equal bytes whatever the order of their keys.

    `tools`, `output_config` and the input of tool calls keep the order they came in, for the model reads it: there, order
    makes a difference.

    Raises:
        InvalidRequest: something in it is not JSON (named by its path), or it is larger than 32 MB.
    """
    given = body
    try:
        body = _with_inputs_in_order(body)
        if "tools" not in body and "output_config" not in body:
            raw = orjson.dumps(body, option=_WRITE | orjson.OPT_SORT_KEYS)
        else:
            rest = {name: value for name, value in body.items() if name not in _KEPT_IN_ORDER}
            raw = orjson.dumps(rest, option=_WRITE | orjson.OPT_SORT_KEYS)[:-1]
            for name in _KEPT_IN_ORDER:
                if name in body:
                    raw += b',"%b":%b' % (name.encode(), orjson.dumps(body[name], option=_WRITE))
            raw += b"}"
    except (TypeError, RecursionError):  # orjson's own message may quote what it could not write
        raise _flaw_in(given) or wrong("request", "cannot be written as JSON.") from None
    if len(raw) > MAX_BODY_BYTES:
        size, most = len(raw) / 1024**2, MAX_BODY_BYTES // 1024**2
        raise wrong("request", f"has {size:,.1f} MB; the Messages API takes at most {most} MB.")
    if b"null" in raw and (flaw := _flaw_in(given)):  # orjson writes NaN and infinity as null
        raise flaw
    return raw


def write_metadata(metadata: Mapping[str, object]) -> str:
    """Return a request's metadata as JSON, in the order it was given.

    Raises:
        InvalidRequest: something in it is not JSON (named by its path), or it is larger than 16 KB.
    """
    path = ("metadata",)
    try:
        raw = orjson.dumps(metadata, option=_WRITE)
    except (TypeError, RecursionError):
        raise _flaw_in(metadata, path) or wrong("metadata", "cannot be written as JSON.") from None
    if b"null" in raw and (flaw := _flaw_in(metadata, path)):
        raise flaw
    if len(raw) > MAX_METADATA_BYTES:
        raise wrong("metadata", f"may have at most {MAX_METADATA_BYTES:,} bytes as JSON, has {len(raw):,}.")
    return raw.decode()


def _with_inputs_in_order(body: dict[str, object]) -> dict[str, object]:
    """The body with the inputs of its tool calls written already; the same object where there are none to keep in order."""
    messages = body.get("messages")
    if not isinstance(messages, list | tuple):
        return body
    written: list[object] | None = None
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list | tuple) and any(map(_has_order, content)):
            written = list(messages) if written is None else written
            written[index] = {**message, "content": [_in_order(block) for block in content]}
    return body if written is None else {**body, "messages": written}


def _has_order(block: object) -> bool:
    inner = block.get("input") if isinstance(block, dict) else None
    return isinstance(inner, dict) and len(inner) > 0


def _in_order(block: object) -> object:
    if not isinstance(block, dict) or not _has_order(block):
        return block
    return {**block, "input": orjson.Fragment(orjson.dumps(block["input"], option=_WRITE))}


def _flaw_in(value: object, path: tuple[str | int, ...] = (), above: tuple[int, ...] = ()) -> InvalidRequest | None:
    """The first thing in `value` that JSON does not have, or None."""
    match value:
        case None | bool():
            return None
        case str():
            return None if _encodable(value) else wrong(dotted(path), "holds a lone surrogate, which is not text.")
        case int():
            fits = -(2**63) <= value < 2**64
            return None if fits else wrong(dotted(path), "is a whole number of more than 64 bits.")
        case float():
            return None if math.isfinite(value) else wrong(dotted(path), f"must be a finite number, is {value:g}.")
        case dict() | list() | tuple():
            if id(value) in above:
                return wrong(dotted(path), "contains itself.")
            if len(above) > MAX_DEPTH:
                return wrong(dotted(path), f"is nested more than {MAX_DEPTH} levels deep.")
            inner = (*above, id(value))
            if isinstance(value, dict):
                for key in value:
                    if not isinstance(key, str) or not _encodable(key):
                        return wrong(dotted(path), f"holds a key that is not a string: {kind(key)}.")
            for step, item in value.items() if isinstance(value, dict) else enumerate(value):
                if not isinstance(item, str) or not item.isascii():
                    flaw = _flaw_in(item, (*path, step), inner)
                    if flaw is not None:
                        return flaw
            return None
        case _:
            return wrong(dotted(path), f"is {kind(value)}, which JSON does not have.")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def dotted(path: tuple[str | int, ...]) -> str:
    """A path such as `messages[0].content`; of a long one the start, and no key that is not a plain name."""
    text = ""
    for step in path[:8]:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if PLAIN_NAME.fullmatch(step) else ".(a key)"
    return (text.lstrip(".") or "request") + ("…" if len(path) > 8 else "")


def estimate_input(body: Mapping[str, object], size: int, blocks: Iterable[Mapping[str, object]]) -> int:
    """Return an estimate of the request's input tokens, on the high side; at least 1. Limits reserve by it and
    settle to the real usage afterwards.

    `size` is the length of the written body, `blocks` are its content blocks. Text counts as one token per 3.5 bytes of
    UTF-8 JSON: English has about 4 characters a token, and scripts of two and three bytes a character have fewer, so
    bytes follow them. An image counts as 1,600 tokens, the most one costs at standard resolution (platform.claude.com,
    vision). A PDF counts as 3,600 a page (1,500 to 3,000 of text plus an image: platform.claude.com, PDF support),
    taking 50 KB for a page (our guess) and 10 pages where it is not in the request. Tools bring about 350 tokens of
    instructions of their own (platform.claude.com, tool use, pricing; not verified for the newest models).
    """
    tokens, text = 1.0, size
    for block in blocks:
        form, source = block.get("type"), block.get("source")
        if not isinstance(source, dict) or form not in ("image", "document"):
            continue
        data = source.get("data")
        binary = len(data) if source.get("type") == "base64" and isinstance(data, str) else 0
        text -= binary
        if form == "image":
            tokens += _IMAGE_TOKENS
        elif binary:
            tokens += _PAGE_TOKENS * max(1, math.ceil(binary * 0.75 / _PAGE_BYTES))
        elif source.get("type") in ("url", "file"):
            tokens += _PAGE_TOKENS * _UNSEEN_PAGES
    if body.get("tools"):
        tokens += _TOOLS_TOKENS
    return int(tokens + max(0, text) / _BYTES_PER_TOKEN)


def read_json(data: bytes) -> Any:
    """Return the value of a JSON text. Integers of any size, NaN and lone surrogates stay what they are.

    Raises:
        orjson.JSONDecodeError: it is not JSON.
        InvalidRequest: an object has the same key twice; `field` is its path, e.g. `messages[0].role`.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return _kept(data)
        except (ValueError, RecursionError):
            pass
        raise
    return value if _is_exact(data, value) else _kept(data)


def _is_exact(data: bytes, value: object) -> bool:
    """Return whether all strings of the text are in the value, as keys or items, and none of its numbers is ambiguous."""
    strings, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        form = type(one)
        if form is str:
            strings += 1
        elif form is dict:
            strings += len(one)  # type: ignore[arg-type]
            waiting.extend(one.values())  # type: ignore[attr-defined]
        elif form is list:
            waiting.extend(one)  # type: ignore[arg-type]
        elif form is float and not -_EXACT < one < _EXACT:  # type: ignore[operator]
            return False
    escaped = 0
    if b"\\" in data:
        if b"\\\\" in data:  # then an escaped quote cannot be told by the byte before it
            return False
        escaped = data.count(b'\\"')
    return 2 * strings + escaped == data.count(b'"')


class _Doubled(dict[str, Any]):
    """An object of which a key was given twice."""

    key = ""


def _kept(data: bytes) -> Any:
    found = False

    def pairs(given: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        made = dict(given)
        if len(made) == len(given):
            return made
        found, seen = True, set()
        doubled = _Doubled(made)
        for name, _ in given:
            if name in seen:
                doubled.key = name
                break
            seen.add(name)
        return doubled

    value = json.loads(data.decode(), object_pairs_hook=pairs, parse_int=_integer)
    if found:
        raise wrong(_path_of_double(value, ()) or "request", "is given twice.")
    return value


def _integer(digits: str) -> int:
    """The integer; a longer one than Python reads at once as one that is refused all the same."""
    if len(digits) <= _LONGEST_INTEGER:
        return int(digits)
    return -_OVER_64_BITS if digits.startswith("-") else _OVER_64_BITS


def _path_of_double(value: object, path: tuple[str | int, ...]) -> str | None:
    if isinstance(value, _Doubled):
        return dotted((*path, value.key))
    if isinstance(value, dict | list):
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            found = _path_of_double(item, (*path, step))
            if found is not None:
                return found
    return None
