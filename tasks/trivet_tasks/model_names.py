"""Tells which model a name means, whatever wire, gateway or answer spelled it. Light: no SDK, no price data."""

import re
from functools import lru_cache

from trivet_tasks.catalog import known

_SUFFIX = re.compile(r"(@.*|\[\w+\]|:\d+(:\w+)?|-v\d+(:\d+)?(:\w+)?|-\d{8})$")
"""A Vertex version, a context window, a Bedrock version, or the date of a snapshot."""


@lru_cache(maxsize=1024)
def bare_name(reference: str) -> str:
    """Return the first-party id in a name: no profile, path, date or version.

    Example: `us.anthropic.claude-haiku-4-5-20251001-v1:0` and `claude-haiku-4-5@20251001` are `claude-haiku-4-5`.
    """
    name = reference.strip().lower().rpartition("/")[2].rpartition("anthropic.")[2]
    if entry := known(name):
        return entry.id
    while (shorter := _SUFFIX.sub("", name)) != name:
        name = shorter
    name = name.replace(".", "-")
    entry = known(name)
    return entry.id if entry else name


def same_model(one: str, other: str) -> bool:
    """Return whether two names mean the same model: `claude-4-opus`, `claude-opus-4-0` and `claude-opus-4@20250514` do."""
    return one == other or _identity(one) == _identity(other)


def version_of(name: str) -> tuple[int, int] | None:
    """Return the version in a name: (4, 5) of `claude-haiku-4-5`; None where there is none, as in `claude-opus-latest`."""
    numbers = [int(number) for number in _identity(name)[1]]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers else None


@lru_cache(maxsize=1024)
def _identity(reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Family and version, however ordered."""
    parts = bare_name(reference).removesuffix("-latest").removesuffix("-0").split("-")
    return tuple(sorted(part for part in parts if not part.isdigit())), tuple(part for part in parts if part.isdigit())
