"""The routes of one test, its jobs on them, and their results."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import select
from tests.faults.ledger import HAIKU, Cost, Row, audit, check_cost, read_rows
from tests.faults.pool import Names
from tests.faults.running import System
from tests.timing import until

from trivet.client.jobs import Job
from trivet.client.result import Result
from trivet_simulator.calls import Call
from trivet_store import schema

RESULT_S = 30.0
"""Time that a test waits for what must come soon; a machine may be busy."""
CLOCK_S = 0.02
"""Maximum difference between two clocks of this machine."""
MAX_TOKENS = 40

Told = TypeVar("Told")
Expected = tuple[str, str, Cost]
"""Route, outcome, and expected row in the ledger."""


class Legs:
    """Tools of a test. Faults, calls and rows are those of its own routes only."""

    def __init__(self, system: System, names: Names) -> None:
        self.system = system
        self.simulator = system.simulator
        self.tag = names.tag
        self.routes = names.routes
        self.first, self.second = names.routes[:2]
        self._down: set[str] = set()
        self._first_call = int(self.simulator.counts()["log"]["next_seq"])
        self._rows: dict[str, Row] = {}
        self._calls: dict[str, Call] = {}

    # -- faults -------------------------------------------------------------------------------------------------------

    def fault(self, route: str, kind: str, **terms: Any) -> None:
        """Set a fault on one route's provider, as `Control.fault` does."""
        self.simulator.fault(route, kind, **terms)

    def fault_all(self, kind: str, **terms: Any) -> None:
        """Set a fault on all of them."""
        for route in self.routes:
            self.fault(route, kind, **terms)

    def down(self, route: str) -> None:
        """Close the provider's port."""
        self._down.add(route)
        self.simulator.down(route)

    def up(self, route: str) -> None:
        """Open it again."""
        self.simulator.up(route)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def terms(self, *, only: str | None = None, **terms: Any) -> dict[str, Any]:
        """The terms of a job that goes to these routes, or to one of them alone."""
        return {"model": HAIKU, "max_tokens": MAX_TOKENS, "compliance": [only or self.tag], **terms}

    def submit(self, prompt: str = "Describe a trivet.", *, only: str | None = None, **terms: Any) -> Job:
        """Submit a job."""
        return self.system.client.submit(prompt, **self.terms(only=only, **terms))

    def run(
        self, prompt: str = "Describe a trivet.", *, only: str | None = None, timeout: float = RESULT_S, **terms: Any
    ) -> Result:
        """Submit a job and wait for its end."""
        return self.submit(prompt, only=only, **terms).result(timeout=timeout)

    def load(self, per_s: float, true: Callable[[], bool], limit_s: float, **terms: Any) -> list[Job]:
        """Submit jobs at a steady rate until something is so. TimeoutError when it does not become so in time."""
        pace, jobs = threading.Event(), []
        begun = time.monotonic()
        while not true():
            if time.monotonic() - begun > limit_s:
                raise TimeoutError(f"what was awaited under load did not come within {limit_s:g} s")
            jobs.append(self.submit(**terms))
            pace.wait(max(0.0, begun + len(jobs) / per_s - time.monotonic()))
        return jobs

    # -- what became of them ------------------------------------------------------------------------------------------

    def calls(self, route: str | None = None) -> list[Call]:
        """The calls that reached the providers of all routes or of one, ended and running, in the order they began."""
        wanted = self.routes if route is None else (route,)
        found = [call for call in self.simulator.iter_calls(self._first_call, running=True) if call.provider in wanted]
        return sorted(found, key=lambda call: call.started)

    def rows(self, route: str | None = None) -> list[Row]:
        """The rows of `attempts` on all routes or on one, in the order they began."""
        return read_rows(self.system.store, self.routes if route is None else (route,))

    def job_rows(self, route: str | None = None) -> list[Row]:
        """The same, without probes."""
        return [row for row in self.rows(route) if row.purpose == "job"]

    def expect(self, result: Result, *expected: Expected, status: str = "succeeded") -> None:
        """Assert how a job ended and what it took: its attempts in order, each with its cost, and the sum."""
        assert result.status == status, (result.error, self.story(result))
        assert [(a.route, a.outcome) for a in result.attempts] == [e[:2] for e in expected], self.story(result)
        for attempt, (_, _, cost) in zip(result.attempts, expected, strict=True):
            row, call = self._entry(attempt.id)
            assert (row.route, row.outcome, row.job_id) == (attempt.route, attempt.outcome, result.id)
            assert (row.cost_usd, row.estimated) == (attempt.cost_usd, attempt.estimated)
            check_cost(row, call, cost)
        # what is only estimated stands apart from what is known
        assert result.cost_usd == sum(a.cost_usd or 0 for a in result.attempts if not a.estimated)
        if status == "succeeded":
            assert result.route == expected[-1][0]
            assert result.stop_reason == "refusal" or result.text
            assert result.error is None

    def _entry(self, attempt_id: str) -> tuple[Row, Call | None]:
        """An attempt's row and call, read anew only when not yet known: what is settled does not change."""
        if attempt_id not in self._rows or self._rows[attempt_id].outcome is None:
            self._rows = {row.id: row for row in self.rows()}
            self._calls = {str(call.attempt): call for call in self.calls()}
        return self._rows[attempt_id], self._calls.get(attempt_id)

    def story(self, result: Result) -> str:
        """A job's attempts for a person, for the message of a failed assertion."""
        return "\n".join(f"{a.route} {a.outcome} {a.latency_s} s: {a.message}" for a in result.attempts)

    def events(self, route: str) -> list[tuple[float, str, str]]:
        """Return what was noted of a route for its operator: time, kind and text."""
        e = schema.events
        with self.system.store.read() as connection:
            query = select(e.c.at, e.c.kind, e.c.text).where(e.c.route == route).order_by(e.c.id)
            return [(at, kind, text) for at, kind, text in connection.execute(query)]

    def close(self) -> None:
        """Take the faults back, let what is under way end, and audit the ledger of these routes."""
        for route in self.routes:
            self.simulator.clear(route)
        for route in self._down:
            self.simulator.up(route)
        ended = time.time()  # probes go on until the routes are well again
        found = until(lambda: self._quiet_before(ended), "the end of all calls, and their rows settled")
        assert found is not None
        audit(*found, self._down)

    def _quiet_before(self, ended: float) -> tuple[list[Row], list[Call]] | None:
        """The rows and calls begun before a moment; None while one of them goes on."""
        rows = [row for row in self.rows() if row.started_at < ended]
        ids = {row.id for row in rows}
        calls = [call for call in self.calls() if call.started < ended or call.attempt in ids]
        if any(row.outcome is None for row in rows) or any(call.finished is None for call in calls):
            return None
        return rows, calls


def outcomes(results: Sequence[Result]) -> Counter[str | None]:
    """Return the outcomes of the attempts of some jobs."""
    return Counter(attempt.outcome for result in results for attempt in result.attempts)


def overlapping(calls: Sequence[Call]) -> list[tuple[Call, Call]]:
    """Pairs of calls of which the second began before the first was over; `calls` in the order they began."""
    return [
        (one, other)
        for one, other in itertools.pairwise(calls)
        if one.finished is None or other.started < one.finished - CLOCK_S
    ]
