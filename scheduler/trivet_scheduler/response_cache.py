"""Answers of earlier calls in Redis, for equal requests; and who is just getting one.

Every step is one script (`lua/cache_*.lua`), for all jobs of a chunk or group. Nothing hangs on the cache: what it lost is
called for again.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from importlib import resources
from typing import NamedTuple, cast

import orjson
import redis
from redis.commands.core import Script

from trivet_tasks.latency import Latency
from trivet_tasks.settings import CacheSettings, Settings
from trivet_tasks.shared_state import PREFIX

ANSWERS = f"{PREFIX}cache:answer:"
LEADS = f"{PREFIX}cache:lead:"
COUNTERS = f"{PREFIX}cache:counters"
EXPIRIES = f"{PREFIX}cache:expiries"
SIZES = f"{PREFIX}cache:sizes"

OVERHEAD_BYTES = 350
"""What Redis needs for an entry beside the answer itself: keys, expiry, size (measured with `MEMORY USAGE`, about)."""
LEAD_GRACE_S = 30.0
"""How much longer than its class's budget a job leads that is not heard of again; of realtime, no longer."""
NEVER_KEPT_S = 600.0
"""How long everybody calls for a request whose answer could not be kept, instead of waiting for one another."""
_CLEARED_AT_ONCE = 500


class Kept(NamedTuple):
    """An answer and where it came from."""

    message: bytes
    """The provider's, JSON."""
    stop_reason: str
    route: str
    cost_usd: Decimal | None
    """What the call cost that brought it; None where it has no price."""

    def __repr__(self) -> str:
        """Without the answer."""
        return f"Kept({len(self.message)} bytes, {self.stop_reason}, {self.route})"


class LookUp(NamedTuple):
    """A job that asks. `over`: a leader that is known to have ended."""

    key: str
    job_id: str
    over: str = ""


class Follow(NamedTuple):
    """Another job is getting the answer."""

    leader: str


class Landed(NamedTuple):
    """What came of a job's request: an answer to keep, or none, so that others need not wait for it any more."""

    key: str
    job_id: str
    model: str
    answer: Kept | None
    never: bool = False
    """No answer to this request can be kept, so nobody is to wait for one."""


class CacheStats(NamedTuple):
    """The cache as it stands. Counts are since Redis was last emptied."""

    entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int
    followed: int
    """Jobs that waited for an equal one; each of them is a hit, too, once that has its answer."""
    stored: int
    evicted: int
    """Answers that had to leave before their time, for want of room."""

    @property
    def hit_rate(self) -> float | None:
        """The part of look-ups that found an answer; None before the first. Jobs that wait are looked up again."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


class ResponseCache:
    """The cache of one fleet. Safe to share between threads. Every method may raise `redis.RedisError`."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._look_up = _script(client, "cache_look_up")
        self._keep = _script(client, "cache_common", "cache_keep")
        self._clear = _script(client, "cache_common", "cache_clear")

    @property
    def terms(self) -> CacheSettings:
        """The settings of the cache."""
        return self._settings.cache

    def look_up(self, latency: Latency, asked: Sequence[LookUp]) -> list[Kept | Follow | None]:
        """For each job, in order: an answer, whom to wait for, or None: it calls, and others wait for it."""
        life_s = self._settings.of_class(latency).budget_s + (0 if latency is Latency.REALTIME else LEAD_GRACE_S)
        keys = [COUNTERS]
        arguments: list[str | int] = [list(Latency).index(latency), int(life_s * 1_000)]
        for one in asked:
            keys += [ANSWERS + one.key, LEADS + one.key]
            arguments += [one.job_id, one.over]
        answers = cast("list[list[bytes]]", self._look_up(keys=keys, args=arguments))
        return [_found(kind, value) for kind, value in answers]

    def keep(self, latency: Latency, landed: Sequence[Landed]) -> None:
        """Keep the answers of jobs of one class, and let go of the leads of all."""
        life_s = self._settings.of_class(latency).cache_ttl_s
        keys = [COUNTERS, EXPIRIES, SIZES]
        arguments: list[str | int | bytes] = [self.terms.max_bytes, ANSWERS]
        for one in landed:
            keys += [ANSWERS + one.key, LEADS + one.key]
            answer = b"" if one.answer is None else _written(one.answer)
            lives_s = min(life_s, NEVER_KEPT_S) if one.never else life_s
            arguments += [
                one.key,
                one.job_id,
                max(1, int(lives_s * 1_000)),
                one.model,
                answer,
                len(answer) + OVERHEAD_BYTES,
                int(one.never),
            ]
        self._keep(keys=keys, args=arguments)

    def stats(self) -> CacheStats:
        """How it stands."""
        seconds, micros = self._redis.time()
        now = seconds * 1_000 + micros // 1_000
        counted_now = cast("dict[bytes, bytes]", self._redis.hgetall(COUNTERS))
        counters = {name.decode(): int(count) for name, count in counted_now.items()}
        counted = (counters.get(name, 0) for name in ("hits", "misses", "followed", "stored", "evicted"))
        entries = self._redis.zcount(EXPIRIES, now, "+inf")
        return CacheStats(int(entries), counters.get("bytes", 0) if entries else 0, self.terms.max_bytes, *counted)

    def clear(self, model: str | None = None) -> int:
        """Forget all answers, or those of one model; calls under way still bring theirs. Returns how many."""
        sizes = cast("Iterator[tuple[bytes, bytes]]", self._redis.hscan_iter(SIZES, count=_CLEARED_AT_ONCE))
        digests = [
            digest.decode() for digest, size in sizes if model is None or size.partition(b" ")[2].decode() == model
        ]
        gone = 0
        for at in range(0, len(digests), _CLEARED_AT_ONCE):
            some = digests[at : at + _CLEARED_AT_ONCE]
            keys = [COUNTERS, EXPIRIES, SIZES, *(ANSWERS + digest for digest in some)]
            gone += cast("int", self._clear(keys=keys, args=some))
        return gone


def _found(kind: bytes, value: bytes) -> Kept | Follow | None:
    match kind:
        case b"hit":
            head, _, message = value.partition(b"\n")
            stop_reason, route, cost = orjson.loads(head)
            return Kept(message, stop_reason, route, None if cost is None else Decimal(cost))
        case b"follow":
            return Follow(value.decode())
        case _:
            return None


def _written(answer: Kept) -> bytes:
    cost = None if answer.cost_usd is None else format(answer.cost_usd, "f")
    return orjson.dumps([answer.stop_reason, answer.route, cost]) + b"\n" + answer.message


def _script(client: redis.Redis, *parts: str) -> Script:
    folder = resources.files("trivet_scheduler") / "lua"
    return client.register_script("\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts))
