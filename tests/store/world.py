"""The store as its tests drive it: the steps of a job's life, each in its own transaction."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, Row, event, text
from tests.timing import until
from uuid_utils import uuid7

from trivet_store.cluster import leases, registry
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.jobs import batches, dispatching, rescuing, transitions, upkeep
from trivet_store.jobs.claiming import ClaimResult, Unfit, claim, give_back
from trivet_store.jobs.dispatching import Head
from trivet_store.jobs.enqueue import Accepted, BatchRef, DirectDispatch, insert, insert_probe
from trivet_store.jobs.finishing import finish
from trivet_store.steps import CallTarget, ClaimedJob, End, GoOn, JobRound, Next, Settlement, Transition, Wait, Written
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.jobs import DispatchedJob, JobSpec, Permit
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.states import JobState

DEADLINE_S = 30.0
ROUTE = "bedrock-us-east-1"
OTHER_ROUTE = "vertex-us-east5"
MODEL = "claude-sonnet-5-5"
ESTIMATE = Decimal("0.25")
SUCCESS = End(JobState.SUCCEEDED, message=b'{"content":[]}', stop_reason="end_turn")
WAIT = Wait(None, JobRound(0), None, None)
PERMIT = Permit("permit", 1, 1)
_OF_MESSAGE = """
    SELECT j.route, f.model, f.latency, f.probe, f.isolated, j.input_estimate, j.max_tokens, j.cache_key
      FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE j.id = :id
"""


def spec(words: str = "hello", *, latency: Latency = Latency.BATCH, model: str = MODEL, **terms: Any) -> JobSpec:
    """A request as validation makes it; equal words make an equal fingerprint."""
    body = b'{"messages":[{"role":"user","content":"%s"}]}' % words.encode()
    digest = blake2b(model.encode() + body, digest_size=16).hexdigest()
    return JobSpec(model, latency, body, digest, input_estimate=len(words), max_tokens=100, **terms)


def specs(count: int, **terms: Any) -> list[JobSpec]:
    return [spec(f"document {number}", **terms) for number in range(count)]


def route_settings(**terms: object) -> RouteSettings:
    return RouteSettings.model_validate({"provider": "bedrock", "region": "us-east-1", **terms})


def go_on(route: str = OTHER_ROUTE, *, until: float = 4e9, tried: tuple[str, ...] = (ROUTE,)) -> GoOn:
    return GoOn(route, until, JobRound(0, 1.5, tried), Outcome.OVERLOADED, f"{ROUTE}: overloaded: busy")


class World:
    """One database and what schedulers, workers and clients do to it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def sql(self, statement: str, **parameters: object) -> list[Row[Any]]:
        with self.store.write() as connection:
            result = connection.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []

    def value(self, statement: str, **parameters: object) -> Any:
        return self.sql(statement, **parameters)[0][0]

    def now(self) -> float:
        with self.store.read() as connection:
            return self.store.now(connection)

    def job(self, job_id: str) -> Row[Any]:
        (row,) = self.sql("SELECT * FROM jobs WHERE id = :id", id=job_id)
        return row

    def states(self) -> dict[str, int]:
        return {row.state: row.n for row in self.sql("SELECT state, count(*) AS n FROM jobs GROUP BY state")}

    def events(self) -> list[str]:
        return [f"{row.kind}: {row.text}" for row in self.sql("SELECT kind, text FROM events ORDER BY id")]

    # producers

    def insert(
        self, connection: Connection, group: Sequence[JobSpec], batch: BatchRef | None = None, **how: Any
    ) -> list[Accepted]:
        return insert(self.store, connection, group, classes=DEFAULTS, batch=batch, **how)

    def add(
        self, *group: JobSpec, batch: BatchRef | None = None, direct: DirectDispatch | None = None
    ) -> list[Accepted]:
        with self.store.write() as connection:
            return self.insert(connection, group, batch, direct=direct)

    def batch(self, name: str, *group: JobSpec, opened: bool = True, dedupe: bool = False) -> BatchRef:
        with self.store.write() as connection:
            loading = batches.begin_loading(self.store, connection, name, dedupe=dedupe)
        reference = BatchRef(loading.id, name, dedupe)
        for at in range(0, len(group), BULK_ROWS):
            self.add(*group[at : at + BULK_ROWS], batch=reference)
        if opened:
            self.open(reference)
        return reference

    def open(self, batch: BatchRef) -> None:
        with self.store.write() as connection:
            batches.open_batch(self.store, connection, batch.id)

    def progress(self, name: str) -> batches.Progress:
        with self.store.read() as connection:
            return batches.progress(connection, name)

    # schedulers

    def heads(self, connection: Connection, limit: int) -> list[Head]:
        """The next in line over all flows."""
        flows = [flow.id for flow in dispatching.flows_with_waiting(connection, self.store.now(connection))]
        found = dispatching.heads(connection, flows, limit)
        return sorted(found, key=lambda head: head.rank)[:limit]

    def dispatch(self, limit: int = 100, route: str = ROUTE, *, within_s: float = 15.0) -> list[DispatchedJob]:
        """Claim the next in line, in order."""
        with self.store.write() as connection:
            dispatching.lock(self.store, connection)
            heads = self.heads(connection, limit)
            if not heads:
                return []
            until = self.store.now(connection) + within_s
            marked = transitions.dispatch(connection, [head.id for head in heads], route, until)
            dispatching.advance_clock(connection, max(head.rank for head in heads))
        dispatched = {job.id: job for job in marked}
        return [dispatched[head.id] for head in heads if head.id in dispatched]

    def rescue(self) -> dict[str, int]:
        rescued: dict[str, int] = {}
        while True:
            with self.store.write() as connection:
                lease = rescuing.hold_dead(self.store, connection, rescued)
                if lease is None:
                    return rescued
                rescued[lease] = rescuing.rescue(self.store, connection, lease).jobs

    def recall(self) -> int:
        with self.store.write() as connection:
            return upkeep.recall_unclaimed(self.store, connection)

    def empty_drained(self) -> int:
        with self.store.write() as connection:
            return upkeep.empty_drained(self.store, connection)

    def due(self) -> upkeep.Due:
        with self.store.read() as connection:
            return upkeep.due(self.store, connection)

    def probe(
        self, *, route: str = ROUTE, model: str = MODEL, latency: Latency = Latency.BATCH, within_s: float = 15.0
    ) -> DispatchedJob:
        with self.store.write() as connection:
            return insert_probe(
                self.store, connection, route=route, model=model, latency=latency, taken_within_s=within_s
            )

    def wake(self) -> int:
        with self.store.write() as connection:
            return upkeep.wake_delayed(self.store, connection)

    def expire(self) -> tuple[list[str], tuple[int, ...]]:
        with self.store.write() as connection:
            return upkeep.expire_late(self.store, connection)

    def register(self, *names: str, drained: bool = False) -> None:
        """Make routes known, as drained or not."""
        with self.store.write() as connection:
            registry.register(self.store, connection, {name: RouteSettings(provider="bedrock") for name in names})
            for name in names:
                registry.set_drained(connection, name, drained)

    # workers

    def lease(
        self,
        *,
        worker: str = "worker-1",
        lane: str = "bulk",
        routes: Sequence[str] = (ROUTE, OTHER_ROUTE),
        part: str = leases.WORKER,
    ) -> str:
        lease_id = uuid7().hex
        with self.store.write() as connection:
            leases.open_lease(self.store, connection, lease_id, worker, lane, routes, 16, ttl_s=15.0, part=part)
        return lease_id

    def release(self, lease_id: str) -> None:
        """Let the worker stop in order."""
        with self.store.write() as connection:
            rescuing.release(self.store, connection, lease_id)

    def let_die(self, lease_id: str) -> None:
        """The worker's heartbeats stopped long ago."""
        self.sql("UPDATE leases SET expires_at = 1 WHERE id = :id", id=lease_id)

    def take(
        self,
        lease_id: str,
        dispatched: Sequence[DispatchedJob],
        *,
        route: str = ROUTE,
        estimate: Decimal | None = ESTIMATE,
    ) -> list[ClaimedJob]:
        """Claim jobs as the scheduler's messages name them: similar jobs share a message. The claim numbers are the given ones.

        Args:
            route: of jobs that the database does not know.
        """
        sites: dict[CallTarget, list[DispatchedJob]] = {}
        for job in dispatched:
            found = self.sql(_OF_MESSAGE, id=job.id)
            unknown = route, MODEL, Latency.BATCH, False, False, *job[2:]
            of, model, latency, probe, isolated, *figures = tuple(found[0]) if found else unknown
            of = of or route  # it waits: the message is an old one
            provider = of.partition("-")[0]
            kind = Latency(latency), bool(probe), bool(isolated)
            target = CallTarget(lease_id, of, provider, model, f"wire.{model}", *kind)
            sites.setdefault(target, []).append(DispatchedJob(job.id, job.claim, *figures))
        return [job for target, jobs in sites.items() for job in self.claim(target, jobs, estimate=estimate).claimed]

    def claim(
        self,
        target: CallTarget,
        dispatched: Sequence[DispatchedJob],
        *,
        estimate: Decimal | None = ESTIMATE,
        unfit: Unfit = lambda *_: "",
    ) -> ClaimResult:
        with self.store.write() as connection:
            now = self.store.now(connection)
            return claim(
                connection,
                target,
                dispatched,
                now=now,
                attempt_ids=[uuid7().hex for _ in dispatched],
                permits=[PERMIT] * len(dispatched),
                estimates=[estimate] * len(dispatched),
                unfit=unfit,
            )

    def give_back(self, dispatched: Sequence[DispatchedJob]) -> None:
        (route,) = {job.route for job in map(self.job, (one.id for one in dispatched)) if job.route} or {ROUTE}
        with self.store.write() as connection:
            give_back(connection, route, dispatched)

    def running(self, count: int = 1, **how: Any) -> tuple[str, list[ClaimedJob]]:
        """Add jobs and let a new worker claim them."""
        lease_id = self.lease()
        self.add(*specs(count, **how))
        return lease_id, self.take(lease_id, self.dispatch(count))

    def finish(self, *group: Transition) -> Written:
        with self.store.write() as connection:
            return finish(self.store, connection, group)

    def end(
        self, lease_id: str, jobs: Sequence[ClaimedJob], then: Next = SUCCESS, *, cost: str | None = "0.01"
    ) -> Written:
        return self.finish(*(finished(job, lease_id, then, cost=cost) for job in jobs))


def finished(
    job: ClaimedJob,
    lease_id: str,
    then: Next = SUCCESS,
    *,
    outcome: Outcome | None = None,
    cost: str | None = "0.01",
    estimated: bool = False,
) -> Transition:
    """A call that is over, with a usage of 10 tokens in and 5 out."""
    succeeded = isinstance(then, End) and then.state is JobState.SUCCEEDED
    said = outcome or (Outcome.SUCCEEDED if succeeded else Outcome.OVERLOADED)
    settlement = Settlement(
        job.attempt_id,
        said,
        0.5,
        status=200 if said is Outcome.SUCCEEDED else 529,
        request_id="req_1",
        message=None if said is Outcome.SUCCEEDED else "busy",
        usage=Usage(input_tokens=10, output_tokens=5),
        cost_usd=Decimal(cost) if cost is not None else None,
        estimated=estimated,
    )
    held = job._replace(target=replace(job.target, lease_id=lease_id))
    return Transition(held, settlement, then)


def together(*works: Callable[[], object]) -> None:
    """Run all at once in threads; raise the first of their errors."""
    barrier = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait(DEADLINE_S)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


class InThread:
    """A piece of work that goes on beside the test; `result` waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(DEADLINE_S)
        assert self.over, "it hangs"
        if self._error is not None:
            raise self._error
        return self._value


def until_blocked(world: World, work: InThread, count: int = 1) -> None:
    """Wait until so many in this PostgreSQL database wait for others' locks (or `work` is over)."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    until(lambda: work.over or world.value(waiting) >= count, "a lock that is waited for")


@contextmanager
def statements(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The SQL statements executed meanwhile, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _x: object, many: bool) -> None:
        if not many:
            seen.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store.engine, "before_cursor_execute", note)
