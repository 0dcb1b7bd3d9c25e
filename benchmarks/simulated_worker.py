"""A worker without its calls: permits, claim, results and costs as the real one writes them, for a fleet on paper.

    python simulated_worker.py CONFIG ROUTE [PACE]      takes chunks from the route's queue until stdin ends

PACE: jobs a second at most.

Nothing is asked of a provider, so that one machine can put on broker and database what many workers would.
"""

from __future__ import annotations

import base64
import contextlib
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import orjson
from load import MAX_TOKENS
from orders import serve
from sqlalchemy import Connection
from uuid_utils import uuid7

from trivet_routing.limits import Limits
from trivet_routing.permits import PermitRelease, PermitRequest, Quota
from trivet_routing.route_directory import RouteDirectory
from trivet_store.cluster import leases
from trivet_store.database.engine import Store
from trivet_store.jobs.claiming import claim
from trivet_store.jobs.finishing import finish
from trivet_store.jobs.rescuing import release
from trivet_store.steps import CallTarget, End, Settlement, Transition
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.jobs import permit_id
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, queue_name
from trivet_tasks.outcomes import HealthSignal, Outcome, Usage
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.shared_state import connect, publish_finished
from trivet_tasks.states import JobState
from trivet_worker.run.pricing import Pricing

ANSWER = orjson.dumps(
    {
        "id": "msg_simulated",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "the river keeps a slow account of every stone " * 6}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 120, "output_tokens": 64},
    }
)
PATIENCE_S = 0.5
NO_PERMIT_S = 0.05


class TimedStore(Store):
    """A store that notes how long each writing transaction took, by what it is told it is for."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.purpose = ""
        self.waited: dict[str, list[float]] = defaultdict(list)
        """Seconds until the transaction had begun: on SQLite, until it had the lock."""
        self.held: dict[str, list[float]] = defaultdict(list)
        """Seconds from there to its end."""

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Connection]:
        """See `Store.write`."""
        start = begun = time.perf_counter()
        with super().write(urgent=urgent) as connection:
            begun = time.perf_counter()
            yield connection
        self.waited[self.purpose].append(begun - start)
        self.held[self.purpose].append(time.perf_counter() - begun)

    def forget(self) -> None:
        """Begin anew."""
        self.waited.clear()
        self.held.clear()


class SimulatedWorker:
    """One worker process of the bulk lane."""

    def __init__(self, settings: Settings, route: str, slots: int) -> None:
        self.settings = settings
        self.store = TimedStore(settings.store_url)
        self.redis = connect(settings.redis_url)
        self._directory = RouteDirectory(self.store, Limits(self.redis, settings.health))
        self._pricing = Pricing(self._directory.costs, self.store.clock.reckoned)
        self._route = route
        self._slots = slots
        self._beaten = time.monotonic()
        self.lease_id = uuid7().hex
        self.jobs = 0

    def open(self) -> None:
        """Get warm and open the lease."""
        self._pricing.warm()
        with self.store.write() as connection:
            leases.open_lease(
                self.store,
                connection,
                self.lease_id,
                f"simulated.{self.lease_id[-6:]}",
                "bulk",
                [self._route],
                self._slots,
                self.settings.leases.ttl_s,
            )

    def close(self) -> None:
        """Give the lease back."""
        with self.store.write() as connection:
            release(self.store, connection, self.lease_id)
        self.store.close()

    def beat(self) -> None:
        """A heartbeat, when it is due."""
        if time.monotonic() - self._beaten >= self.settings.leases.heartbeat_s:
            self._beaten = time.monotonic()
            self.store.purpose = "heartbeat"
            with self.store.write() as connection:
                leases.renew(self.store, connection, self.lease_id, 0, None, self.settings.leases.ttl_s)

    def work(self, chunk: Chunk) -> None:
        """Do a chunk, as its permits come."""
        jobs = chunk.jobs
        while jobs:
            done = self._work(replace(chunk, jobs=jobs))
            jobs = jobs[done:]
            if not done:
                time.sleep(NO_PERMIT_S)

    def _work(self, chunk: Chunk) -> int:
        """Do what there are permits for, as `ChunkRunner` and `Recorder` do, in one breath; returns how many that were."""
        route = self.settings.routes[chunk.route]
        wire_model = name_on_wire(route, chunk.model)
        assert wire_model is not None
        quota = Quota.of(route, chunk.model)
        target = CallTarget(self.lease_id, chunk.route, chunk.provider, chunk.model, wire_model, chunk.latency)
        ids = [uuid7().hex for _ in chunk.jobs]
        requests = [
            PermitRequest(permit_id(self.lease_id, attempt_id), job.input_estimate, job.max_tokens)
            for job, attempt_id in zip(chunk.jobs, ids, strict=True)
        ]
        permits = self._directory.limits.take(
            chunk.route, chunk.model, chunk.latency, quota, requests, 15.0, chunk.probe
        ).permits
        jobs, ids = chunk.jobs[: len(permits)], ids[: len(permits)]
        if not jobs:
            return 0
        estimates = [self._pricing.maximum_cost(target, route, job.input_estimate, job.max_tokens) for job in jobs]
        self.store.purpose = "claim"
        with self.store.write() as connection:
            claimed = claim(
                connection,
                target,
                jobs,
                now=self.store.now(connection),
                attempt_ids=ids,
                permits=permits,
                estimates=estimates,
            ).claimed
        releases = [PermitRelease(permit, 120, MAX_TOKENS, HealthSignal.GOOD, took_s=0.2) for permit in permits]
        self._directory.limits.release(chunk.route, chunk.model, chunk.latency, quota, releases)
        transitions = [Transition(job, _settlement(job.attempt_id), _END) for job in claimed]
        self.store.purpose = "finish"
        with self.store.write() as connection:
            written = finish(self.store, connection, transitions)
        publish_finished(self.redis, written.ended_jobs, written.ended_batches)
        self.jobs += len(written.ended_jobs)
        return len(jobs)

    def next_chunk(self) -> Chunk | None:
        """The next message of the route's queue, if one comes soon."""
        found = cast("Any", self.redis.brpop([queue_name(self._route, Latency.BATCH)], timeout=PATIENCE_S))
        if found is None:
            return None
        message = orjson.loads(found[1])
        arguments, _, _ = orjson.loads(base64.b64decode(message["body"]))
        return Chunk.from_args(self.settings.routes[self._route].provider, arguments)


_END = End(JobState.SUCCEEDED, message=ANSWER, stop_reason="end_turn")


def _settlement(attempt_id: str) -> Settlement:
    return Settlement(
        attempt_id,
        Outcome.SUCCEEDED,
        0.2,
        status=200,
        request_id="req_simulated",
        usage=Usage(input_tokens=120, output_tokens=64),
        cost_usd=Decimal("0.00044"),
        list_price='{"input":"1","output":"5"}',
        multipliers="{}",
        price_version="simulated",
    )


def shown(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: p50, p95, the sum; and how many."""
    if len(seconds) < 2:
        return {"count": len(seconds), "sum": sum(seconds) * 1000}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"count": len(seconds), "p50": cuts[49] * 1000, "p95": cuts[94] * 1000, "sum": sum(seconds) * 1000}


def main() -> None:
    """Serve orders beside the work."""
    settings = load_settings(Path(sys.argv[1]))
    worker = SimulatedWorker(settings, sys.argv[2], settings.worker.slots)
    worker.open()
    stopping = threading.Event()
    pace = float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")

    def loop() -> None:
        due = time.monotonic()
        while not stopping.is_set():
            worker.beat()
            chunk = worker.next_chunk()
            if chunk is not None:
                worker.work(chunk)
                due = max(due + len(chunk.jobs) / pace, time.monotonic() - 1.0)  # it makes up for a second at most
                time.sleep(max(0.0, due - time.monotonic()))

    def report() -> dict[str, Any]:
        held = {name: shown(list(values)) for name, values in list(worker.store.held.items())}
        waited = {name: shown(list(values)) for name, values in list(worker.store.waited.items())}
        return {"jobs": worker.jobs, "held": held, "waited": waited}

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        serve({"report": report})
    finally:
        stopping.set()
        thread.join(10)
        with contextlib.suppress(Exception):
            worker.close()


if __name__ == "__main__":
    main()
