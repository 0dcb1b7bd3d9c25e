"""Periodic work on jobs: due again, not claimed in time, held by a dead process, past the deadline."""

import pytest
from tests.store.world import (
    ESTIMATE,
    ROUTE,
    WAIT,
    World,
    finished,
    spec,
    specs,
    together,
)

from trivet_store.database.engine import BULK_ROWS
from trivet_store.jobs import cancelling, upkeep
from trivet_store.jobs.finishing import finish
from trivet_store.reports.results import attempts_of, jobs_by_id
from trivet_store.steps import JobRound, Wait
from trivet_tasks.outcomes import Outcome


def test_a_delayed_job_waits_again_when_its_time_has_come(world: World) -> None:
    soon, later = world.add(spec("soon", not_before=world.now() + 60), spec("later", not_before=world.now() + 600))
    assert world.wake() == 0
    world.sql("UPDATE jobs SET not_before = 1 WHERE id = :id", id=soon.id)
    assert world.wake() == 1
    assert (world.job(soon.id).state, world.job(soon.id).not_before) == ("waiting", None)
    assert world.job(later.id).state == "delayed"
    assert [job.id for job in world.dispatch()] == [soon.id]


def test_many_due_at_once_are_woken_by_groups(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "WOKEN_AT_ONCE", 150)
    world.add(*specs(200, not_before=world.now() + 60))
    world.sql("UPDATE jobs SET not_before = 1")
    assert world.wake() == 150
    assert world.states() == {"waiting": 150, "delayed": 50}
    assert world.wake() == 50


def test_a_chunk_that_nobody_took_is_dispatched_again(world: World) -> None:
    world.add(*specs(2))
    world.dispatch(1)
    (unclaimed,) = world.dispatch(1, within_s=-1)
    assert world.recall() == 1
    assert world.states() == {"dispatched": 1, "waiting": 1}
    row = world.job(unclaimed.id)
    assert (row.route, row.dispatched_until) == (None, None)
    (again,) = world.dispatch()
    assert (again.id, again.claim) == (unclaimed.id, 2)


def test_a_running_job_is_not_recalled(world: World) -> None:
    lease, _ = world.running(1)
    world.sql("UPDATE jobs SET dispatched_until = 1")
    assert world.recall() == 0
    assert lease


def test_jobs_of_a_dead_worker_wait_again(world: World) -> None:
    lease, jobs = world.running(3)
    assert world.rescue() == {}, "it lives"
    world.let_die(lease)
    assert world.rescue() == {lease: 3}
    for job in jobs:
        row = world.job(job.id)
        assert (row.state, row.lease_id, row.route, row.crashes, row.claim) == ("waiting", None, None, 1, 1)
    assert world.value("SELECT count(*) FROM leases") == 0
    assert world.rescue() == {}
    assert {job.claim for job in world.dispatch()} == {2}


def test_calls_of_a_dead_worker_are_unknown_and_keep_their_estimate(world: World) -> None:
    lease, (settled, lost) = world.running(2)
    world.end(lease, [settled])
    world.let_die(lease)
    world.rescue()
    with world.store.read() as connection:
        found = attempts_of(connection, [settled.id, lost.id])
    (known,), (unknown,) = found[settled.id], found[lost.id]
    assert (known.outcome, known.estimated) == ("succeeded", False)
    assert (unknown.outcome, unknown.estimated, unknown.cost_usd) == ("unknown", True, ESTIMATE)


def test_the_jobs_of_the_living_are_left_alone(world: World) -> None:
    dead, _ = world.running(2)
    alive, jobs = world.running(2)
    world.let_die(dead)
    assert world.rescue() == {dead: 2}
    assert {world.job(job.id).lease_id for job in jobs} == {alive}


def test_more_jobs_than_a_group_are_rescued_in_turns(world: World) -> None:
    lease = world.lease()
    for _ in range(2):
        world.add(*specs(150))
    world.take(lease, world.dispatch(300))
    world.let_die(lease)
    assert world.rescue() == {lease: BULK_ROWS}
    assert world.value("SELECT count(*) FROM attempts WHERE outcome IS NULL") == 300
    assert world.rescue() == {lease: 300 - BULK_ROWS}
    assert world.states() == {"waiting": 300}
    assert world.value("SELECT count(*) FROM attempts WHERE outcome = 'unknown'") == 300
    assert world.value("SELECT count(*) FROM leases") == 0


def test_many_rescuers_rescue_each_job_once(world: World) -> None:
    lease, _ = world.running(50)
    world.let_die(lease)
    together(world.rescue, world.rescue, world.rescue)
    world.rescue()
    assert world.states() == {"waiting": 50}
    assert world.value("SELECT max(crashes) FROM jobs") == 1
    assert world.value("SELECT count(*) FROM leases") == 0


def test_a_lease_stays_while_a_late_worker_is_writing(postgres_world: World) -> None:
    """Were it dropped, and the late worker died before its commit, nobody would find the job again."""
    world = postgres_world
    lease, (job,) = world.running(1)
    world.let_die(lease)
    with world.store.write() as connection:
        finish(world.store, connection, [finished(job, lease)])
        assert world.rescue() == {lease: 0}
        connection.rollback()
    assert world.job(job.id).state == "running"
    assert world.rescue() == {lease: 1}
    assert world.job(job.id).state == "waiting"


def test_a_job_that_was_to_be_cancelled_ends_with_its_worker(world: World) -> None:
    world.batch("contracts", *specs(2))
    lease = world.lease()
    asked, other = world.take(lease, world.dispatch())
    with world.store.write() as connection:
        cancelling.cancel_job(world.store, connection, asked.id)
    world.let_die(lease)
    world.rescue()
    assert (world.job(asked.id).state, world.job(other.id).state) == ("cancelled", "waiting")
    progress = world.progress("contracts")
    assert (progress.cancelled, progress.waiting) == (1, 1)


def test_what_is_too_late_ends_as_expired(world: World) -> None:
    now = world.now()
    group = [spec("in time", deadline_at=now + 60), spec("late", deadline_at=now - 1), spec("whenever")]
    batch = world.batch("contracts", *group)
    ids, batches = world.expire()
    (late,) = ids
    assert batches == (batch.id,)
    with world.store.read() as connection:
        job = jobs_by_id(connection, ids)[late]
    assert (job.state, job.batch_seq, job.error_outcome, job.message) == ("expired", 1, None, None)
    assert job.error_message is not None
    assert "deadline passed" in job.error_message
    assert "No route could take it in time" in job.error_message
    progress = world.progress("contracts")
    assert (progress.expired, progress.waiting, progress.ended) == (1, 2, 1)
    assert world.expire() == ([], ())


@pytest.mark.parametrize("state", ["waiting", "delayed", "dispatched"])
def test_a_job_expires_in_any_state_unless_a_worker_holds_it(world: World, state: str) -> None:
    if state == "delayed":
        world.add(spec(deadline_at=world.now() - 1, not_before=world.now() + 60))
    else:
        world.add(spec(deadline_at=world.now() - 1))
    if state == "dispatched":
        world.dispatch()
    assert world.states() == {state: 1}
    assert len(world.expire()[0]) == 1
    assert world.states() == {"expired": 1}


def test_a_running_job_is_its_workers(world: World) -> None:
    lease, jobs = world.running(1)
    world.sql("UPDATE jobs SET deadline_at = 1")
    assert world.expire() == ([], ())
    world.end(lease, jobs)
    assert world.states() == {"succeeded": 1}


def test_an_expired_job_says_its_last_word(world: World) -> None:
    lease, jobs = world.running(1)
    world.end(lease, jobs, Wait(None, JobRound(1), Outcome.OVERLOADED, f"{ROUTE}: overloaded: busy"))
    world.sql("UPDATE jobs SET deadline_at = created_at + 2.5")
    world.sql("UPDATE jobs SET created_at = created_at - 10, deadline_at = deadline_at - 10")
    (late,), _ = world.expire()
    with world.store.read() as connection:
        job = jobs_by_id(connection, [late])[late]
    assert job.error_outcome == "overloaded"
    assert job.error_message == f"The deadline passed 2.5 s after submit. Last word: {ROUTE}: overloaded: busy"


def test_an_expired_job_is_not_claimed_by_its_message(world: World) -> None:
    world.add(spec(deadline_at=world.now() - 1))
    claimed = world.dispatch()
    world.expire()
    assert world.take(world.lease(), claimed) == []


def test_many_expire_at_once_each_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BULK_ROWS", 25)
    batch = world.batch("contracts", *specs(120, deadline_at=world.now() - 1))
    ids: list[str] = []

    def expire() -> None:
        while got := world.expire()[0]:
            ids.extend(got)

    together(expire, expire, expire)
    while got := world.expire()[0]:
        ids.extend(got)
    assert len(ids) == len(set(ids)) == 120
    assert world.value("SELECT count(*) FROM job_results") == 120
    numbers = [row.batch_seq for row in world.sql("SELECT batch_seq FROM jobs ORDER BY batch_seq")]
    assert numbers == list(range(1, 121))
    assert (world.progress("contracts").expired, world.progress("contracts").done) == (120, True)
    assert batch.id


def test_a_job_that_came_back_and_is_late_expires(world: World) -> None:
    lease, jobs = world.running(1, deadline_at=world.now() + 3600)
    world.end(lease, jobs, WAIT)
    world.sql("UPDATE jobs SET deadline_at = 1")
    assert world.expire()[0] == [jobs[0].id]
