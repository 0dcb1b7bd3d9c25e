"""Reading figures out of JSON, with errors that name the field. Used for everything the control port takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class ControlError(ValueError):
    """Bad control input. `field` names what is wrong; `str()` is a sentence for a person."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


def known(document: Mapping[str, Any], fields: tuple[str, ...], where: str = "") -> None:
    """Refuse fields nobody reads."""
    for name in document:
        if name not in fields:
            raise ControlError(f"{where}{name}", f"unknown field; known here: {', '.join(fields)}")


def mapping(value: object, field: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ControlError(field, "must be a JSON object")
    return value


def number(document: Mapping[str, Any], field: str, *, high: float = math.inf, above: bool = False) -> float | None:
    """A finite number from 0 to `high`, or None when absent or null. `above` excludes 0 itself."""
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ControlError(field, f"must be a number, not {value!r}")
    if value < 0 or value > high or (above and value == 0):
        bound = "above 0" if above else "at least 0"
        raise ControlError(
            field, f"must be {bound}{f' and at most {high:g}' if high < math.inf else ''}, not {value!r}"
        )
    return float(value)


def whole(document: Mapping[str, Any], field: str, *, low: int = 0, high: int = 2**53) -> int | None:
    """A whole number within bounds, or None."""
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ControlError(field, f"must be a whole number of at least {low}, not {value!r}")
    return value


def text(document: Mapping[str, Any], field: str, *, choices: tuple[str, ...] = ()) -> str | None:
    """A string, one of `choices` when given, or None."""
    value = document.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or (choices and value not in choices):
        wanted = f"one of {', '.join(choices)}" if choices else "a string"
        raise ControlError(field, f"must be {wanted}, not {value!r}")
    return value
