"""JSON that people write, read so that nothing of it changes in silence.

orjson is quick, but keeps the last of two keys that are equal and makes a float of an integer over 64 bits; what it
refuses (NaN, a lone surrogate) it refuses without the name of its field. A text in which one of these may be is read a
second time by the standard library, which keeps them for the checks of a request to refuse.
"""

import json
from typing import Any

import orjson

from trivet_tasks.requests.request_json import dotted
from trivet_tasks.requests.request_messages import wrong

_EXACT = 2.0**63
"""From here on a float may have been an integer of more than 64 bits."""
_LONGEST_INTEGER = 40
_OVER_64_BITS = 2**65


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
