"""Figures of the demo: attempts by route while it runs, and at the end every job, attempt and call laid side by side."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from trivet.admin import Admin, AttemptFate, BreakerView, Progress, RouteAttempts
from trivet.demo.documents import BATCH, MODEL
from trivet.demo.streamed_call import StreamedCall
from trivet_simulator import Call, Control
from trivet_tasks.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class RouteReading:
    """The state of a route."""

    breaker: BreakerView
    tally: RouteAttempts

    def next_permit_s(self) -> float:
        """Seconds until it could take the next call; infinite while it is open (probes do not count)."""
        if self.breaker.shut:
            return float("inf")
        return self.breaker.wait_s


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment. `at` is on the monotonic clock, in seconds."""

    at: float
    progress: Progress
    routes: Mapping[str, RouteReading]

    @property
    def share(self) -> float:
        """Ended jobs, 0 to 1."""
        return self.progress.ended / self.progress.total if self.progress.total else 0.0

    @property
    def failovers(self) -> int:
        """Attempts that followed a failed one on another route."""
        return sum(route.tally.left for route in self.routes.values())

    @property
    def cost_usd(self) -> Decimal:
        """Settled so far."""
        return sum((route.tally.cost_usd for route in self.routes.values()), Decimal(0))

    def next_permit_s(self) -> float:
        """Seconds until any route could take the next call."""
        return min((route.next_permit_s() for route in self.routes.values()), default=0.0)


def read(admin: Admin) -> Reading:
    """Return the state of the demo's batch now. StoreUnavailable or BrokerUnavailable when that cannot be read."""
    breakers = admin.routes.breakers(MODEL)
    progress = admin.batches.progress(BATCH)
    attempts = admin.attempts.by_route()
    routes = {name: RouteReading(breaker, attempts.get(name, RouteAttempts())) for name, breaker in breakers.items()}
    return Reading(time.monotonic(), progress, routes)


_PAID_AGAIN_WITH_REASON = frozenset({Outcome.TIMEOUT, Outcome.UNKNOWN, Outcome.CANCELLED})
"""Outcomes of an earlier attempt that justify a second answer: nobody on our side saw the first."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The demo's jobs and calls, as recorded. Counts are jobs, or calls where they say so."""

    jobs: int
    """Accepted."""
    succeeded: int
    failed: int
    expired: int
    lost: int
    """Accepted and in no end state."""
    doubled: int
    """Whole 200s that the simulator answered beyond the first of a job, other than after a timeout or a lost lease."""
    calls: int
    """In the simulator's log."""
    routes: Mapping[str, RouteAttempts]
    mismatches: tuple[str, ...]
    """Differences between the simulator's log and the attempts, in words; none if the ledger is right."""

    @property
    def attempts(self) -> int:
        """Rows, one a call."""
        return sum(route.attempts for route in self.routes.values())

    @property
    def failovers(self) -> int:
        """Attempts that followed a failed attempt of the same job on another route."""
        return sum(route.left for route in self.routes.values())

    @property
    def cost_usd(self) -> Decimal:
        """Cost of all settled calls."""
        return sum((route.cost_usd for route in self.routes.values()), Decimal(0))

    @property
    def estimated_usd(self) -> Decimal:
        """Maximum additional cost of calls with an unknown outcome."""
        return sum((route.estimated_usd for route in self.routes.values()), Decimal(0))

    @property
    def good(self) -> bool:
        """True if every job succeeded and the ledger is right."""
        return self.succeeded == self.jobs and not (self.lost or self.doubled or self.mismatches)


def audit(admin: Admin, control: Control, accepted: int) -> Ledger:
    """Read everything there is and compare it.

    Args:
        accepted: the jobs that were submitted.
    """
    calls = control.calls(running=True)
    progress, found = admin.batches.progress(BATCH), admin.attempts.all()
    return Ledger(
        jobs=accepted,
        succeeded=progress.succeeded,
        failed=progress.failed,
        expired=progress.expired,
        lost=found.jobs.not_ended + max(0, accepted - found.jobs.total),
        doubled=doubled(calls, found.attempts),
        calls=len(calls),
        routes=found.by_route,
        mismatches=tuple(mismatches(calls, found.attempts)),
    )


def doubled(calls: Iterable[Call], attempts: Iterable[AttemptFate]) -> int:
    """Whole answers beyond the first of a job, unless each earlier one was lost on its way to us."""
    fates = {attempt.id: attempt for attempt in attempts}
    answered: dict[str, list[AttemptFate]] = defaultdict(list)
    for call in sorted((c for c in calls if c.complete and c.status == 200), key=lambda c: c.finished or 0.0):
        if call.attempt in fates:
            answered[fates[call.attempt].job_id].append(fates[call.attempt])
    return sum(
        1
        for of_job in answered.values()
        for earlier in of_job[:-1]
        if earlier.outcome not in _PAID_AGAIN_WITH_REASON
    )  # fmt: skip


def mismatches(calls: Sequence[Call], attempts: Sequence[AttemptFate]) -> Iterable[str]:
    """Calls without exactly one attempt row, attempts with several calls, successes the simulator did not answer."""
    times = Counter(call.attempt for call in calls)
    known = {attempt.id for attempt in attempts}
    answered = {call.attempt for call in calls if call.complete}
    unknown = sum(count for attempt, count in times.items() if attempt not in known)
    again = sum(1 for attempt, count in times.items() if attempt in known and count > 1)
    unheard = sum(1 for a in attempts if a.outcome == Outcome.SUCCEEDED and a.id not in answered)
    if unknown:
        yield f"{unknown} calls in the simulator's log have no attempt row"
    if again:
        yield f"{again} attempts made more than one call"
    if unheard:
        yield f"{unheard} attempts are written down as succeeded, and the simulator has no whole answer for them"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of the demo. `seconds`: from first submit to last end; `throttled_s`: see `ConditionMonitor`."""

    ledger: Ledger
    seconds: float
    throttled_s: float
    left_behind: tuple[int, ...]
    """Ids of process groups that were started and are still there."""
    streamed: StreamedCall
    """The call through the gateway, at the end."""

    @property
    def good(self) -> bool:
        """All jobs succeeded, none was lost or doubled, the books are right, and nothing is left."""
        return self.ledger.good and not self.left_behind and not self.streamed.error
