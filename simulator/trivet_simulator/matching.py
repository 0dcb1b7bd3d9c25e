"""Selection of the requests that a fault or a reply is for."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trivet_simulator.checks import ControlError, text

FIELDS = ("model", "contains", "matches")
"""Fields of a filter in control input."""


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Lets through requests that fulfil all that is given. Their text is every string of `system` and `messages`."""

    model: str | None = None
    """Glob of the model id as the wire names it."""
    contains: str | None = None
    """One of the request's strings contains this."""
    matches: str | None = None
    """One of the request's strings has a match of this regular expression."""

    def passes(self, model: str, document: Mapping[str, Any]) -> bool:
        """Return whether a request with this body, sent to this model, fulfils the filter."""
        if self.model is not None and not fnmatch.fnmatchcase(model, self.model):
            return False
        if self.contains is not None and not any(self.contains in part for part in texts_of(document)):
            return False
        return self.matches is None or any(re.search(self.matches, part) for part in texts_of(document))


def filter_from(document: Mapping[str, Any]) -> RequestFilter:
    """Read the fields of a filter out of control input. ControlError names a bad one."""
    pattern = text(document, "matches")
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ControlError("matches", f"is not a regular expression: {error}") from None
    contains = text(document, "contains")
    if contains == "":
        raise ControlError("contains", "must not be empty")
    return RequestFilter(text(document, "model"), contains, pattern)


def texts_of(document: Mapping[str, Any]) -> Iterator[str]:
    """Every string of a request's `system` and `messages`, in no particular order."""
    waiting: list[Any] = [document.get("system"), document.get("messages")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
