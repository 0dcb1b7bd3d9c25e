"""Observed pace of each route's answers, learned from its latest long ones."""

import threading
import time
from collections.abc import Iterable

from cachetools import LRUCache

from trivet_store.database.engine import Store
from trivet_store.reports.attempts import RoutePace, route_paces

FRESH_S = 10.0
"""Minimum seconds between two readings."""
LATEST_CALLS = 2_000
LATEST_WITHIN_S = 3_600.0
LEAST_TOKENS = 100
"""Minimum length of an answer that tells a pace, in output tokens."""
ENOUGH_CALLS = 3
"""Minimum number of answers from which a pace is learned."""
MAX_KEPT = 1_000


class AnswerPaces:
    """Output tokens a second of each route and model. One per process; safe between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._paces: LRUCache[tuple[str, str], float] = LRUCache(MAX_KEPT)
        self._read_at: float | None = None
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read them again if it is time. StoreUnavailable."""
        with self._lock:
            if self._read_at is not None and time.monotonic() - self._read_at < FRESH_S:
                return
            with self._store.read() as connection:
                since = self._store.now(connection) - LATEST_WITHIN_S
                found = route_paces(connection, since, LATEST_CALLS, LEAST_TOKENS)
            self._read_at = time.monotonic()
            self._learn(found)

    def learn(self, found: Iterable[RoutePace]) -> None:
        """Learn from these; routes without a new answer keep their pace."""
        with self._lock:
            self._learn(found)

    def tokens_per_s(self, route: str, model: str) -> float | None:
        """Return the observed pace of a route in output tokens a second; None while it is not known."""
        with self._lock:
            return self._paces.get((route, model))

    def _learn(self, found: Iterable[RoutePace]) -> None:
        self._paces.update({(one.route, one.model): one.tokens_per_s for one in found if one.calls >= ENOUGH_CALLS})
