"""Figures of the demo: attempts by route while it runs, and at the end every job, attempt and call laid side by side.

A failover is an attempt that followed a failed attempt of the same job on another route. "Followed" is by fencing
token, which rises with each attempt of a job. A call dropped on our side (`cancelled`) is not a failed one.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet.demo.documents import BATCH, MODEL
from trivet_routing.fleet import Fleet
from trivet_routing.permits import GateView
from trivet_simulator import Call, Control
from trivet_store.database.engine import Store
from trivet_store.jobs import batches
from trivet_store.jobs.batches import Progress
from trivet_store.schema import Usd
from trivet_tasks.config.settings import Settings
from trivet_tasks.outcomes import Outcome

FOREVER = float("inf")
SETTLING_S = 5.0
"""An attempt begun longer ago than this is seen by every reader: its row's transaction is over."""


@dataclass(slots=True)
class RouteTally:
    """The attempts of one route. `cost_usd` is what is settled, `estimated_usd` the most the rest may cost."""

    attempts: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    limited: int = 0
    """Of the failed ones, those refused with a rate limit."""
    left: int = 0
    """Failovers away from this route."""
    probes: int = 0
    """Calls of Trivet's own to find out whether the route is back; not among `attempts`, but in what it cost."""
    cost_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)


Tallies = dict[str, RouteTally]


class _Group(NamedTuple):
    """Attempts of one route that ended alike, and the route their jobs had failed on just before, if any."""

    route: str
    outcome: str | None
    left: str | None
    probe: bool
    attempts: int
    cost: Decimal | None
    estimated: Decimal | None


_GROUPS = text(
    """
    SELECT a.route, a.outcome, p.route AS "left", a.purpose = 'probe' AS probe, count(*) AS attempts,
           sum(CASE WHEN a.estimated THEN 0 ELSE a.cost_usd END) AS cost,
           sum(CASE WHEN a.estimated THEN a.cost_usd ELSE 0 END) AS estimated
      FROM attempts a
      LEFT JOIN attempts p
             ON p.job_id = a.job_id AND p.route <> a.route AND p.outcome NOT IN ('succeeded', 'cancelled')
            AND p.take_up = (SELECT max(q.take_up) FROM attempts q WHERE q.job_id = a.job_id AND q.take_up < a.take_up)
     WHERE a.started_at >= :since AND a.started_at < :until
     GROUP BY a.route, a.outcome, p.route, a.purpose = 'probe'
    """
).columns(cost=Usd(), estimated=Usd())
_OLDEST_RUNNING = text("SELECT min(started_at) FROM attempts WHERE outcome IS NULL")


def tally(connection: Connection) -> Tallies:
    """All attempts, by route."""
    return _summed(_groups(connection, 0.0, FOREVER))


@dataclass(slots=True)
class RunningTally:
    """The same as `tally`, reading only what is not settled for good since the last time."""

    _settled: list[_Group] = field(default_factory=list)
    _settled_until: float = 0.0

    def read(self, connection: Connection, now: float) -> Tallies:
        """All attempts so far, by route. `now` is the store's time."""
        oldest = connection.execute(_OLDEST_RUNNING).scalar_one()
        settled = max(self._settled_until, min(now - SETTLING_S, now if oldest is None else oldest))
        self._settled = _merged(self._settled + _groups(connection, self._settled_until, settled))
        self._settled_until = settled
        return _summed(self._settled + _groups(connection, settled, FOREVER))


def _groups(connection: Connection, since: float, until: float) -> list[_Group]:
    # a large number: PostgreSQL and SQLite do not agree on how infinity is bound
    bounds = {"since": since, "until": min(until, 1e18)}
    return [_Group(*row) for row in connection.execute(_GROUPS, bounds)]


def _merged(groups: list[_Group]) -> list[_Group]:
    merged: dict[tuple[str, str | None, str | None, bool], _Group] = {}
    for group in groups:
        before = merged.get(group[:4])
        merged[group[:4]] = group if before is None else _Group(
            *group[:4],
            group.attempts + before.attempts,
            (group.cost or Decimal(0)) + (before.cost or Decimal(0)),
            (group.estimated or Decimal(0)) + (before.estimated or Decimal(0)),
        )  # fmt: skip
    return list(merged.values())


def _summed(groups: list[_Group]) -> Tallies:
    tallies: Tallies = defaultdict(RouteTally)
    for group in groups:
        entry = tallies[group.route]
        if group.probe:
            entry.cost_usd += group.cost or Decimal(0)
            entry.probes += group.attempts
            continue
        entry.attempts += group.attempts
        if group.left is not None:
            tallies[group.left].left += group.attempts
        if group.outcome is None:
            entry.running += group.attempts
            continue
        entry.cost_usd += group.cost or Decimal(0)
        entry.estimated_usd += group.estimated or Decimal(0)
        if group.outcome == Outcome.SUCCEEDED:
            entry.succeeded += group.attempts
        else:
            entry.failed += group.attempts
            entry.limited += group.attempts if group.outcome == Outcome.RATE_LIMITED else 0
    return dict(tallies)


@dataclass(frozen=True, slots=True)
class RouteReading:
    """A route as it stands."""

    gate: GateView
    tally: RouteTally

    def next_permit_s(self) -> float:
        """Seconds until it could take the next call; a route that is open has no room, its probes are not any."""
        if self.gate.shut:
            return float("inf")
        return self.gate.wait_s


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


class Reader:
    """Takes readings of the demo's batch. Its own connections: nothing of it is in the way of the work."""

    def __init__(self, settings: Settings) -> None:
        self._store = Store.of(settings)
        self._fleet = Fleet(self._store, settings)
        self._running = RunningTally()

    @property
    def store(self) -> Store:
        """The database it reads."""
        return self._store

    def read(self) -> Reading:
        """How it stands now. StoreUnavailable or RedisError when that cannot be said."""
        candidates = self._fleet.candidates(MODEL)
        with self._store.read() as connection:
            progress = batches.progress(connection, BATCH)
            tallies = self._running.read(connection, self._store.now(connection))
        routes = {route.name: RouteReading(route.gate, tallies.get(route.name, RouteTally())) for route in candidates}
        return Reading(time.monotonic(), progress, routes)

    def close(self) -> None:
        """Close the connections."""
        self._store.close()


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


@dataclass(frozen=True, slots=True)
class DemoResult:
    """How the demo went. `seconds` is from the first submit to the end of the last job, `throttled_s` as in `Watch`."""

    ledger: Ledger
    seconds: float
    throttled_s: float
    left_behind: tuple[int, ...]
    """Ids of process groups that were started and are still there."""

    @property
    def good(self) -> bool:
        """All jobs succeeded, none was lost or doubled, the books are right, and nothing is left."""
        return self.ledger.good and not self.left_behind
