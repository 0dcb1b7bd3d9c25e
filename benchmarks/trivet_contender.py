"""Trivet in the failover benchmark."""

from __future__ import annotations

import contextlib
import threading
import time

from contender import MODEL, SIMULATOR, Load, Record
from failover_figures import CallRecord, JobRecord
from outages import LEGS, sleep_until
from running import Running, running
from sqlalchemy import select

from trivet import ResultTimeout
from trivet.client.jobs import Job
from trivet_simulator import Control
from trivet_store import schema
from trivet_store.database.engine import Store

ROUTES = {"anthropic": "anthropic", "bedrock": "bedrock-us-east-1", "vertex": "vertex-global"}
"""Trivet's route of each leg."""
WORKERS = 2


class TrivetContender:
    """Trivet as it comes: every setting its default, but that the order of legs is fixed as it is for the others."""

    name = "trivet"

    def __init__(self, load: Load) -> None:
        self._load = load
        self._held = contextlib.ExitStack()
        self._jobs: list[tuple[float, float, Job]] = []
        self._sender: threading.Thread | None = None

    @property
    def simulator(self) -> Control:
        """The legs."""
        return self._running.simulator

    def __enter__(self) -> TrivetContender:
        self._running: Running = self._held.enter_context(
            running(
                workers=WORKERS,
                simulator=SIMULATOR,
                route_settings={ROUTES[leg]: {"priority": place} for place, leg in enumerate(LEGS, 1)},
                sections={
                    "cache": {"enabled": False},
                    "classes.batch": {"order": "priority", "attempt_timeout_s": self._load.attempt_timeout_s},
                },
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def wait_ready(self) -> None:
        """Run one job, which also opens the client's connections."""
        self._running.client.submit("Are you there?", model=MODEL, max_tokens=64).result(timeout=60)

    def begin(self, start: float) -> None:
        """Send the jobs from a thread."""
        self._sender = threading.Thread(target=self._send, args=(start,), name="sender")
        self._sender.start()

    def _send(self, start: float) -> None:
        for number in range(self._load.count):
            sleep_until(start + number / self._load.rate)
            submitted = time.time()
            job = self._running.client.submit(f"Sum up page {number} in one sentence.", model=MODEL, max_tokens=64)
            self._jobs.append((submitted, time.time(), job))

    def collect(self) -> Record:
        """Results, and the attempt rows."""
        assert self._sender is not None
        self._sender.join()
        until = time.monotonic() + self._load.patience_s
        jobs = [self._record(submitted, accepted, job, until) for submitted, accepted, job in self._jobs]
        calls, probes = self._attempts()
        return Record(jobs, calls, probes)

    def _record(self, submitted: float, accepted: float, job: Job, until: float) -> JobRecord:
        try:
            result = job.result(timeout=max(0.0, until - time.monotonic()))
        except ResultTimeout:
            return JobRecord(submitted, None, False, None, "no answer")
        leg = next((leg for leg, route in ROUTES.items() if route == result.route), None)
        error = None if result.error is None else result.error.outcome
        # its own clock begins when the row is written, at most as long after `submitted` as submitting took
        return JobRecord(submitted, accepted + result.latency_s, result.succeeded, leg, error)

    def _attempts(self) -> tuple[list[CallRecord], frozenset[str]]:
        rows = schema.attempts
        leg_of = {route: leg for leg, route in ROUTES.items()}
        store = Store(self._running.settings.store_url)
        try:
            with store.read() as connection:
                found = connection.execute(select(rows)).mappings().all()
        finally:
            store.close()
        calls = [CallRecord(r["started_at"], leg_of[r["route"]], r.get("purpose") == "probe") for r in found]
        return calls, frozenset(r["id"] for r in found if r.get("purpose") == "probe")
