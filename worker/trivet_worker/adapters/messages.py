"""Reading a message of the Messages API: is it whole, and what did it use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from trivet_tasks.usage import Usage
from trivet_worker.adapters.iterations import UNREADABLE, Counts, kept_parts, read_parts, refusal_of, sum_of, word_of

_NO_MESSAGE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole message."""

    stop_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Broken:
    """No whole message, why, and what it used all the same where it says so."""

    reason: str
    usage: Usage | None = None


def read_message(body: bytes) -> Whole | Broken:
    """Judge the body of a 200. Parsed once, here; the bytes themselves are what is kept."""
    if not body.strip():
        return Broken("the answer is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return Broken(f"the answer is not JSON (byte {error.pos} of {len(body)})")
    return judge(document)


def judge(document: object) -> Whole | Broken:
    """Judge a parsed answer: of type `message`, with a content list, a stop reason and its token counts."""
    if not isinstance(document, dict) or document.get("type") != "message":
        return Broken("the answer is no message")
    usage = document.get("usage")
    counted = isinstance(usage, dict) and _is_count(usage.get("input_tokens")) and _is_count(usage.get("output_tokens"))
    known = read_usage(usage, document) if counted and isinstance(usage, dict) else None
    if not isinstance(document.get("content"), list):
        return Broken("the message has no content list", known)
    stop_reason = document.get("stop_reason")
    if not isinstance(stop_reason, str) or not stop_reason:
        return Broken("the message has no stop reason", known)
    if known is None:
        return Broken("the message has no token counts")
    return Whole(stop_reason, known)


def read_usage(usage: dict[str, Any], message: Mapping[str, Any] | None = None) -> Usage:
    """Return the tokens that a `usage` object tells.

    Where it lists `iterations` (compaction, advisor, fallback), the counts are the sums of its passes (`iterations.py`).
    Tokens written to the cache without a breakdown count as 5-minute ones.

    Args:
        message: the message it is of, for the model that answered and for refusals; None: not known.
    """
    message = message if message is not None else _NO_MESSAGE
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
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: object) -> int:
    return value if isinstance(value, int) and _is_count(value) else 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
