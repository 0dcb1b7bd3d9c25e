"""Reading of the names of Bedrock's service quotas.

Service Quotas has no key from a quota to a model: a quota is identified by its name, free text that varies by generation of
models. Those met (AWS General Reference, Bedrock user guide "Quotas for the bedrock-runtime endpoint", accounts'
listings of 2025 and 2026):

- `Global cross-region model inference requests per minute for Anthropic Claude Haiku 4.5`
- `Cross-region model inference tokens per minute for Anthropic Claude Opus 4.6 V1`
- `On-demand InvokeModel tokens per minute for Anthropic Claude Sonnet 4.5`
- `Model invocation max tokens per day for Anthropic Claude Opus 4.7 (doubled for cross-region calls)`
- `[bedrock-mantle endpoint] Input tokens per minute for Claude Opus 4.8`: another endpoint, which Trivet does not use

A name is read whole or not at all; nothing is guessed from a part of it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trivet.live_check.report import Kind, Quota


class Path(StrEnum):
    """A way in which a call reaches a model; each has a quota of its own."""

    GLOBAL = "global cross-region"
    GEO = "cross-region"
    ON_DEMAND = "on-demand"


_PER_MINUTE = re.compile(
    r"(?P<path>global cross-region|cross-region|on-demand) (?:model inference|invokemodel) "
    r"(?P<what>requests|tokens) per minute for (?:anthropic )?claude (?P<model>.+)"
)
_PER_DAY = re.compile(
    r"(?:model invocation max|(?P<path>global cross-region|cross-region|on-demand) (?:model inference|invokemodel)) "
    r"tokens per day for (?:anthropic )?claude (?P<model>.+)"
)
_MODEL = re.compile(r"(?P<family>[a-z]+) (?P<version>\d+(?:\.\d+)?)(?: v\d+)?")
_OLD_MODEL = re.compile(r"(?:v?\d+(?:\.\d+)?(?: (?:haiku|sonnet|opus))?|instant)(?: v\d+)?")  # Claude 3.7 Sonnet V1, v2
_ASIDE = re.compile(r"\s*\((?:doubled|double) for [^)]*\)$")
# of Bedrock's quotas for Claude those that bound something else than online calls of a model on bedrock-runtime
_ELSEWHERE = re.compile(r"^\[|batch|model units|provisioned|fine-tun|customi[sz]|context length|latency.optimi[sz]ed")


@dataclass(frozen=True, slots=True)
class Named:
    """A quota of Bedrock whose name was understood."""

    path: Path | None
    """None: the quota holds for every path."""
    kind: Kind
    model: str
    """First-party id, e.g. `claude-opus-4-6`."""


class Unread(StrEnum):
    """A reason why a name was not understood."""

    ELSEWHERE = "it bounds something else"
    NOT_RECOGNISED = "not recognised"


def read_name(name: str) -> Named | Unread:
    """Return what a quota bounds, by its name."""
    said = " ".join(_ASIDE.sub("", name.strip().lower()).split())
    if "claude" not in said or _ELSEWHERE.search(said):
        return Unread.ELSEWHERE
    daily = _PER_DAY.fullmatch(said)
    found = daily or _PER_MINUTE.fullmatch(said)
    if found is None:
        return Unread.NOT_RECOGNISED
    model = _MODEL.fullmatch(found["model"])
    if model is None:
        return Unread.ELSEWHERE if _OLD_MODEL.fullmatch(found["model"]) else Unread.NOT_RECOGNISED
    path = Path(found["path"]) if found["path"] else None
    per_minute = Kind.TOKENS if daily or found["what"] == "tokens" else Kind.REQUESTS
    kind = Kind.TOKENS_PER_DAY if daily else per_minute
    return Named(path, kind, f"claude-{model['family']}-{model['version'].replace('.', '-')}")


def read_quotas(listed: Iterable[Mapping[str, Any]], paths: Mapping[str, Path]) -> tuple[list[Quota], tuple[str, ...]]:
    """Return the quotas of models out of the list of Service Quotas, and the names for Claude that could not be read.

    Args:
        listed: the entries of `ListServiceQuotas` (`QuotaName`, `Value`); of two for the same thing the first counts.
        paths: the path of each model's calls, by first-party id.
    """
    found: dict[tuple[str, Kind], Quota] = {}
    unread: dict[str, None] = {}
    for entry in listed:
        name, value = entry.get("QuotaName", ""), entry.get("Value")
        read = read_name(name)
        if read is Unread.NOT_RECOGNISED:
            unread[name] = None
        if not isinstance(read, Named) or value is None or read.model not in paths:
            continue
        if read.path in (None, paths[read.model]):
            found.setdefault((read.model, read.kind), Quota(read.model, read.kind, int(value), name))
    return list(found.values()), tuple(unread)
