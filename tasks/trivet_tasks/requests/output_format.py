"""A Python type as `output_config.format`: its JSON schema in the subset that structured outputs take.

The subset is that of platform.claude.com, structured outputs; what it has no keyword for becomes part of the
description, where the model reads it, as the `anthropic` SDK does (2.12, `transform_schema`). Tests hold the two together.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import PydanticUserError, TypeAdapter

from trivet_tasks.requests.request_messages import wrong

_STRING_FORMATS = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
})  # fmt: skip
_VARIANTS = (("anyOf", "anyOf"), ("oneOf", "anyOf"), ("allOf", "allOf"))
"""Keyword in the schema, keyword that is sent. The first that is there counts."""
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})


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
