"""Expected share of `max_tokens` that an answer uses, learned from the latest answers of its kind."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable

from trivet_store.database.engine import Store
from trivet_store.reports.attempts import UsedOutput, used_output
from trivet_tasks.latency import Latency

USUAL_SHARE = 0.5
"""Share assumed while no answer of a kind is known."""
FRESH_S = 10.0
LATEST_CALLS = 2_000
WITHIN_S = 3_600.0
ENOUGH_CALLS = 20
"""Minimum number of answers from which a share is learned."""
MAX_KEPT = 1_000


class AnswerLengths:
    """Reads the latest calls every ten seconds at most, when asked to. One per process; safe between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flows: dict[int, float] = {}
        self._kinds: dict[tuple[str, Latency | None], float] = {}
        self._read_at: float | None = None
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read them again if it is time. StoreUnavailable."""
        with self._lock:
            if self._read_at is not None and time.monotonic() - self._read_at < FRESH_S:
                return
            with self._store.read() as connection:
                found = used_output(connection, self._store.now(connection) - WITHIN_S, LATEST_CALLS)
            self._read_at = time.monotonic()
            self.learn(found)

    def learn(self, found: Iterable[UsedOutput]) -> None:
        """Learn from these; kinds without a new answer keep their share."""
        sums: dict[tuple[str, Latency | None], list[int]] = defaultdict(lambda: [0, 0, 0])
        flows: dict[int, float] = {}
        for row in found:
            if row.calls >= ENOUGH_CALLS:
                flows[row.flow_id] = row.used / row.allowed
            for kind in ((row.model, Latency(row.latency)), (row.model, None)):
                for number, figure in enumerate((row.calls, row.used, row.allowed)):
                    sums[kind][number] += figure
        kinds = {kind: used / allowed for kind, (calls, used, allowed) in sums.items() if calls >= ENOUGH_CALLS}
        self._flows = {**self._flows, **flows} if len(self._flows) < MAX_KEPT else flows
        self._kinds = {**self._kinds, **kinds} if len(self._kinds) < MAX_KEPT else kinds

    def share(self, model: str, latency: Latency, flow_id: int | None = None) -> float:
        """Return the share of `max_tokens` that answers use: of the flow, else of model and class, the model, all."""
        if flow_id is not None and flow_id in self._flows:
            return self._flows[flow_id]
        kinds = self._kinds
        return kinds.get((model, latency), kinds.get((model, None), USUAL_SHARE))
