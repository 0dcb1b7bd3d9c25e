"""Passes of a call, read from `usage.iterations`, and the effect of a refusal on the bill.

What the totals above the entries hold (`anthropic` 2.12, `types/beta/beta_usage.py`; platform.claude.com, "Compaction",
"Advisor tool", "Refusals and fallback"):

- `message` entries are in them; with a server-side fallback the totals are those of the model that served
- `compaction` and `advisor_message` entries are not
- of any other kind it is not known

So every entry is a part of the call, and what the totals hold beyond the entries is one more part: nothing is left out, nothing
counted twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trivet_tasks.catalog import same_model
from trivet_tasks.outcomes import CATEGORY_UNKNOWN, CATEGORY_UNNAMED, UsagePart

LARGEST_COUNT = 2**31 - 1
"""Maximum number of tokens; more is not a count. The database's integers end here, too."""
MAX_PARTS = 256
"""Passes read of one call. Server tools make about ten, then the provider pauses the turn."""

_OUTSIDE_TOTALS = frozenset({"compaction", "advisor_message"})
_ANSWERS = frozenset({"message", "fallback_message"})
_LONGEST_WORD = 120

UNREADABLE = "the passes of the call cannot be read, priced by its totals"


class Counts(NamedTuple):
    """Tokens by kind."""

    fresh: int = 0
    output: int = 0
    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


def read_parts(
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
    answered = word_of(message.get("model"))
    refused = refusal_of(message)
    hops = _Hops.of(iterations, message)
    parts: list[UsagePart] = []
    rest = list(totals)
    for entry in iterations:
        counts = _counts(entry) if isinstance(entry, dict) else None
        if counts is None or not isinstance(entry, dict):
            return None
        kind = word_of(entry.get("type")) or "message"
        if counts.written_5m and "cache_creation" not in entry and kind not in _OUTSIDE_TOTALS:
            long = min(counts.written_5m, long_writes)
            counts = counts._replace(written_5m=counts.written_5m - long, written_1h=long)
        if kind not in _OUTSIDE_TOTALS:
            long_writes = max(0, long_writes - counts.written_1h)
            rest = [left - count for left, count in zip(rest, counts, strict=True)]
        model = word_of(entry.get("model"))
        category = None
        if kind in _ANSWERS:
            category = refused or _declined(model, answered, counts, hops)
        if model and answered and same_model(model, answered):
            model = None
        parts.append(UsagePart(kind, model, *counts, category))
    beyond = Counts(*(max(0, left) for left in rest))
    if beyond.written_5m and beyond.written_5m <= -rest[4]:  # told as written for an hour by an entry: the same tokens
        beyond = beyond._replace(written_5m=0)
    if beyond.written_1h and beyond.written_1h <= -rest[3]:
        beyond = beyond._replace(written_1h=0)
    if any(beyond):
        parts.append(UsagePart("message", None, *beyond, refused))
    if any(sum(counts) > LARGEST_COUNT for counts in zip(*(_of(part) for part in parts), strict=True)):
        return None
    return tuple(part for part in parts if any(_of(part)))


def sum_of(parts: Sequence[UsagePart]) -> Counts:
    """Return the tokens of all parts together."""
    return Counts(*map(sum, zip(*(_of(part) for part in parts), strict=True))) if parts else Counts()


def kept_parts(parts: tuple[UsagePart, ...]) -> tuple[UsagePart, ...]:
    """Return the parts as far as they say more than their sums: none for a single pass of the model that answered."""
    single = len(parts) == 1 and parts[0].kind in _ANSWERS and parts[0].model is None
    return () if single else parts


def refusal_of(message: Mapping[str, Any]) -> str | None:
    """Return the category of an answer that was refused before any output (see `Usage.refused`), else None."""
    if message.get("stop_reason") != "refusal":
        return None
    content = message.get("content")
    if isinstance(content, list) and any(_is_output(block) for block in content):
        return None
    details = message.get("stop_details")
    return _category(details.get("category")) if isinstance(details, dict) else CATEGORY_UNNAMED


def _declined(model: str | None, answered: str | None, counts: Counts, hops: "_Hops") -> str | None:
    """The category for which one model of a server-side fallback declined before any output; None: it did not."""
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
            name = word_of(source.get("model")) if isinstance(source, dict) else None
            if name and isinstance(trigger, dict):
                declined.append((name, _category(trigger.get("category"))))
        served = any(isinstance(entry, dict) and entry.get("type") == "fallback_message" for entry in iterations)
        return cls(bool(blocks) or served, tuple(declined))


def _category(value: object) -> str:
    return CATEGORY_UNNAMED if value is None else word_of(value) or CATEGORY_UNKNOWN


def _is_hop(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "fallback"


def _is_output(block: object) -> bool:
    """Return whether the model generated this block. A mark of a change of models is not; nor is empty text."""
    if not isinstance(block, dict) or _is_hop(block):
        return False
    return block.get("type") != "text" or bool(block.get("text"))


def _counts(entry: Mapping[str, Any]) -> Counts | None:
    """The counts of an entry; None where one is not a count."""
    split = entry.get("cache_creation")
    split = split if isinstance(split, dict) else {}
    told = [
        entry.get("input_tokens"),
        entry.get("output_tokens"),
        entry.get("cache_read_input_tokens"),
        entry.get("cache_creation_input_tokens"),
        split.get("ephemeral_5m_input_tokens"),
        split.get("ephemeral_1h_input_tokens"),
    ]
    numbers: list[int] = []
    for value in told:
        if value is None:
            value = 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
            return None
        numbers.append(value)
    fresh, output, read, written, short, long = numbers
    return Counts(fresh, output, read, short + max(0, written - short - long), long)


def _of(part: UsagePart) -> Counts:
    return Counts(
        part.input_tokens,
        part.output_tokens,
        part.cache_read_tokens,
        part.cache_write_5m_tokens,
        part.cache_write_1h_tokens,
    )


def word_of(value: object) -> str | None:
    """Return a provider's word, cut where it is too long for one; None where it is no text."""
    return value[:_LONGEST_WORD] if isinstance(value, str) and value else None
