"""Reading of a message of the Messages API: its completeness and its usage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import Usage
from trivet_worker.adapters.answer_json import NotJson, dumps, loads, read
from trivet_worker.adapters.iterations import UNREADABLE, Counts, kept_parts, read_parts, refusal_of, sum_of, word_of

MAX_TOKENS = 2**31 - 1
"""A larger count is no count: no call uses so much, and no column of the ledger holds it."""
_WORD = 60
"""Characters kept of a service tier and its like."""
_STOP_REASON = 40
_BYTES_PER_TOKEN = 4
"""Of an answer's content as JSON, about."""
_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_SPLIT = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole message."""

    stop_reason: str
    usage: Usage | None
    """None where the message states no usage, or an impossible one."""
    message: bytes = field(default=b"", compare=False, repr=False)
    """The message as JSON: valid UTF-8 that any reader takes."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An incomplete message: the reason, and its usage where it states one."""

    reason: str
    usage: Usage | None = None
    error: object = field(default=None, repr=False)
    """The document, where it is an error and no message."""


def read_message(body: bytes) -> Whole | Broken:
    """Judge the body of a 200. Parsed once, here; the bytes themselves are kept, unless they had to be mended."""
    if not body or body.isspace():
        return Broken("the answer is empty")
    try:
        document, mended = read(body)
    except NotJson as error:
        return Broken(f"the answer is not JSON ({error})")
    return judge(document, None if mended else body)


def judge(document: object, body: bytes | None = None) -> Whole | Broken:
    """Judge a parsed answer: of type `message`, with a list of content blocks and a stop reason.

    Args:
        document: as `answer_json.loads` gives it, or put together from such.
        body: the answer as JSON; None where it is still to be written.
    """
    if is_error(document):
        return Broken("the answer is an error", usage_of(document), document)
    if not isinstance(document, dict) or document.get("type", "message") != "message":
        return Broken("the answer is no message", usage_of(document))
    usage = usage_of(document)
    content = document.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        return Broken("the message has no content list", usage)
    stop_reason = document.get("stop_reason")
    word = clean(stop_reason, _STOP_REASON) if isinstance(stop_reason, str) else ""
    if not word:
        return Broken("the message has no stop reason", usage)
    return Whole(word, usage, dumps(document) if body is None else body)


def is_error(document: object) -> bool:
    """Return whether a document is an error: of the Messages API, or Google's, which has no type and may stand in a list."""
    if isinstance(document, list):
        return len(document) > 0 and isinstance(document[0], dict) and isinstance(document[0].get("error"), dict)
    if not isinstance(document, dict):
        return False
    kind = document.get("type")
    return kind == "error" or (not isinstance(kind, str) and isinstance(document.get("error"), dict))


def usage_of(document: object) -> Usage | None:
    """Return the usage stated by a message, or by a part of one; None where it has none, or a count that cannot be."""
    if not isinstance(document, dict):
        return None
    usage = document.get("usage")
    if not isinstance(usage, dict) or not (
        _is_count(usage.get("input_tokens")) and _is_count(usage.get("output_tokens"))
    ):
        return None
    if not (_are_counts(usage, _COUNTS) and _are_counts(usage.get("cache_creation"), _SPLIT)):
        return None
    if not _are_counts(usage.get("server_tool_use"), ("web_search_requests",)):
        return None
    found = read_usage(usage, document)
    return found if max(found.prompt_tokens, found.output_tokens) <= MAX_TOKENS else None


def content_tokens(message: bytes) -> int:
    """Return an estimate of the tokens of a message's content, at least one."""
    try:
        content = loads(message)["content"]
        return max(1, len(dumps(content)) // _BYTES_PER_TOKEN)
    except (NotJson, KeyError, TypeError):
        return max(1, len(message) // _BYTES_PER_TOKEN)


def read_usage(usage: dict[str, Any], message: Mapping[str, Any]) -> Usage:
    """Return the tokens that a `usage` object states.

    Where it lists `iterations` (compaction, advisor, fallback), the counts are the sums of its passes (`iterations.py`).
    Tokens written to the cache without a breakdown count as 5-minute ones.

    Args:
        message: the message it is of, for the model that answered and for refusals.
    """
    counts = Counts(*_cache_and_tokens(usage))
    iterations, parts, doubt = usage.get("iterations"), None, None
    if iterations and isinstance(iterations, list):
        parts = read_parts(iterations, counts, message)
        if parts is None:
            doubt = UNREADABLE
        else:
            counts = sum_of(parts)
    refused = refusal_of(message) if message.get("stop_reason") == "refusal" else None
    if refused and counts.output > 1:
        doubt = doubt or "refused without content, though output was counted"
    searches = usage.get("server_tool_use")
    return Usage(
        *counts,
        _count(searches.get("web_search_requests")) if isinstance(searches, dict) else 0,
        _text(usage.get("service_tier")),
        _text(usage.get("inference_geo")),
        _text(usage.get("speed")),
        word_of(message.get("model")),
        refused,
        doubt,
        kept_parts(parts) if parts else (),
    )


def _cache_and_tokens(usage: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Input, output, cache read, cache written for 5 minutes, cache written for an hour."""
    split = usage.get("cache_creation")
    short, long = 0, 0
    if isinstance(split, dict):
        short, long = _count(split.get("ephemeral_5m_input_tokens")), _count(split.get("ephemeral_1h_input_tokens"))
    written = _count(usage.get("cache_creation_input_tokens"))
    return (
        _count(usage.get("input_tokens")),
        _count(usage.get("output_tokens")),
        _count(usage.get("cache_read_input_tokens")),
        short + max(0, written - short - long),
        long,
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS


def _are_counts(counts: object, names: tuple[str, ...]) -> bool:
    """Return whether each of these is a count, or absent."""
    return not isinstance(counts, dict) or all(counts.get(name) is None or _is_count(counts[name]) for name in names)


def _count(value: object) -> int:
    return value if isinstance(value, int) and _is_count(value) else 0


def _text(value: object) -> str | None:
    return clean(value, _WORD) if isinstance(value, str) else None
