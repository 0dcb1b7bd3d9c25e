"""The usage that a message states: its totals, the passes in `usage.iterations`, and refusals that are not billed.

What the totals above the entries hold (`anthropic` 2.12, `types/beta/beta_usage.py`; platform.claude.com, "Compaction",
"Advisor tool", "Refusals and fallback"):

- `message` entries are in them; with a server-side fallback the totals are those of the model that served
- `compaction` and `advisor_message` entries are not
- of any other kind it is not known

So every entry is a part of the call, and what the totals hold beyond the entries is one more part: nothing is left
out, nothing counted twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trivet_tasks.catalog import same_model
from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import CATEGORY_UNKNOWN, CATEGORY_UNNAMED, Usage, UsagePart

LARGEST_COUNT = 2**31 - 1
"""Maximum number of tokens; more is not a count. The database's integers end here, too."""
MAX_PARTS = 256
"""Maximum number of passes read of one call. Server tools make about ten, then the provider pauses the turn."""

_OUTSIDE_TOTALS = frozenset({"compaction", "advisor_message"})
_ANSWERS = frozenset({"message", "fallback_message"})
_LONGEST_NAME = 120
_LONGEST_TIER = 60
"""Characters kept of a service tier and its like."""


class Counts(NamedTuple):
    """Tokens by kind."""

    fresh: int = 0
    output: int = 0
    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


def usage_of(document: object) -> Usage | None:
    """Return the usage stated by a message, or by a part of one; None where it has none, or a count that cannot be.

    Where it lists `iterations` (compaction, advisor, fallback), the counts are the sums of its passes. Tokens written to
    the cache without a breakdown count as 5-minute ones.
    """
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(usage, dict):
        return None
    if usage.get("input_tokens") is None or usage.get("output_tokens") is None:
        return None
    tools = usage.get("server_tool_use")
    searches = _count(tools.get("web_search_requests")) if isinstance(tools, dict) else 0
    counts = _counts(usage)
    if counts is None or searches is None:
        return None
    found = _with_passes(usage, counts, searches, document)
    return found if max(found.prompt_tokens, found.output_tokens) <= LARGEST_COUNT else None


def _with_passes(usage: Mapping[str, Any], counts: Counts, searches: int, message: Mapping[str, Any]) -> Usage:
    iterations, parts, doubt = usage.get("iterations"), None, None
    if iterations and isinstance(iterations, list):
        parts = _read_parts(iterations, counts, message)
        if parts is None:
            doubt = "the passes of the call cannot be read, priced by its totals"
        else:
            counts = Counts(*map(sum, zip(*map(_of, parts), strict=True))) if parts else Counts()
    refused = _refusal_of(message)
    if refused and counts.output > 1:
        doubt = doubt or "refused without content, though output was counted"
    return Usage(
        *counts,
        searches,
        _text(usage.get("service_tier")),
        _text(usage.get("inference_geo")),
        _text(usage.get("speed")),
        _name(message.get("model")),
        refused,
        doubt,
        _kept_parts(parts or ()),
    )


def _read_parts(
    iterations: Sequence[object], totals: Counts, message: Mapping[str, Any]
) -> tuple[UsagePart, ...] | None:
    """Return the parts of a call; tokens that no entry accounts for come last. None where the entries cannot be read.

    Args:
        totals: the counts above the entries.
        message: the whole answer: its model, content and stop reason; empty where it is not known.
    """
    if len(iterations) > MAX_PARTS:
        return None
    long_writes = totals.written_1h  # entries may leave out for how long they wrote; the totals tell
    answered = _name(message.get("model"))
    refused = _refusal_of(message)
    hops = _Hops.of(iterations, message)
    parts: list[UsagePart] = []
    rest = list(totals)
    for entry in iterations:
        counts = _counts(entry) if isinstance(entry, dict) else None
        if counts is None or not isinstance(entry, dict):
            return None
        kind = _name(entry.get("type")) or "message"
        if counts.written_5m and "cache_creation" not in entry and kind not in _OUTSIDE_TOTALS:
            long = min(counts.written_5m, long_writes)
            counts = counts._replace(written_5m=counts.written_5m - long, written_1h=long)
        if kind not in _OUTSIDE_TOTALS:
            long_writes = max(0, long_writes - counts.written_1h)
            rest = [left - count for left, count in zip(rest, counts, strict=True)]
        model = _name(entry.get("model"))
        category = None
        if kind in _ANSWERS:
            category = refused or _declined(model, answered, counts, hops)
        if model and answered and same_model(model, answered):
            model = None
        parts.append(UsagePart(kind, model, *counts, category))
    beyond = _beyond(rest)
    if any(beyond):
        parts.append(UsagePart("message", None, *beyond, refused))
    if any(sum(counts) > LARGEST_COUNT for counts in zip(*(_of(part) for part in parts), strict=True)):
        return None
    return tuple(part for part in parts if any(_of(part)))


def _beyond(rest: Sequence[int]) -> Counts:
    """Return what the totals hold beyond the entries, given the totals less the entries."""
    beyond = Counts(*(max(0, left) for left in rest))
    if beyond.written_5m and beyond.written_5m <= -rest[4]:  # an entry has them as written for an hour
        beyond = beyond._replace(written_5m=0)
    if beyond.written_1h and beyond.written_1h <= -rest[3]:
        beyond = beyond._replace(written_1h=0)
    return beyond


def _kept_parts(parts: tuple[UsagePart, ...]) -> tuple[UsagePart, ...]:
    """Return the parts as far as they say more than their sums: none for a single pass of the model that answered."""
    single = len(parts) == 1 and parts[0].kind in _ANSWERS and parts[0].model is None
    return () if single else parts


def _refusal_of(message: Mapping[str, Any]) -> str | None:
    """Return the category of an answer that was refused before any output (see `Usage.refused`), else None."""
    if message.get("stop_reason") != "refusal":
        return None
    content = message.get("content")
    if isinstance(content, list) and any(_is_output(block) for block in content):
        return None
    details = message.get("stop_details")
    return _category(details.get("category")) if isinstance(details, dict) else CATEGORY_UNNAMED


def _declined(model: str | None, answered: str | None, counts: Counts, hops: "_Hops") -> str | None:
    """Return the category for which a model of a server-side fallback declined before any output; None: it did not."""
    if model is None or answered is None or counts.output > 1 or not hops.any or same_model(model, answered):
        return None
    return next((category for name, category in hops.declined if same_model(name, model)), CATEGORY_UNKNOWN)


class _Hops(NamedTuple):
    """Changes from a model that declined to the next one, within one call."""

    any: bool
    """True if there was one."""
    declined: tuple[tuple[str, str], ...]
    """The models that declined, and the category; one that is not told is left out."""

    @classmethod
    def of(cls, iterations: Sequence[object], message: Mapping[str, Any]) -> "_Hops":
        content = message.get("content")
        blocks = [block for block in content if _is_hop(block)] if isinstance(content, list) else []
        declined: list[tuple[str, str]] = []
        for block in blocks:
            source, trigger = block.get("from"), block.get("trigger")
            name = _name(source.get("model")) if isinstance(source, dict) else None
            if name and isinstance(trigger, dict):
                declined.append((name, _category(trigger.get("category"))))
        served = any(isinstance(entry, dict) and entry.get("type") == "fallback_message" for entry in iterations)
        return cls(bool(blocks) or served, tuple(declined))


def _category(value: object) -> str:
    return CATEGORY_UNNAMED if value is None else _name(value) or CATEGORY_UNKNOWN


def _is_hop(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "fallback"


def _is_output(block: object) -> bool:
    """Return whether the model generated this block. A mark of a change of models is not; nor is empty text."""
    if not isinstance(block, dict) or _is_hop(block):
        return False
    return block.get("type") != "text" or bool(block.get("text"))


def _counts(entry: Mapping[str, Any]) -> Counts | None:
    """Return the counts of an entry, or of the totals; None where one is not a count."""
    split = entry.get("cache_creation")
    split = split if isinstance(split, dict) else {}
    numbers = [
        _count(value)
        for value in (
            entry.get("input_tokens"),
            entry.get("output_tokens"),
            entry.get("cache_read_input_tokens"),
            entry.get("cache_creation_input_tokens"),
            split.get("ephemeral_5m_input_tokens"),
            split.get("ephemeral_1h_input_tokens"),
        )
    ]
    if None in numbers:
        return None
    fresh, output, read, written, short, long = (number or 0 for number in numbers)
    return Counts(fresh, output, read, short + max(0, written - short - long), long)


def _count(value: object) -> int | None:
    """Return a count, 0 where it is left out; None for what is not a count."""
    if value is None:
        return 0
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT else None


def _of(part: UsagePart) -> Counts:
    return Counts(
        part.input_tokens,
        part.output_tokens,
        part.cache_read_tokens,
        part.cache_write_5m_tokens,
        part.cache_write_1h_tokens,
    )


def _name(value: object) -> str | None:
    """Return a provider's word, cut where it is too long for one; None where it is no text."""
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def _text(value: object) -> str | None:
    return clean(value, _LONGEST_TIER) if isinstance(value, str) else None
