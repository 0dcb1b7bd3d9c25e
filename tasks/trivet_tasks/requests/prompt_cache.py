"""Marks on common prefixes of requests, so that the provider reads them from its prompt cache: `prompt_cache`.

The prefix of a request is what stands before its own part: tools, system, and of the first message all blocks but the
last. It is marked with `cache_control` at its end, as long as at least two requests of a batch have it; where they
have only tools and system in common, at the end of those. What is unique is never marked, for writing to a cache costs more
than plain input. A request with marks of its own is left as it is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson
from cachetools import LRUCache

from trivet_tasks.jobs import JobSpec, Prefix
from trivet_tasks.latency import Lane
from trivet_tasks.requests.request_json import write_body
from trivet_tasks.requests.request_messages import quoted, wrong

LEAST_TOKENS: Mapping[str, int] = {
    "claude-sonnet-4-5": 1_024,
    "claude-sonnet-4-6": 2_048,
    "claude-sonnet-5": 1_024,
    "claude-opus-4-1": 1_024,
    "claude-opus-4-8": 1_024,
    "claude-opus-5": 1_024,
    "claude-fable-5": 1_024,
    "claude-mythos-5": 1_024,
}
"""Minimum tokens of a cached prefix (platform.claude.com/docs/en/build-with-claude/prompt-caching, cache limitations, as
other pages quote it, November 2026; not read there. Where the quotations differ, the larger figure; never less than 1,024)."""
LEAST_ELSE = 4_096
"""Minimum tokens for all other models: the largest figure quoted, which Opus 4.5 to 4.7 and Haiku 4.5 have. Shorter
prefixes are not marked, so this errs on the side of doing nothing."""
BYTES_PER_TOKEN = 4
"""Rather too many, so that a prefix taken for long enough is."""
MAX_LINES = 50
"""Prefixes of one batch whose requests wait for the first of them: each has a line of its own, and dispatch visits all lines."""
MAX_SEEN = 10_000
CacheWrite: TypeAlias = Literal["", "5m", "1h"]
"""Time for which the provider's prompt cache keeps what a request writes to it; empty = it writes nothing."""
CACHE_WRITE_FACTORS: Mapping[CacheWrite, Decimal] = {"": Decimal(1), "5m": Decimal("1.25"), "1h": Decimal(2)}
"""Maximum cost of a call as a multiple of its maximum without a cache: writing costs more than plain input. The factors are
those of every model (platform.claude.com, pricing)."""
_MARK = b'"cache_control"'
_LONG = b'"ttl":"1h"'
_FIXED = ("tools", "system", "tool_choice", "thinking", "output_config", "speed", "inference_geo")
"""Fields that stand before the messages, or change what is cached of them."""


def read_prompt_cache(value: object) -> str | None:
    """Return the time the cache keeps: `5m` (also for true) or `1h`; None: nothing is to be marked.

    Raises:
        InvalidRequest
    """
    if value is None or value is False:
        return None
    if value is True:
        return "5m"
    if isinstance(value, str) and value in ("5m", "1h"):
        return value
    raise wrong("prompt_cache", f"must be true, false, 5m or 1h, is {quoted(value)}.")


def prefixes_of(model: str, body: Mapping[str, Any], raw: bytes) -> tuple[Prefix, ...]:
    """Return the prefixes of a request that may be marked, the longest first; none if too short, or marked already."""
    if _MARK in raw:
        return ()
    least = BYTES_PER_TOKEN * least_tokens(model)
    if len(raw) < least:
        return ()
    fixed = orjson.dumps([model, *(body.get(name) for name in _FIXED)])
    head = orjson.dumps([body.get("tools"), body.get("system")])
    found: list[Prefix] = []
    content = body["messages"][0]["content"]
    if not isinstance(content, str) and len(content) > 1:
        leading = orjson.dumps(content[:-1])
        if len(head) + len(leading) >= least:
            found.append(Prefix(_digest(fixed, leading), in_message=True, size=len(head) + len(leading)))
    if (body.get("system") or body.get("tools")) and len(head) >= least:
        found.append(Prefix(_digest(fixed), in_message=False, size=len(head)))
    return tuple(found)


def least_tokens(model: str) -> int:
    """Return the minimum tokens of a prefix that the model's provider caches."""
    return LEAST_TOKENS.get(model, LEAST_ELSE)


def marked(spec: JobSpec, prefix: Prefix) -> JobSpec:
    """The request with a mark at the end of this prefix."""
    control = {"type": "ephemeral"} if spec.prompt_cache == "5m" else {"type": "ephemeral", "ttl": spec.prompt_cache}
    body = orjson.loads(spec.body)
    if prefix.in_message:
        body["messages"][0]["content"][-2]["cache_control"] = control
    elif system := body.get("system"):
        if isinstance(system, str):
            body["system"] = system = [{"type": "text", "text": system}]
        system[-1]["cache_control"] = control
    else:
        body["tools"][-1]["cache_control"] = control
    return replace(spec, body=write_body(body))


class SharedPrefix(NamedTuple):
    """The prefix of a request that another one of its batch has too."""

    prefix: Prefix
    warmed: bool
    """True if the first request with it is sent alone, so that the provider has it when the others come."""


class Sharing:
    """Finds common prefixes of one batch's requests while they stream in. It remembers digests, no text."""

    def __init__(self) -> None:
        self._seen: LRUCache[str, int] = LRUCache(MAX_SEEN)
        self._lines: set[str] = set()

    def marked(self, group: Sequence[JobSpec]) -> list[JobSpec]:
        """The requests of the next group; those that share a prefix with another one seen by now are marked."""
        return [
            spec
            if found is None
            else replace(marked(spec, found.prefix), line=found.prefix.digest if found.warmed else None)
            for spec, found in zip(group, self.shared(group), strict=True)
        ]

    def shared(self, group: Sequence[JobSpec]) -> list[SharedPrefix | None]:
        """Return the longest prefix of each request of the next group that another one seen by now has; None: it has none."""
        if not any(spec.prefixes for spec in group):
            return [None] * len(group)
        counts = Counter(prefix.digest for spec in group for prefix in spec.prefixes)
        found = [self._one(spec, counts) for spec in group]
        self._seen.update(counts)
        return found

    def _one(self, spec: JobSpec, counts: Counter[str]) -> SharedPrefix | None:
        shared = (prefix for prefix in spec.prefixes if counts[prefix.digest] > 1 or prefix.digest in self._seen)
        prefix = next(shared, None)
        if prefix is None:
            return None
        if len(self._lines) < MAX_LINES and spec.latency.lane is not Lane.REALTIME:
            self._lines.add(prefix.digest)
        return SharedPrefix(prefix, prefix.digest in self._lines)


def cache_write_of(body: bytes) -> CacheWrite:
    """Return how long the provider's prompt cache keeps what a request writes to it: the longest of its marks."""
    if _MARK not in body:
        return ""
    return "1h" if _LONG in body else "5m"


def _digest(*parts: bytes) -> str:
    state = blake2b(digest_size=16)
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.hexdigest()
