"""Response cache: answers of earlier calls in Redis, for equal requests, and the jobs that are just getting one.

Every step is one script (`lua/cache_*.lua`), for all jobs of a chunk or group. Nothing depends on the cache: a lost
answer is called for again. Answers are signed; one that this installation did not sign is removed.

Anybody with write access to Redis may have written an entry. An answer counts only if a worker of this installation signed
it (HMAC-SHA256) for this cache key and tenant, and only until it expires, whatever Redis says of its time to live.

    entry = MAC in hex, line feed, head (JSON), line feed, answer
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from enum import Enum, auto
from importlib import resources
from typing import NamedTuple, cast

import orjson
import redis
from redis.commands.core import Script

from trivet_store.jobs.answering import CachedAnswer
from trivet_tasks.config.settings import CacheSettings, Settings
from trivet_tasks.latency import Latency
from trivet_tasks.shared_state import PREFIX

_PURPOSE = b"trivet cached answers 1"
_MAC_CHARS = 64

ANSWERS = f"{PREFIX}cache:answer:"
LEADS = f"{PREFIX}cache:lead:"
COUNTERS = f"{PREFIX}cache:counters"
EXPIRIES = f"{PREFIX}cache:expiries"
SIZES = f"{PREFIX}cache:sizes"

OVERHEAD_BYTES = 350
"""Bytes Redis needs for an entry beside its value: keys, expiry, size (measured with `MEMORY USAGE`, about)."""
LEAD_GRACE_S = 30.0
"""Seconds beyond its budget for which a silent job stays the leader; for realtime none."""
NEVER_KEPT_S = 600.0
"""Seconds for which every job calls for itself after an answer that could not be kept."""
_CLEARED_AT_ONCE = 500
_DIGITS = 18


class Unusable(Enum):
    """Reason for which an entry brings no answer."""

    FOREIGN = auto()
    """This installation did not write it for this cache key."""
    EXPIRED = auto()
    """This installation wrote it, and it has expired."""


class AnswerSeal:
    """Seals and opens entries of the cache. Safe to share between threads.

    Args:
        key: the installation's.
        now: the database's time, seconds since the epoch.
    """

    def __init__(self, key: bytes, now: Callable[[], float]) -> None:
        self._key = hmac.digest(key, _PURPOSE, "sha256")
        self._now = now

    def seal(self, cache_key: str, answer: CachedAnswer, lives_s: float) -> bytes:
        """Return the entry of an answer that expires after this many seconds."""
        cost = None if answer.cost_usd is None else format(answer.cost_usd, "f")
        head = orjson.dumps([answer.stop_reason, answer.route, cost, answer.tenant, self._now() + lives_s])
        entry = head + b"\n" + answer.message
        return self._mac(cache_key, entry) + b"\n" + entry

    def open(self, cache_key: str, sealed: bytes) -> CachedAnswer | Unusable:
        """Return the answer of an entry, or why there is none."""
        mac, entry = sealed[:_MAC_CHARS], sealed[_MAC_CHARS + 1 :]
        if not hmac.compare_digest(mac, self._mac(cache_key, entry)):
            return Unusable.FOREIGN
        head, _, message = entry.partition(b"\n")
        stop_reason, route, cost, tenant, expires_at = orjson.loads(head)
        if expires_at <= self._now():
            return Unusable.EXPIRED
        return CachedAnswer(message, stop_reason, route, None if cost is None else Decimal(cost), tenant)

    def _mac(self, cache_key: str, entry: bytes) -> bytes:
        mac = hmac.new(self._key, cache_key.encode() + b"\n", hashlib.sha256)
        mac.update(entry)
        return mac.hexdigest().encode()


class LookUp(NamedTuple):
    """A job that looks for an answer. `over`: a leader that is known to have ended."""

    key: str
    job_id: str
    over: str = ""
    budget_s: float = 0.0
    """Latency budget of its round, if it is more than its class's."""


class Coalesce(NamedTuple):
    """Another job is getting the answer."""

    leader: str


class CachedResult(NamedTuple):
    """The result of a job's request: an answer to keep, or none, so that other jobs stop waiting for it."""

    key: str
    job_id: str
    model: str
    answer: CachedAnswer | None
    never: bool = False
    """No answer to this request can be kept, so no job is to wait for one."""


class LookedUp(NamedTuple):
    """The outcome of a look-up."""

    found: list[CachedAnswer | Coalesce | None]
    """Finding for each job, in order: an answer, the leader to wait for, or None: it calls, and others wait for it."""
    rejected: int
    """Entries that were removed because they were not signed by this installation for their key."""


_JOB = re.compile(rb"[!-~]{1,32}")


class CacheStats(NamedTuple):
    """The state of the cache. Counts are since Redis was last emptied."""

    entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int
    coalesced: int
    """Jobs that were coalesced with an equal one; each is a hit, too, once that has its answer."""
    stored: int
    evicted: int
    """Answers that were removed before they expired, because the cache was full."""

    @property
    def hit_rate(self) -> float | None:
        """Share of look-ups that found an answer; None before the first. Coalesced jobs are looked up again."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


class ResponseCache:
    """The cache of one installation. Safe to share between threads. Every method may raise `redis.RedisError`.

    Args:
        seal: signs and verifies answers; None where there is no key: no answers are looked up or kept.
    """

    def __init__(self, client: redis.Redis, settings: Settings, seal: AnswerSeal | None = None) -> None:
        self._seal = seal
        self._redis = client
        self._settings = settings
        self._look_up = _script(client, "cache_look_up")
        self._keep = _script(client, "cache_common", "cache_keep")
        self._clear = _script(client, "cache_common", "cache_clear")

    @property
    def sealed(self) -> bool:
        """True where it has the key that answers are signed with: without it none is looked up or kept."""
        return self._seal is not None

    @property
    def terms(self) -> CacheSettings:
        """The settings of the cache."""
        return self._settings.cache

    def look_up(self, latency: Latency, asked: Sequence[LookUp]) -> LookedUp:
        """Look up an answer for each job. An unusable entry is removed, and its jobs look once more."""
        found = self._ask(latency, asked)
        foreign = {one.key for one, of in zip(asked, found, strict=True) if of is Unusable.FOREIGN}
        unusable = [at for at, one in enumerate(found) if isinstance(one, Unusable)]
        if unusable:
            self._forget(list({asked[at].key for at in unusable}))
            again = self._ask(latency, [asked[at] for at in unusable])
            for at, one in zip(unusable, again, strict=True):
                found[at] = one
        return LookedUp([None if isinstance(one, Unusable) else one for one in found], len(foreign))

    def _ask(self, latency: Latency, asked: Sequence[LookUp]) -> list[CachedAnswer | Coalesce | Unusable | None]:
        grace_s = 0 if latency is Latency.REALTIME else LEAD_GRACE_S
        keys = [COUNTERS]
        arguments: list[str | int] = [list(Latency).index(latency)]
        for one in asked:
            keys += [ANSWERS + one.key, LEADS + one.key]
            life_s = max(self._settings.of_class(latency).budget_s, one.budget_s) + grace_s
            arguments += [one.job_id, one.over, int(life_s * 1_000)]
        answers = cast("list[list[bytes]]", self._look_up(keys=keys, args=arguments))
        return [self._found(one.key, kind, value) for one, (kind, value) in zip(asked, answers, strict=True)]

    def _found(self, key: str, kind: bytes, value: bytes) -> CachedAnswer | Coalesce | Unusable | None:
        match kind:
            case b"hit":
                return self._keyed.open(key, value)
            case b"foreign":
                return Unusable.FOREIGN
            case b"coalesce" if _JOB.fullmatch(value):
                return Coalesce(value.decode())
            case _:
                return None

    @property
    def _keyed(self) -> AnswerSeal:
        assert self._seal is not None, "it was made to look after the cache alone"
        return self._seal

    def keep(self, latency: Latency, results: Sequence[CachedResult]) -> None:
        """Keep the answers of jobs of one class, and release the leads of all."""
        life_s = self._settings.of_class(latency).cache_ttl_s
        keys = [COUNTERS, EXPIRIES, SIZES]
        arguments: list[str | int | bytes] = [self.terms.max_bytes, ANSWERS]
        for one in results:
            keys += [ANSWERS + one.key, LEADS + one.key]
            lives_s = min(life_s, NEVER_KEPT_S) if one.never else life_s
            answer = b"" if one.answer is None else self._keyed.seal(one.key, one.answer, lives_s)
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
        """Return the cache's counters and its size."""
        seconds, micros = self._redis.time()
        now = seconds * 1_000 + micros // 1_000
        counted_now = cast("dict[bytes, bytes]", self._redis.hgetall(COUNTERS))
        counters = {name.decode(errors="replace"): _count(count) for name, count in counted_now.items()}
        counted = (counters.get(name, 0) for name in ("hits", "misses", "coalesced", "stored", "evicted"))
        entries = self._redis.zcount(EXPIRIES, now, "+inf")
        return CacheStats(int(entries), counters.get("bytes", 0) if entries else 0, self.terms.max_bytes, *counted)

    def clear(self, model: str | None = None) -> int:
        """Delete all answers, or those of one model; calls under way still bring theirs. Returns their number."""
        sizes = cast("Iterator[tuple[bytes, bytes]]", self._redis.hscan_iter(SIZES, count=_CLEARED_AT_ONCE))
        digests = [
            digest.decode(errors="replace")
            for digest, size in sizes
            if model is None or size.partition(b" ")[2] == model.encode()
        ]
        gone = 0
        for at in range(0, len(digests), _CLEARED_AT_ONCE):
            gone += self._forget(digests[at : at + _CLEARED_AT_ONCE])
        return gone

    def _forget(self, digests: Sequence[str]) -> int:
        keys = [COUNTERS, EXPIRIES, SIZES, *(ANSWERS + digest for digest in digests)]
        return cast("int", self._clear(keys=keys, args=digests))


def _count(text: bytes) -> int:
    """Return a counter; 0 where its text is not a number."""
    return int(text) if text.isdigit() and len(text) <= _DIGITS else 0


def _script(client: redis.Redis, *parts: str) -> Script:
    folder = resources.files("trivet_routing") / "lua"
    return client.register_script("\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts))
