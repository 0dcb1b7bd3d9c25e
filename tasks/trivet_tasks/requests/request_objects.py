"""Python objects in a request as plain JSON: those of the `anthropic` SDK, pydantic models, iterators.

A producer may not have the SDK, so nothing here imports it: its answers and blocks are pydantic models, its sentinels for
"not given" are known by their name. What becomes of each is what the SDK sends (anthropic 2.12, `_utils/_json.py`).

A type as `output_config.format` becomes a JSON schema in the subset that structured outputs take (platform.claude.com). What
the subset has no keyword for becomes part of the description, where the model reads it, as the SDK does
(`transform_schema`). Tests hold the two together.
"""

import io
import os
from base64 import b64encode
from collections import UserString
from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_origin

from pydantic import BaseModel, PydanticUserError, TypeAdapter

from trivet_tasks.requests.request_json import MAX_DEPTH, dotted
from trivet_tasks.requests.request_messages import MAX_MESSAGES, is_whole_answer, kind, wrong

_STRING_FORMATS = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
})  # fmt: skip
_VARIANTS = (("anyOf", "anyOf"), ("oneOf", "anyOf"), ("allOf", "allOf"))
"""Keyword in the schema, keyword that is sent. The first that is there counts."""
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})

_NOT_GIVEN = frozenset({"NotGiven", "Omit"})
_TEXTS = (str, bytes, bytearray, memoryview, UserString)

Path_ = tuple[str | int, ...]


def output_format_of(form: object, field: str) -> dict[str, Any]:
    """Return the value of `output_config.format` that asks for answers of a type.

    `form` is a pydantic model, a TypedDict, a dataclass or another type that `pydantic.TypeAdapter` takes.

    Raises:
        InvalidRequest: naming `field`, where the type has no such schema.
    """
    try:
        return {"type": "json_schema", "schema": _schema_of(form)}
    except (PydanticUserError, ValueError, TypeError, NameError, RecursionError):
        name = getattr(form, "__name__", "the type")
        raise wrong(field, f"no JSON schema can be made of {name}; give one as a dict instead.") from None


@lru_cache(maxsize=256)
def _schema_of(form: Any) -> dict[str, Any]:
    return narrowed(TypeAdapter(form).json_schema())


def narrowed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema in the subset. ValueError where a part says nothing of its type."""
    left = dict(schema)
    made: dict[str, Any] = {}
    if (definitions := left.pop("$defs", None)) is not None:
        made["$defs"] = {name: narrowed(one) for name, one in definitions.items()}
    if (reference := left.pop("$ref", None)) is not None:
        return {**made, "$ref": reference}
    kind = left.pop("type", None)
    variants = {name: left.pop(name, None) for name, _ in _VARIANTS}
    made |= _literals(left)
    if "enum" in made or "const" in made:
        kind = None
    sent = next(((to, variants[name]) for name, to in _VARIANTS if isinstance(variants[name], list)), None)
    if sent is not None:
        made[sent[0]] = [narrowed(one) for one in sent[1]]
    elif "enum" not in made and "const" not in made:
        if kind not in _TYPES:
            raise ValueError("a part of the schema names no type")
        made["type"] = kind
    for name in ("description", "title"):
        if (text := left.pop(name, None)) is not None:
            made[name] = text
    made |= _of_type(kind, left)
    if left:
        told = "{" + ", ".join(f"{name}: {value}" for name, value in left.items()) + "}"
        made["description"] = f"{made['description']}\n\n{told}" if "description" in made else told
    return made


def _literals(left: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    values = left.get("enum")
    if isinstance(values, list) and values and all(_is_primitive(value) for value in values):
        made["enum"] = list(left.pop("enum"))
    if "const" in left and _is_primitive(left["const"]):
        made["const"] = left.pop("const")
    return made


def _of_type(kind: object, left: dict[str, Any]) -> dict[str, Any]:
    """Take the keywords that a type has in the subset out of `left`."""
    match kind:
        case "object":
            left.pop("additionalProperties", None)
            properties = left.pop("properties", {})
            made = {
                "properties": {name: narrowed(one) for name, one in properties.items()},
                "additionalProperties": False,
            }
            if (required := left.pop("required", None)) is not None:
                made["required"] = list(required)
            return made
        case "string":
            return _kept("format", left, left.get("format") in _STRING_FORMATS)
        case "array":
            made = {}
            if (items := left.pop("items", None)) is not None:
                made["items"] = narrowed(items)
            return made | _kept("minItems", left, left.get("minItems") in (0, 1))
    return {}


def _kept(name: str, left: dict[str, Any], allowed: bool) -> dict[str, Any]:
    """Take a keyword that only some values may have; another value goes to the end of what is left."""
    value = left.pop(name, None)
    if value is None:
        return {}
    if allowed:
        return {name: value}
    left[name] = value
    return {}


def _is_primitive(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def plain_request(request: object) -> object:
    """Return the request with its Python objects as plain JSON; the same object where there are none.

    - an SDK message or block, or another pydantic model: as the SDK sends it, `exclude_unset`
    - a whole answer among `messages`: the turn of the assistant it makes, `role` and `content`
    - `NOT_GIVEN`, `omit`: left out of their object
    - a type as `output_config.format` or `output_format`: the JSON schema that the SDK would make of it
    - an iterator or another sequence: a list; a tool of the SDK: its `to_dict()`
    - a path or an open file as `data` of a source: its content in base64

    Other objects stay, for the writing to refuse them by their path. Iterators are used up.

    Raises:
        InvalidRequest: an object cannot be written, or a type has no JSON schema.
    """
    found = _plain(request, (), ())
    if isinstance(found, dict):
        found = _with_format(_with_turns(found))
    return found


def _plain(value: object, path: Path_, above: tuple[int, ...]) -> object:
    form = type(value)
    if form is str or form is int or form is bool or value is None or form is float:
        return value
    if id(value) in above or len(above) > MAX_DEPTH:
        return value
    inner = (*above, id(value))
    if isinstance(value, Mapping):
        made = {name: _plain(item, (*path, name), inner) for name, item in value.items() if not _is_not_given(item)}
        return value if form is dict and _same(made, value) else made
    if isinstance(value, list | tuple):
        items = [_plain(item, (*path, index), inner) for index, item in enumerate(value)]
        return value if all(map(_is, items, value)) else items
    if isinstance(value, BaseModel):
        return _dumped(value, path)
    if path and path[-1] == "data" and isinstance(value, io.IOBase | os.PathLike):
        return _base64(value, path)
    if isinstance(value, Iterator | MappingView | Sequence) and not isinstance(value, (*_TEXTS, io.IOBase)):
        # one more than is allowed, for the check of the list to refuse it; an iterator may have no end
        some = islice(cast("Iterable[object]", value), MAX_MESSAGES + 1)
        return [_plain(item, (*path, index), inner) for index, item in enumerate(some)]
    if form.__module__.partition(".")[0] == "anthropic" and callable(to_dict := getattr(value, "to_dict", None)):
        return _plain(to_dict(), path, inner)
    return value


def _is(one: object, other: object) -> bool:
    return one is other


def _same(made: Mapping[Any, object], given: Mapping[Any, object]) -> bool:
    return len(made) == len(given) and all(map(_is, made.values(), given.values()))


def _is_not_given(value: object) -> bool:
    form = type(value)
    return form.__name__ in _NOT_GIVEN and form.__module__.partition(".")[0] == "anthropic"


def _dumped(model: BaseModel, path: Path_) -> object:
    try:
        return model.model_dump(
            mode="json",
            by_alias=True,
            exclude_unset=True,
            exclude=getattr(model, "__api_exclude__", None),
            warnings=False,
        )
    except (ValueError, TypeError, RecursionError):  # its own words may quote what it could not write
        raise wrong(dotted(path), f"cannot be written as JSON: {kind(model)}.") from None


def _base64(source: "io.IOBase | os.PathLike[Any]", path: Path_) -> str:
    try:
        data = Path(os.fsdecode(source)).read_bytes() if isinstance(source, os.PathLike) else source.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is closed"
        raise wrong(dotted(path), f"the file cannot be read: {reason}.") from None
    return b64encode(data if isinstance(data, bytes) else str(data).encode()).decode()


def _with_turns(request: dict[str, Any]) -> dict[str, Any]:
    messages = request.get("messages")
    if not isinstance(messages, list | tuple) or not any(map(is_whole_answer, messages)):
        return request
    turns = [{"role": "assistant", "content": one.get("content")} if is_whole_answer(one) else one for one in messages]
    return {**request, "messages": turns}


def _with_format(request: dict[str, Any]) -> dict[str, Any]:
    """The request with `output_format` in its place, and a type there as a JSON schema."""
    config = request.get("output_config")
    inner = config.get("format") if isinstance(config, Mapping) else None
    outer = request.get("output_format")
    if outer is not None:
        if inner is not None:
            raise wrong("output_format", "is the older name of output_config.format; give only one of the two.")
        if config is not None and not isinstance(config, Mapping):
            return request
        request = {name: value for name, value in request.items() if name != "output_format"}
        return {**request, "output_config": {**(config or {}), "format": _format(outer, "output_format")}}
    if not _is_type(inner):
        return request
    return {**request, "output_config": {**(config or {}), "format": _format(inner, "output_config.format")}}


def _format(value: object, field: str) -> object:
    return output_format_of(value, field) if _is_type(value) else value


def _is_type(value: object) -> bool:
    return isinstance(value, type) or get_origin(value) is not None
