"""Impairments that keep a worker or scheduler from working: logged once, announced where `trivet routes` looks.

An impairment has a kind (`DATABASE`, `SHARED_STATE`, …) and may be seen from several places of a process at once;
it is over when none of them sees it any more. It is announced in Redis under a key with a time to live, because the
database may be unavailable; a worker's lease reports it in SQL, too, because Redis may be unavailable.
"""

import logging
import threading
import time
from collections import defaultdict
from typing import NamedTuple

import orjson
import redis

from trivet_store.cluster.leases import SCHEDULER, WORKER
from trivet_tasks.foreign_text import clean
from trivet_tasks.shared_state import PREFIX

DATABASE = "the database"
SHARED_STATE = "the shared state"
BROKER = "the broker"
FAULT = "a fault of Trivet's own"
STALLED = "a stalled loop"
STOPPING = "stopping"
IS_STOPPING = "It is stopping."
"""The impairment of a process that was asked to end: nothing is wrong with it."""
WATCH = "watch"
"""The place that asks once a second (`trivet_routing.liveness.monitors`)."""

ANNOUNCED_S = 10
"""Seconds that an announcement lives unless it is repeated."""
_KEY = PREFIX + "impairment:"
_NAME_CHARS = 250
_WORDS_CHARS = 2_000


class Announced(NamedTuple):
    """A process that does not work, and why."""

    process: str
    part: str
    """`worker` or `scheduler`."""
    impairment: str
    since: float | None
    """Seconds since the epoch, by that machine's clock, where it is known."""


class _Seen(NamedTuple):
    why: str
    since: float
    until: float | None
    """Time at which it counts as over without a call of `over`, on the monotonic clock."""


class ProcessImpairments:
    """The impairments of one process. Safe to share between threads.

    Args:
        log: gets one line when an impairment begins and one when it is over.
        consequence: the consequence in this process, e.g. "no work is taken".
    """

    def __init__(self, log: logging.Logger, consequence: str) -> None:
        self._log = log
        self._consequence = consequence
        self._seen: dict[str, dict[str, _Seen]] = defaultdict(dict)
        self._lock = threading.Lock()

    def note(self, kind: str, place: str, why: str, for_s: float | None = None) -> None:
        """Note an impairment, as seen from a place. Logged when it is the first of its kind.

        Args:
            for_s: seconds after which it counts as over; None: until `over` is called.
        """
        with self._lock:
            begins = not self._seen[kind]
            before = self._seen[kind].get(place)
            until = None if for_s is None else time.monotonic() + for_s
            self._seen[kind][place] = _Seen(why, before.since if before else time.time(), until)
        if begins and kind != STOPPING:
            self._log.error("%s: %s", self._consequence, why)

    def over(self, kind: str, place: str) -> None:
        """Note that it is no longer seen from this place."""
        if kind not in self._seen:  # nearly always, so without the lock
            return
        with self._lock:
            seen = self._seen.get(kind, {}).pop(place, None)
            ends = seen is not None and not self._seen[kind]
            if not self._seen.get(kind):
                self._seen.pop(kind, None)
        if seen is not None and ends and kind != STOPPING:
            self._log.info("going on: the impairment with %s is over, after %.0f s", kind, time.time() - seen.since)

    def seen(self, kind: str, place: str) -> bool:
        """Return whether it is seen from this place."""
        with self._lock:
            return place in self._seen.get(kind, {})

    def of(self, kind: str) -> str | None:
        """Return the reason of this kind of impairment; None when there is none."""
        with self._lock:
            return next((seen.why for seen in self._seen.get(kind, {}).values()), None)

    @property
    def text(self) -> str | None:
        """All reasons why no work is taken; None when work is taken."""
        if not self._seen:
            return None
        with self._lock:
            whys = [next(iter(seen.values())).why for seen in self._seen.values() if seen]
        return " ".join(whys) or None

    @property
    def since(self) -> float:
        """Start of the oldest impairment, seconds since the epoch."""
        with self._lock:
            return min((one.since for seen in self._seen.values() for one in seen.values()), default=time.time())

    def forget_old(self) -> None:
        """Drop those whose time is over."""
        now = time.monotonic()
        with self._lock:
            old = [
                (kind, place)
                for kind, seen in self._seen.items()
                for place, one in seen.items()
                if one.until is not None and one.until < now
            ]
        for kind, place in old:
            self.over(kind, place)


def announce(client: redis.Redis, process: str, part: str, impairment: str, since: float) -> None:
    """Announce in Redis that a process does not work. To be repeated within `ANNOUNCED_S`. RedisError when it fails."""
    client.set(_KEY + process, orjson.dumps({"part": part, "impairment": impairment, "since": since}), ex=ANNOUNCED_S)


def withdraw(client: redis.Redis, process: str) -> None:
    """Withdraw the announcement. RedisError when that fails: it expires in a few seconds."""
    client.delete(_KEY + process)


def announced(client: redis.Redis) -> list[Announced]:
    """Return the processes that announced they do not work, by name. RedisError when Redis does not answer."""
    keys = sorted(client.scan_iter(match=_KEY + "*", count=1_000))
    if not keys:
        return []
    said = zip(keys, client.mget(keys), strict=True)
    found = (_announced(key, value) for key, value in said if value is not None)
    return [one for one in found if one is not None]


def _announced(key: bytes | str, value: bytes | str) -> Announced | None:
    """Read an announcement, which anybody with access to Redis may have written; None when it is none."""
    try:
        fields = orjson.loads(value)
        name = key if isinstance(key, str) else key.decode()
        part, impairment, since = fields["part"], fields["impairment"], fields["since"]
    except (ValueError, TypeError, KeyError):
        return None
    if part not in (WORKER, SCHEDULER) or not isinstance(impairment, str) or not isinstance(since, float | int | None):
        return None
    return Announced(clean(name.removeprefix(_KEY), _NAME_CHARS), part, clean(impairment, _WORDS_CHARS), since)
