"""Answers of the simulated model and their token counts: determined by the request, and quoting nothing of it."""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import orjson
from cachetools import LRUCache

from trivet_simulator.content import CHARS_PER_TOKEN, content_for
from trivet_simulator.events import block_events
from trivet_simulator.poison import spoil_usage

POOL_WORDS = 40_000
CACHE_ENTRIES = 20_000
CACHE_TTL_S = {"5m": 300.0, "1h": 3600.0}
LEAST_CACHED_TOKENS = 1_024
"""Shorter prefixes are not cached, whatever the mark says."""

WORDS = """the a an of in on with and or from over under river stone harbour winter summer morning evening paper
letter garden bridge window table kettle stand iron copper wooden narrow broad quiet early late second
third small large carries holds keeps brings leaves opens closes turns follows crosses reaches returns
counts weighs measures report figure column margin ledger route queue engine signal station platform
valley meadow forest island coast village market"""


@dataclass(slots=True)
class Usage:
    """Token counts of one call, as the wire reports them."""

    input_tokens: int
    output_tokens: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0

    def as_json(self, *, output: int | None = None) -> dict[str, Any]:
        """The `usage` object of a message."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache_write_5m + self.cache_write_1h,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_write_5m,
                "ephemeral_1h_input_tokens": self.cache_write_1h,
            },
            "output_tokens": self.output_tokens if output is None else output,
        }


@dataclass(slots=True)
class Answer:
    """A message to be put on a wire. `stop_reason` None is a fault."""

    id: str
    model: str
    blocks: list[dict[str, Any]]
    """Its content."""
    stop_reason: str | None
    usage: Usage
    stop_details: dict[str, Any] | None = None
    service: dict[str, Any] = field(default_factory=dict)
    """Fields of `usage` that only some wires have."""
    extra_usage: dict[str, Any] = field(default_factory=dict)
    """Fields of `usage` that this answer has beside its counts, e.g. `server_tool_use`, `iterations`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the message."""
    spoiled_usage: tuple[str, int] | None = None
    """A fault of `poison.SPOILED_USAGE` and the count that goes with it."""
    cached: tuple[bytes, float] | None = None
    """The entry of the prompt cache that it writes or keeps: the key, and for how long."""

    def message(self) -> dict[str, Any]:
        """The whole message, as a call that does not stream gets it."""
        return self._spoilt(
            {
                "model": self.model,
                "id": self.id,
                "type": "message",
                "role": "assistant",
                "content": self.blocks,
                "stop_reason": self.stop_reason,
                "stop_sequence": None,
                "stop_details": self.stop_details,
                **self.extra,
                "usage": {**self.usage.as_json(), **self.service, **self.extra_usage},
            }
        )

    def _spoilt(self, holder: dict[str, Any]) -> dict[str, Any]:
        """The same object, its usage spoiled when a fault says so."""
        if self.spoiled_usage is not None:
            spoil_usage(self.spoiled_usage[0], holder, self.spoiled_usage[1])
        return holder

    def events(self, pieces: int) -> list[dict[str, Any]]:
        """The events of a stream, with what grows in a block in at most `pieces` deltas."""
        whole = self.message()
        late = {name: whole[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
        start = {**whole, "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
        start["usage"] = {**self.usage.as_json(output=1), **self.service}
        end = {
            "type": "message_delta",
            "delta": late,
            "usage": {"output_tokens": self.usage.output_tokens, **self.extra_usage},
        }
        if "context_management" in start:
            end["context_management"] = start.pop("context_management")
        blocks = [event for index, block in enumerate(self.blocks) for event in block_events(index, block, pieces)]
        return [
            {"type": "message_start", "message": self._spoilt(start)},
            {"type": "ping"},
            *blocks,
            self._spoilt(end),
            {"type": "message_stop"},
        ]


class Model:
    """The simulated model: lengths, words and prompt caches. One per provider."""

    def __init__(self, seed: int, output_median: int) -> None:
        rng = random.Random(f"{seed}/words")
        text = " ".join(rng.choices(WORDS.split(), k=POOL_WORDS))
        self._pool = text + text
        self._span = len(text)
        self._seed = str(seed).encode()
        self._output_median = output_median
        self._cache: LRUCache[bytes, tuple[float, float]] = LRUCache(CACHE_ENTRIES)
        """By key from when on it may be read, and until when."""
        normal = statistics.NormalDist()
        # a table instead of the inverse function for each call: 6 times faster
        self._spread = [math.exp(0.6 * normal.inv_cdf((i + 0.5) / 4096)) for i in range(4096)]

    def answer(self, request: bytes, document: dict[str, Any], model: str, max_tokens: int, message_id: str) -> Answer:
        """The answer to a request of this body; `document` is the same, parsed."""
        digest = hashlib.blake2b(request, digest_size=12, key=self._seed).digest()
        lot = int.from_bytes(digest, "big")
        wanted = max(4, round(self._output_median * self._spread[lot & 4095]))
        tokens = min(wanted, max_tokens)
        offset = self._pool.index(" ", (lot >> 12) % self._span) + 1
        length = min(tokens * CHARS_PER_TOKEN, self._span)
        text = self._pool[offset : offset + length].strip()
        usage, cached = self._usage(request, document, model)
        usage.output_tokens = tokens
        asked = content_for(document, text, lot, max_tokens)
        if asked is not None:
            usage.output_tokens = asked.output_tokens
            return Answer(
                message_id, model, asked.blocks, asked.stop_reason, usage, cached=cached, extra_usage=asked.usage
            )
        stop = "end_turn" if wanted <= max_tokens else "max_tokens"
        blocks = [{"type": "text", "text": text}] if text else []
        return Answer(message_id, model, blocks, stop, usage, cached=cached)

    def keep(self, answer: Answer, after_s: float) -> None:
        """Make the entry that the answer writes to the prompt cache readable once the answer has come, as at the providers."""
        if answer.cached is None:
            return
        key, ttl_s = answer.cached
        now = time.monotonic()
        ready, until = self._cache.get(key, (math.inf, 0.0))
        self._cache[key] = min(ready if until > now else math.inf, now + after_s), now + after_s + ttl_s

    def _usage(self, request: bytes, document: dict[str, Any], model: str) -> tuple[Usage, tuple[bytes, float] | None]:
        total = max(1, len(request) // CHARS_PER_TOKEN)
        if b'"cache_control"' not in request:
            return Usage(total), None
        prefix, ttl = _cached_prefix(document)
        if prefix is None:
            return Usage(total), None
        size = min(total - 1, max(1, len(prefix) // CHARS_PER_TOKEN))
        if size < LEAST_CACHED_TOKENS:
            return Usage(total), None
        key = hashlib.blake2b(prefix, digest_size=16, salt=b"prefix", person=model.encode()[:16]).digest()
        ready, until = self._cache.get(key, (math.inf, 0.0))
        if ready <= time.monotonic() < until:
            return Usage(total - size, cache_read=size), (key, CACHE_TTL_S[ttl])
        return Usage(total - size, **{f"cache_write_{ttl}": size}), (key, CACHE_TTL_S[ttl])

    def forget(self) -> None:
        """Empty the prompt caches."""
        self._cache.clear()


def input_tokens(request: bytes) -> int:
    """The count a request of this body gets, cached or not."""
    return max(1, len(request) // CHARS_PER_TOKEN)


def _cached_prefix(document: dict[str, Any]) -> tuple[bytes | None, str]:
    """Everything up to the last block marked with `cache_control`, and that mark's ttl."""
    blocks: list[Any] = [*_blocks(document.get("tools")), *_blocks(document.get("system"))]
    for message in _blocks(document.get("messages")):
        blocks += _blocks(message.get("content")) if isinstance(message, dict) else [message]
    last, ttl = -1, "5m"
    for i, block in enumerate(blocks):
        mark = block.get("cache_control") if isinstance(block, dict) else None
        if isinstance(mark, dict):
            last, ttl = i, "1h" if mark.get("ttl") == "1h" else "5m"
    return (orjson.dumps(blocks[: last + 1]), ttl) if last >= 0 else (None, ttl)


def _blocks(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]
