"""Counts of messages and entries of the broker or the shared state that were not acted on."""

import logging
import threading
import time
from collections import Counter

from trivet_store.events import Drop

log = logging.getLogger("trivet.worker")

SAID_EVERY_S = 60.0
"""Seconds between two lines of the log about one kind of thing on one route."""


class Drops:
    """The counts of one process. The lease's heartbeat adds them to the database. Safe to share between threads."""

    def __init__(self) -> None:
        self._unwritten: Counter[tuple[Drop, str]] = Counter()
        self._unsaid: Counter[tuple[Drop, str]] = Counter()
        self._said: dict[tuple[Drop, str], float] = {}
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
