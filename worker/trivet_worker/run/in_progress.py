"""Jobs in progress in this process: from their claim until they are recorded."""

import threading
from collections.abc import Iterable


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
        """Return those of `ids` that are not held."""
        with self._lock:
            return set(ids) - self._ids
