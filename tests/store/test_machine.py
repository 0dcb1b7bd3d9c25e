"""The invariants hold for any order of submits, probes, claims, answers, results, deaths, drains and retries."""

from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, invariant, multiple, rule
from sqlalchemy import Row, text
from tests.databases import orphans
from tests.store.counted import check_spend
from tests.store.machines import StoreMachine, machine_settings
from tests.store.world import MODEL, ROUTE, SUCCESS, finished, go_on, spec

from trivet_store.cluster import registry
from trivet_store.jobs import cancelling, coalescing, rescuing, retrying
from trivet_store.jobs.answering import Answered, CachedAnswer, end_answered
from trivet_store.jobs.enqueue import BatchRef
from trivet_store.jobs.rescuing import release
from trivet_store.jobs.retrying import RETRIABLE
from trivet_store.steps import ClaimedJob, End, JobRound, Next, Wait
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import DEFAULTS
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import END_STATES, JobState

FAILURE = End(JobState.FAILED, outcome=Outcome.INVALID, error="no")
STEPS: dict[str, Next] = {
    "succeeds": SUCCESS,
    "fails": FAILURE,
    "goes on": go_on(ROUTE),
    "goes on, message lost": go_on(ROUTE, until=1.0),
    "waits": Wait(None, JobRound(0, 0.5, (ROUTE,)), Outcome.OVERLOADED, "busy"),
    "backs off": Wait(4e9, JobRound(1), Outcome.TIMEOUT, "silent"),
    "is over its back-off": Wait(1.0, JobRound(1), Outcome.TIMEOUT, "silent"),
}


class Life(StoreMachine):
    """One SQLite database; messages and results may be kept, doubled and brought late."""

    messages = Bundle("messages")
    workers = Bundle("workers")
    calls = Bundle("calls")

    @initialize()
    def begin(self) -> None:
        self.open()
        self.batches = [self.world.batch("one"), self.world.batch("two")]
        self.world.register(ROUTE)
        self.probes: set[str] = set()
        self.keys = 0
        self.ends: dict[str, tuple[str, int | None]] = {}
        self.retried: dict[str, int] = defaultdict(int)
        self.given: dict[int, dict[int, str]] = defaultdict(dict)
        self.numbers: dict[str, int] = defaultdict(int)

    @rule(count=st.integers(1, 4), where=st.sampled_from([None, 0, 1]), key=st.integers(0, 6), late=st.booleans())
    def submit(self, count: int, where: int | None, key: int, late: bool) -> None:
        batch: BatchRef | None = None if where is None else self.batches[where]
        group = [
            spec(
                f"document {key + n}",
                key=f"k{key + n}" if n % 2 else None,
                deadline_at=2.0 if late else None,
                cache_key="c" * 32 if n % 3 else None,
            )
            for n in range(count)
        ]
        self.world.add(*group, batch=batch)

    @rule(target=messages, limit=st.integers(1, 5), lost=st.booleans())
    def dispatch(self, limit: int, lost: bool) -> object:
        claimed = self.world.dispatch(limit, within_s=-1 if lost else 60)
        assert not self.probes & {job.id for job in claimed}, "a probe is for its route alone"
        return multiple(*claimed)

    @rule(target=messages, lost=st.booleans())
    def probe(self, lost: bool) -> DispatchedJob:
        claimed = self.world.probe(within_s=-1 if lost else 60)
        self.probes.add(claimed.id)
        return claimed

    @rule(target=workers)
    def start_worker(self) -> str:
        return self.world.lease()

    @rule(target=calls, message=st.lists(messages, min_size=1, max_size=4), worker=workers)
    def take(self, message: list[DispatchedJob], worker: str) -> object:
        """Also under stale and doubled tokens: a message stays in its bundle."""
        once = {claimed.id: claimed for claimed in message}
        # the database answers in the order of ids, whose random part must not decide what is drawn next
        taken = sorted(self.world.take(worker, list(once.values())), key=lambda job: list(once).index(job.id))
        for job in taken:
            assert job.claim == self.world.job(job.id).claim
        return multiple(*[(worker, job) for job in taken])

    @rule(message=messages, leader=messages)
    def coalesce(self, message: DispatchedJob, leader: DispatchedJob) -> None:
        """Also under stale claims, and with any leader. A probe has no equals."""
        if {message.id, leader.id} & self.probes or message.id == leader.id:
            return
        before, of_leader = self.world.job(message.id), self.world.job(leader.id)
        with self.world.store.write() as connection:
            wanted = [coalescing.CoalescedJob(message.id, message.claim, leader.id)]
            coalesced = coalescing.coalesce(self.world.store, connection, wanted)
        ours = (before.state, before.claim) == ("dispatched", message.claim)
        leads = of_leader.state in ("dispatched", "running")
        assert bool(coalesced.coalesced) is (ours and leads)
        assert bool(coalesced.leaderless) is (ours and not leads)
        assert (self.world.job(message.id).state == "coalesced") is (
            bool(coalesced.coalesced) or before.state == "coalesced"
        )

    @rule(target=messages, count=st.integers(1, 3), where=st.sampled_from([None, 0, 1]), ends=st.booleans())
    def submit_equal(self, count: int, where: int | None, ends: bool) -> object:
        """Equal requests: all jobs in queues wait for the first of them, which may end at once."""
        batch: BatchRef | None = None if where is None else self.batches[where]
        first, *_ = self.world.add(*[spec("the same", cache_key="c" * 32) for _ in range(count)], batch=batch)
        claimed = self.world.dispatch(100)
        if first.id not in {job.id for job in claimed}:  # its batch was cancelled
            return multiple(*claimed)
        others = [job for job in claimed if job.id != first.id]
        with self.world.store.write() as connection:
            wanted = [coalescing.CoalescedJob(job.id, job.claim, first.id) for job in others]
            coalesced = coalescing.coalesce(self.world.store, connection, wanted)
            assert len(coalesced.coalesced) == len(others)
            if ends:
                cancelling.cancel_job(self.world.store, connection, first.id)
        return multiple(*claimed)

    @rule(message=messages, late=st.booleans())
    def answer(self, message: DispatchedJob, late: bool) -> None:
        """From the cache, also late and doubled."""
        if message.id in self.probes:
            return
        before = self.world.job(message.id)
        claim, key = message.claim - late, before.cache_key or "c" * 32
        as_it_is = (before.route, before.cache_key) == (ROUTE, key)
        with self.world.store.write() as connection:
            group = [Answered(message.id, claim, key, CachedAnswer(b"{}", "end_turn", ROUTE, Decimal("0.01")))]
            served = end_answered(self.world.store, connection, group, route=ROUTE, latency="batch", model=MODEL)
        ours = (before.state, before.claim) == ("dispatched", claim) and before.deadline_at is None
        assert bool(served.jobs) is (ours and as_it_is)
        assert bool(served.forged) is (ours and not as_it_is)

    @rule(overdue=st.booleans())
    def look_after_coalesced(self, overdue: bool) -> None:
        if overdue:
            self.world.sql("UPDATE coalesced_jobs SET until = 1")
        with self.world.store.write() as connection:
            coalescing.look_after(self.world.store, connection)

    @rule(message=messages)
    def give_back(self, message: DispatchedJob) -> None:
        self.world.give_back([message])

    @rule(call=calls, step=st.sampled_from(sorted(STEPS)), cost=st.sampled_from([None, "0.1", "0.000000000001"]))
    def finish(self, call: tuple[str, ClaimedJob], step: str, cost: str | None) -> None:
        """Also late and doubled: a call stays in its bundle."""
        worker, job = call
        before = self.world.job(job.id)
        held = (before.state, before.lease_id, before.claim) == ("running", worker, job.claim)
        written = self.world.finish(finished(job, worker, STEPS[step], cost=cost))
        assert bool(written.refused) is not held
        if not held:
            assert self.world.job(job.id) == before

    @rule(worker=consumes(workers))
    def die(self, worker: str) -> None:
        self.world.let_die(worker)

    @rule(worker=consumes(workers))
    def stop_worker(self, worker: str) -> None:
        with self.world.store.write() as connection:
            release(self.world.store, connection, worker)

    @rule(call=calls, hung=st.booleans())
    def die_isolated(self, call: tuple[str, ClaimedJob], hung: bool) -> None:
        """Also late and doubled."""
        _, job = call
        with self.world.store.write() as connection:
            rescuing.strike(self.world.store, connection, job.id, job.claim, hung=hung)

    @rule()
    def rescue(self) -> None:
        self.world.rescue()

    @rule()
    def keep_house(self) -> None:
        self.world.wake()
        self.world.recall()

    @rule(drained=st.booleans())
    def drain(self, drained: bool) -> None:
        """Its queue is emptied, and nothing else."""
        with self.world.store.write() as connection:
            registry.set_drained(connection, ROUTE, drained)
        before = {job.id: job for job in self.world.sql("SELECT * FROM jobs")}
        queued = {
            job.id for job in before.values() if (job.state, job.route) == ("dispatched", ROUTE) and drained
        } - self.probes
        assert self.world.due().drained or not queued
        assert self.world.empty_drained() == len(queued)
        for job in self.world.sql("SELECT * FROM jobs"):
            if job.id in queued:
                assert (job.state, job.route, job.tried) == ("waiting", None, before[job.id].tried)
            else:
                assert job == before[job.id]

    @rule()
    def expire(self) -> None:
        self.world.expire()

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        ids = [row.id for row in self.world.sql("SELECT id FROM jobs ORDER BY rowid")]
        if ids:
            with self.world.store.write() as connection:
                cancelling.cancel_job(self.world.store, connection, ids[which % len(ids)])

    @rule()
    def cancel_batch(self) -> None:
        with self.world.store.write() as connection:
            cancelling.begin_cancel(self.world.store, connection, self.batches[1].id)
            cancelling.cancel_waiting(self.world.store, connection, self.batches[1].id)

    @rule(which=st.integers(0, 30))
    def retry_job(self, which: int) -> None:
        ids = [row.id for row in self.world.sql("SELECT id FROM jobs ORDER BY rowid")]
        if not ids:
            return
        before = self.world.job(ids[which % len(ids)])
        with self.world.store.write() as connection:
            batch = connection.execute(
                text("SELECT state FROM batches WHERE id = :id"), {"id": before.batch_id}
            ).scalar()
            again = before.state in RETRIABLE and before.id not in self.probes
            try:
                assert retrying.retry_job(self.world.store, connection, before.id, classes=DEFAULTS) is again
            except InvalidRequest:
                assert again
                assert batch == "cancelled"
                return
        assert not again or batch != "cancelled"
        self._runs_again([before.id] if again else [])

    @rule(
        which=st.sampled_from([0, 1]),
        states=st.sets(st.sampled_from(sorted(RETRIABLE)), min_size=1),
        groups=st.integers(1, 3),
    )
    def retry_batch(self, which: int, states: set[JobState], groups: int) -> None:
        """Group by group, and not always to the end."""
        batch = self.batches[which]
        before = [
            job for job in self.world.sql("SELECT * FROM jobs") if job.batch_id == batch.id and job.state in states
        ]
        ids: list[str] = []
        after, whole = 0, False
        try:
            with self.world.store.read() as connection:
                upto = retrying.begin_retry(connection, batch.id)
            for _ in range(groups):
                with self.world.store.write() as connection, patch.object(retrying, "BULK_ROWS", 2):
                    group = retrying.retry_group(
                        self.world.store,
                        connection,
                        batch.id,
                        states,
                        classes=DEFAULTS,
                        after=after,
                        upto=upto,
                    )
                if group is None:
                    whole = True
                    break
                after = group.last
                ids += group.ids
        except InvalidRequest:
            assert self.world.progress(batch.name).state == "cancelled"
            return
        assert len(ids) == min(len(before), 2 * groups)
        assert whole is (len(before) <= 2 * (groups - 1))
        assert set(ids) <= {job.id for job in before}
        self._runs_again(ids)

    def _runs_again(self, ids: list[str]) -> None:
        for job_id in ids:
            job = self.world.job(job_id)
            assert (job.state, job.batch_seq, job.ended_at, job.round, job.tried) == ("waiting", None, None, 0, "")
            del self.ends[job_id]
            self.retried[job_id] += 1

    @invariant()
    def what_must_always_hold(self) -> None:
        if not hasattr(self, "world"):
            return
        assert orphans(self.world.store) == []
        jobs = self.world.sql("SELECT * FROM jobs")
        for job in jobs:
            if job.id in self.ends:
                assert (job.state, job.batch_seq) == self.ends[job.id], "an ended job stays as it ended"
            if job.state in END_STATES:
                self.ends[job.id] = (job.state, job.batch_seq)
                assert job.ended_at is not None
            else:
                assert job.ended_at is None
            assert job.claim >= self.numbers[job.id], "the fencing number never falls"
            self.numbers[job.id] = job.claim
            assert (job.lease_id is not None) == (job.state == "running"), "held while it runs, and only then"
        ended = {job.id for job in jobs if job.state in END_STATES}
        results = [row.job_id for row in self.world.sql("SELECT job_id FROM job_results")]
        assert sorted(results) == sorted(ended), "one result for each that ended, none for another"
        leases_ = {row.id for row in self.world.sql("SELECT id FROM leases")}
        assert {job.lease_id for job in jobs if job.lease_id} <= leases_, "every holder of a job can be rescued from"
        keys = [(job.key_owner, job.key) for job in jobs if job.key]
        assert len(set(keys)) == len(keys), "an owner uses a key once"
        self._attempts_are_right({job.id: job for job in jobs})
        self._coalesced_are_right({job.id: job for job in jobs})
        for batch in self.world.sql("SELECT * FROM batches"):
            mine = [job for job in jobs if job.batch_id == batch.id]
            assert batch.total == len(mine)
            counts = {state: sum(1 for job in mine if job.state == state) for state in END_STATES}
            assert {state: getattr(batch, state) for state in END_STATES} == counts
            self._numbers_are_right(batch, mine)
            costs = self.world.value(
                """
                SELECT coalesce(sum(r.cost_usd), 0) FROM job_results r JOIN jobs j ON j.id = r.job_id
                 WHERE j.batch_id = :id
                """,
                id=batch.id,
            )
            assert batch.cost_usd == costs, "its cost is that of its ended jobs"
        ends_before = {
            row.job_id: row.n for row in self.world.sql("SELECT job_id, count(*) AS n FROM retries GROUP BY job_id")
        }
        assert ends_before == self.retried, "every retry is on record"
        check_spend(self.world)

    def _numbers_are_right(self, batch: Row[Any], mine: list[Row[Any]]) -> None:
        """Each is given once, in order; they are gapless but for the jobs that were made to run again."""
        numbers = {job.batch_seq: job.id for job in mine if job.state in END_STATES}
        assert len(numbers) == batch.ended
        given = self.given[batch.id]
        latest = max(given, default=0)
        for number, job_id in numbers.items():
            assert given.get(number, job_id) == job_id, "a number is one job's end for ever"
            assert number in given or number > latest, "who read up to the latest misses nothing"
        given.update(numbers)
        assert batch.seq == batch.ended + sum(self.retried.get(job.id, 0) for job in mine)
        assert sorted(given) == list(range(1, batch.seq + 1)), "gapless"

    def _coalesced_are_right(self, jobs: dict[str, Row[Any]]) -> None:
        leader_of = {row.job_id: row.leader for row in self.world.sql("SELECT job_id, leader FROM coalesced_jobs")}
        for job in jobs.values():
            if job.state != "coalesced":
                continue
            assert job.id in leader_of, "every coalesced job is looked at in time"
            leader = jobs[leader_of[job.id]]
            assert leader.state not in END_STATES or leader.cache_key is None, "whose leader ended waits no more"
            seen = {job.id}
            while leader.state == "coalesced":
                assert leader.id not in seen, "nobody waits for itself"
                seen.add(leader.id)
                leader = jobs[leader_of[leader.id]]
        saved = self.world.value("SELECT coalesce(sum(hits), 0) FROM cache_savings")
        assert saved == sum(1 for row in self.world.sql("SELECT cached FROM job_results") if row.cached)

    def _attempts_are_right(self, jobs: dict[str, object]) -> None:
        attempts = self.world.sql("SELECT * FROM attempts")
        per_token = {(attempt.job_id, attempt.claim) for attempt in attempts}
        assert len(per_token) == len(attempts), "one call for one claim"
        for attempt in attempts:
            assert attempt.purpose == ("probe" if attempt.job_id in self.probes else "job")
            job = jobs[attempt.job_id]
            assert attempt.claim <= job.claim  # type: ignore[attr-defined]
            open_ = attempt.outcome is None
            running = (job.state, job.claim) == ("running", attempt.claim)  # type: ignore[attr-defined]
            assert not running or open_, "a call is settled with its job"


@pytest.fixture(scope="module", autouse=True)
def _template(sqlite_template: Path) -> None:
    Life.template = sqlite_template


Life.TestCase.settings = machine_settings(50)
TestLife = Life.TestCase
