"""A value that is valid for a JSON schema: what the simulated model answers where the request asks for JSON.

Covers the subset that structured outputs take, and of other schemas (tools may have any) the usual keywords: types, enum,
const, anyOf, oneOf, allOf, local $ref, required, bounds, lengths, formats. Not `pattern`, `not`, `if`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 6
"""Levels below which only what is required is filled in, and the shortest variant is chosen."""
_FORMATS = {
    "date-time": "2026-11-30T12:00:00Z",
    "date": "2026-11-30",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "station@example.org",
    "hostname": "station.example.org",
    "uri": "https://example.org/station",
    "uuid": "6f1c2a52-9d0e-4b6a-8f57-0c8f3f0f7a11",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
}


def instance_of(schema: object, rng: random.Random, words: list[str]) -> Any:
    """Return a value that is valid for the schema; strings are made of `words`. What it cannot read is taken for anything."""
    return _Maker(schema, rng, words).make(schema, 0)


class _Maker:
    def __init__(self, root: object, rng: random.Random, words: list[str]) -> None:
        self._root = root
        self._rng = rng
        self._words = words

    def make(self, schema: object, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return self._words[0]
        schema = self._merged(schema, depth)
        if "const" in schema:
            return schema["const"]
        if isinstance(values := schema.get("enum"), list) and values:
            return self._rng.choice(values)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = "null" if depth >= MAX_DEPTH and "null" in kind else next((k for k in kind if k != "null"), "null")
        match kind or _guessed(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._string(schema)

    def _merged(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """The schema with its reference, its `allOf` and one of its variants laid over it."""
        for _ in range(64):  # a reference may lead to itself
            if isinstance(reference := schema.get("$ref"), str):
                rest = {name: value for name, value in schema.items() if name != "$ref"}
                schema = _laid(self._found(reference), rest)
            elif isinstance(every := schema.get("allOf"), list):
                rest = {name: value for name, value in schema.items() if name != "allOf"}
                for part in every:
                    rest = _laid(rest, self._merged(part, depth) if isinstance(part, Mapping) else {})
                schema = rest
            elif isinstance(variants := schema.get("anyOf", schema.get("oneOf")), list) and variants:
                rest = {name: value for name, value in schema.items() if name not in ("anyOf", "oneOf")}
                schema = _laid(rest, self._variant(variants, depth))
            else:
                break
        return schema

    def _variant(self, variants: list[Any], depth: int) -> Mapping[str, Any]:
        usable = [one for one in variants if isinstance(one, Mapping)]
        if not usable:
            return {}
        if depth >= MAX_DEPTH:
            plain = [one for one in usable if one.get("type") not in ("object", "array") and "$ref" not in one]
            return (plain or usable)[0]
        return self._rng.choice(usable)

    def _found(self, reference: str) -> Mapping[str, Any]:
        target: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            target = target.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, Mapping) else {}
        return target if isinstance(target, Mapping) else {}

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        required = [name for name in schema.get("required") or () if isinstance(name, str)]
        made = {
            name: self.make(part, depth + 1)
            for name, part in properties.items()
            if name in required or depth < MAX_DEPTH
        }
        for name in required:
            if name not in made:
                made[name] = self.make(schema.get("additionalProperties"), depth + 1)
        least = schema.get("minProperties")
        for number in range(least - len(made) if isinstance(least, int) else 0):
            made[f"field_{number + 1}"] = self.make(schema.get("additionalProperties"), depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        made = [self.make(part, depth + 1) for part in first] if isinstance(first, list) else []
        least, most = schema.get("minItems", 0), schema.get("maxItems", 16)
        items = schema.get("items", {} if not made else False)
        wanted = max(least, min(most, 0 if depth >= MAX_DEPTH else 2))
        tries = 0
        while items is not False and len(made) < wanted and tries < 1000:
            one = self.make(items, depth + 1)
            tries += 1
            if not schema.get("uniqueItems") or one not in made:
                made.append(one)
        return made

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        step = schema.get("multipleOf", 1 if whole else 0.25)
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if isinstance(above, int | float) and not isinstance(above, bool):
            low = max(low, above + (step if whole else 0))
        if isinstance(below, int | float) and not isinstance(below, bool):
            high = min(high, below - (step if whole else 0))
        low = low if low > -math.inf else min(0, high - 100 * step if high < math.inf else 0)
        high = high if high < math.inf else low + 100 * step
        first, last = math.ceil(low / step), math.floor(high / step)
        if first > last or (last * step in (above, below) and first == last):
            return float(low + high) / 2
        number: float = self._rng.randint(first, last) * step
        if number in (above, below):
            number = (low + high) / 2
        return int(number) if whole else number

    def _string(self, schema: Mapping[str, Any]) -> str:
        if (form := schema.get("format")) in _FORMATS:
            return _FORMATS[form]
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        made = " ".join(self._rng.sample(self._words, k=min(3, len(self._words))))
        while len(made) < least:
            made += " " + self._rng.choice(self._words)
        return made[:most] if isinstance(most, int) else made


def _guessed(schema: Mapping[str, Any]) -> str:
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _laid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas that both hold, as one: properties and requirements of both."""
    made = {**below, **above}
    if isinstance(one := below.get("properties"), Mapping) and isinstance(other := above.get("properties"), Mapping):
        made["properties"] = {**one, **other}
    if isinstance(one := below.get("required"), list) and isinstance(other := above.get("required"), list):
        made["required"] = list(dict.fromkeys([*one, *other]))
    return made
