"""The books at the end: every job, every attempt row and every call in the simulator's log, laid side by side."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import text

from trivet.demo.stage import BATCH
from trivet.demo.tally import Tallies, tally
from trivet_simulator import Call, Control
from trivet_store.database.engine import Store
from trivet_store.jobs import batches
from trivet_tasks.outcomes import Outcome

_ATTEMPTS = text("SELECT id, job_id, outcome FROM attempts")
# probes come and go beside the demo's jobs
_NOT_ENDED = text(
    "SELECT count(*) FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE j.ended_at IS NULL AND NOT f.probe"
)
_ROWS = text("SELECT count(*) FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE NOT f.probe")

_PAID_AGAIN_WITH_REASON = frozenset({Outcome.TIMEOUT, Outcome.UNKNOWN, Outcome.CANCELLED})
"""What an earlier attempt must have ended as for a second answer to be right: nobody on our side saw the first."""


class AttemptFate(NamedTuple):
    """An attempt row: whose it is, and how it ended (None: it has not)."""

    id: str
    job_id: str
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the demo's jobs and calls. Counts are jobs, or calls where they say so."""

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
    routes: Tallies
    mismatches: tuple[str, ...]
    """Where the simulator's log and the attempts differ, in words; none if the books are right."""

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
        """Of all settled calls."""
        return sum((route.cost_usd for route in self.routes.values()), Decimal(0))

    @property
    def estimated_usd(self) -> Decimal:
        """The most that calls whose fate is not known may cost on top."""
        return sum((route.estimated_usd for route in self.routes.values()), Decimal(0))

    @property
    def good(self) -> bool:
        """Every job succeeded, and the books are right."""
        return self.succeeded == self.jobs and not (self.lost or self.doubled or self.mismatches)


def audit(store: Store, control: Control, accepted: int) -> Ledger:
    """Read everything there is and compare it.

    Args:
        accepted: the jobs that were submitted.
    """
    calls = control.calls(running=True)
    with store.read() as connection:
        progress = batches.progress(connection, BATCH)
        rows = connection.execute(_ROWS).scalar_one()
        not_ended = connection.execute(_NOT_ENDED).scalar_one()
        attempts = [AttemptFate(*row) for row in connection.execute(_ATTEMPTS)]
        routes = tally(connection)
    return Ledger(
        jobs=accepted,
        succeeded=progress.succeeded,
        failed=progress.failed,
        expired=progress.expired,
        lost=not_ended + max(0, accepted - rows),
        doubled=doubled(calls, attempts),
        calls=len(calls),
        routes=routes,
        mismatches=tuple(mismatches(calls, attempts)),
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
