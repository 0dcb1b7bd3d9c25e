"""State of one worker process that its threads share: slots, jobs in progress, impaired routes, dropped messages."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable

from trivet_store.events import Drop

log = logging.getLogger("trivet.worker")

SAID_EVERY_S = 60.0
"""Seconds between two lines of the log about one kind of thing on one route."""


class Slots:
    """A counted number of slots. Threads take as many as are free; a finished call gives its slot back."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()

    @property
    def in_use(self) -> int:
        """Number of slots in use."""
        return self.total - self._free

    def take(self, wanted: int, timeout_s: float, *, keep: int = 0) -> int:
        """Take up to `wanted` slots, at least one if any comes free within `timeout_s`; 0 if none did.

        Args:
            keep: number of free slots to leave for others.
        """
        until = time.monotonic() + timeout_s
        with self._changed:
            while self._free <= keep:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return 0
            taken = min(wanted, self._free - keep)
            self._free -= taken
            return taken

    def give(self, count: int) -> None:
        """Give slots back."""
        if count:
            with self._changed:
                self._free += count
                self._changed.notify_all()


class InProgress:
    """A set of job ids, safe to share between threads.

    The lease keeper compares it with what SQL says runs under the lease; a job that only SQL knows of (a commit whose
    answer was lost, a fault of ours) is put back to waiting.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    def add(self, ids: Iterable[str]) -> None:
        """Add jobs that this process now holds."""
        with self._lock:
            self._ids.update(ids)

    def discard(self, ids: Iterable[str]) -> None:
        """Remove jobs that it no longer holds."""
        with self._lock:
            self._ids.difference_update(ids)

    def without(self, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that are not in progress."""
        with self._lock:
            return set(ids) - self._ids


class WaitGroup:
    """Lets a chunk's thread wait until all its jobs are recorded."""

    def __init__(self) -> None:
        self._left = 0
        self._changed = threading.Condition()

    def add(self, count: int) -> None:
        """Add this many to wait for."""
        with self._changed:
            self._left += count

    def down(self) -> None:
        """Count one as recorded."""
        with self._changed:
            self._left -= 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._left == 0)


class RouteImpairments:
    """Reasons for which this process takes no work of some routes, though others may, by route and kind.

    Each is logged once when it begins and once when it ends. The lease publishes them, and the consumer cancels the
    route's queues meanwhile.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._reasons: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def begin(self, route: str, kind: str, reason: str) -> None:
        """Take no work of the route from now on.

        Args:
            kind: tells the causes apart that a route may have at once, e.g. `credentials`.
            reason: one sentence for an operator: what is wrong on this machine, and what to do.
        """
        with self._lock:
            kinds = self._reasons.setdefault(route, {})
            begins = kind not in kinds
            kinds[kind] = reason
        if begins:
            self._log.error("no work of %s is taken here: %s", route, reason)

    def end(self, route: str, kind: str) -> None:
        """Remove one cause. Does nothing if it is not there."""
        if route not in self._reasons:  # nearly always, so without the lock
            return
        with self._lock:
            kinds = self._reasons.get(route, {})
            ended = kinds.pop(kind, None) is not None
            if not kinds:
                self._reasons.pop(route, None)
        if ended:
            self._log.info("the impairment of %s (%s) is over", route, kind)

    def of(self, route: str) -> str | None:
        """Return why no work of the route is taken; None when it is taken."""
        if route not in self._reasons:
            return None
        return self.current().get(route)

    def kinds(self, route: str) -> frozenset[str]:
        """Return the causes that the route has now."""
        return frozenset(self.by_kind().get(route, ())) if route in self._reasons else frozenset()

    def by_kind(self) -> dict[str, dict[str, str]]:
        """Return the reasons of every impaired route, by kind."""
        with self._lock:
            return {route: dict(kinds) for route, kinds in self._reasons.items() if kinds}

    def current(self) -> dict[str, str]:
        """Return the reasons of every impaired route, each as one text."""
        return {route: " ".join(kinds.values()) for route, kinds in self.by_kind().items()}


class Drops:
    """Counts of messages and entries of the broker or the shared state that one process did not act on.

    The lease's heartbeat adds them to the database. Safe to share between threads.
    """

    def __init__(self) -> None:
        self._unwritten: Counter[tuple[Drop, str]] = Counter()
        self._unsaid: Counter[tuple[Drop, str]] = Counter()
        self._said: dict[tuple[Drop, str], float] = {}
        self.why: dict[tuple[Drop, str], str] = {}
        """Last sentence about each."""
        self._lock = threading.Lock()

    def note(self, kind: Drop, route: str, why: str, times: int = 1) -> None:
        """Count something that was dropped; the first of a minute is logged.

        Args:
            route: one that this process serves, or empty: kinds and routes stay few whatever arrives.
            why: a sentence with ids at most; nothing else of what arrived.
        """
        key = (kind, route)
        now = time.monotonic()
        with self._lock:
            self._unwritten[key] += times
            self._unsaid[key] += times
            self.why[key] = why
            if now - self._said.get(key, -SAID_EVERY_S) < SAID_EVERY_S:
                return
            self._said[key] = now
            dropped = self._unsaid.pop(key)
        more = f" ({dropped:,} since the last line like this)" if dropped > times else ""
        log.error("dropped, %s%s: %s%s", kind.value, f" on {route}" if route else "", why, more)

    def unwritten(self) -> Counter[tuple[Drop, str]]:
        """Return the counts that the database does not have yet."""
        with self._lock:
            return Counter(self._unwritten)

    def written(self, counts: Counter[tuple[Drop, str]]) -> None:
        """Subtract the counts that were committed."""
        with self._lock:
            self._unwritten -= counts
