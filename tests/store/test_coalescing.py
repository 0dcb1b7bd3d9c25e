"""Coalesced jobs: under which claim they wait for an equal request's answer, until when, and the end of the wait."""

from typing import Any

import pytest
from tests.store.world import SUCCESS, WAIT, InThread, World, finished, spec, statements, until_blocked

from trivet_store.jobs import cancelling, retrying
from trivet_store.jobs.coalescing import (
    FREED_AT_ONCE,
    Coalesced,
    CoalescedJob,
    coalesce,
    free_coalesced,
    leader_of,
    look_after,
)
from trivet_store.jobs.finishing import finish
from trivet_store.jobs.rescuing import release
from trivet_store.reports import backlog
from trivet_store.steps import ClaimedJob, End, JobRound, Next, Wait
from trivet_tasks.jobs import DispatchedJob, JobSpec
from trivet_tasks.latency import DEFAULTS
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

KEY = "c" * 32


def equal(count: int, **terms: Any) -> list[JobSpec]:
    return [spec("the same", cache_key=KEY, **terms) for _ in range(count)]


def coalesce_with(world: World, jobs: list[DispatchedJob], leader: str, *, look_again_s: float = 10) -> Coalesced:
    with world.store.write() as connection:
        wanted = [CoalescedJob(job.id, job.claim, leader) for job in jobs]
        return coalesce(world.store, connection, wanted, look_again_s)


def led(world: World, coalesced_jobs: int = 2, **terms: Any) -> tuple[str, ClaimedJob, list[str]]:
    """A leader that runs, and its coalesced jobs: (lease, leader, ids of the others)."""
    world.add(*equal(1 + coalesced_jobs, **terms))
    leader, *others = world.dispatch(1 + coalesced_jobs)
    lease = world.lease()
    (running,) = world.take(lease, [leader])
    assert running.cache_key == KEY
    result = coalesce_with(world, others, leader.id)
    assert (set(result.coalesced), result.leaderless) == ({job.id for job in others}, ())
    return lease, running, [job.id for job in others]


def look(world: World) -> int:
    with world.store.write() as connection:
        return look_after(world.store, connection)


def states(world: World, ids: list[str]) -> set[str]:
    return {world.job(job_id).state for job_id in ids}


def noted(world: World) -> int:
    return int(world.value("SELECT count(*) FROM coalesced_jobs"))


def test_a_coalesced_job_is_at_no_route_and_is_not_dispatched(world: World) -> None:
    _, leader, ids = led(world)
    for job_id in ids:
        job = world.job(job_id)
        assert (job.state, job.route, job.dispatched_until, job.lease_id, job.claim) == (
            "coalesced",
            None,
            None,
            None,
            1,
        )
        with world.store.read() as connection:
            assert leader_of(connection, job_id) == leader.id
    assert world.dispatch() == []
    with world.store.read() as connection:
        (row,) = backlog.by_class(connection)
    assert (row.waiting, row.delayed, row.held, row.coalesced, row.total) == (0, 0, 0, 2, 2)


@pytest.mark.parametrize("end", [SUCCESS, End(JobState.FAILED, outcome=Outcome.INVALID, error="no")])
def test_when_the_leader_ends_they_wait_for_a_route_again_in_their_place(world: World, end: Next) -> None:
    lease, leader, ids = led(world)
    ranks = [world.job(job_id).rank for job_id in ids]
    world.end(lease, [leader], end)
    assert states(world, ids) == {"waiting"}
    assert noted(world) == 0
    assert [world.job(job_id).rank for job_id in ids] == ranks
    assert {(job.id, job.claim) for job in world.dispatch()} == {(job_id, 2) for job_id in ids}


def test_no_job_is_coalesced_with_one_that_is_not_outstanding(world: World) -> None:
    """The leader backs off, or waits for its budget: the coalesced jobs keep waiting."""
    lease, leader, _ = led(world)
    later = Wait(world.now() + 100, JobRound(1), Outcome.OVERLOADED, "busy")
    world.finish(finished(leader, lease, later, outcome=Outcome.OVERLOADED))
    other, *_ = world.add(spec("equal"))
    claimed = next(job for job in world.dispatch() if job.id == other.id)
    wanted = CoalescedJob(claimed.id, claimed.claim, leader.id)
    with world.store.write() as connection:
        assert coalesce(world.store, connection, [wanted]).leaderless == (wanted,)


def test_as_long_as_the_leader_tries_on_they_wait(world: World) -> None:
    lease, leader, ids = led(world)
    world.end(lease, [leader], WAIT)
    assert states(world, ids) == {"coalesced"}


def test_a_leader_that_is_cancelled_or_expires_frees_them(world: World) -> None:
    lease, leader, ids = led(world)
    world.end(lease, [leader], WAIT)
    with world.store.write() as connection:
        assert cancelling.cancel_job(world.store, connection, leader.id)
    assert states(world, ids) == {"waiting"}
    next_leader, *others = world.dispatch()
    coalesce_with(world, others, next_leader.id)
    world.sql("UPDATE jobs SET deadline_at = 1 WHERE id = :id", id=next_leader.id)
    assert world.expire()[0] == [next_leader.id]
    assert states(world, [job.id for job in others]) == {"waiting"}


def test_a_leader_that_was_asked_to_stop_frees_them_when_its_worker_leaves(world: World) -> None:
    lease, leader, ids = led(world)
    world.sql("UPDATE jobs SET cancel_requested = true WHERE id = :id", id=leader.id)
    with world.store.write() as connection:
        release(world.store, connection, lease)
    assert world.job(leader.id).state == "cancelled"
    assert states(world, ids) == {"waiting"}


def test_when_the_leaders_worker_dies_they_are_looked_at_in_time(world: World) -> None:
    lease, leader, ids = led(world)
    world.let_die(lease)
    assert world.rescue() == {lease: 1}
    assert world.job(leader.id).state == "waiting"
    assert states(world, ids) == {"coalesced"}
    assert not world.due().coalesced
    world.sql("UPDATE coalesced_jobs SET until = 1")
    assert world.due().coalesced
    assert look(world) == len(ids)
    assert states(world, ids) == {"waiting"}, "one of them may lead now"
    assert noted(world) == 0


def test_a_look_at_a_leader_under_way_lengthens_the_wait(world: World) -> None:
    _, _, ids = led(world)
    world.sql("UPDATE coalesced_jobs SET until = 1")
    assert look(world) == len(ids)
    assert states(world, ids) == {"coalesced"}
    assert not world.due().coalesced


def test_a_wake_up_that_was_lost_is_made_good(world: World) -> None:
    """The leader's end did not free its coalesced jobs: its process died before."""
    _, leader, ids = led(world)
    world.sql("UPDATE jobs SET state = 'succeeded', ended_at = 5 WHERE id = :id", id=leader.id)
    world.sql("UPDATE coalesced_jobs SET until = 1")
    assert look(world) == len(ids)
    assert states(world, ids) == {"waiting"}


def test_no_job_is_coalesced_under_a_stale_claim_or_with_an_ended_leader(world: World) -> None:
    world.add(*equal(3))
    leader, other, third = world.dispatch(3)
    stale = other._replace(claim=0)
    assert coalesce_with(world, [stale, DispatchedJob("nobody", 1, 1, 1)], leader.id) == Coalesced((), ())
    assert world.job(other.id).state == "dispatched"
    with world.store.write() as connection:
        cancelling.cancel_job(world.store, connection, leader.id)
    gone = coalesce_with(world, [other], leader.id)
    assert [job.id for job in gone.leaderless] == [other.id]
    assert [job.id for job in coalesce_with(world, [third], "nobody").leaderless] == [third.id]
    assert states(world, [other.id, third.id]) == {"dispatched"}
    # twice is once
    assert coalesce_with(world, [third], other.id).coalesced == (third.id,)
    assert coalesce_with(world, [third], other.id) == Coalesced((), ())


def test_a_streamed_job_is_not_coalesced(world: World) -> None:
    """Its reader wants the first words soon, and they must be of one call of its own."""
    one, streamed = equal(2)
    streamed.streamed = True
    world.add(one, streamed)
    leader, other = world.dispatch(2)
    assert [job.id for job in coalesce_with(world, [other], leader.id).leaderless] == [other.id]
    assert states(world, [other.id]) == {"dispatched"}


def test_a_coalesced_job_cannot_lead(world: World) -> None:
    """Else two could wait for each other."""
    world.add(*equal(3))
    one, two, three = world.dispatch(3)
    assert coalesce_with(world, [two], one.id).coalesced == (two.id,)
    assert [job.id for job in coalesce_with(world, [one], two.id).leaderless] == [one.id]
    with world.store.write() as connection:
        crossed = coalesce(
            world.store, connection, [CoalescedJob(one.id, 1, three.id), CoalescedJob(three.id, 1, one.id)]
        )
    assert (len(crossed.coalesced), len(crossed.leaderless)) == (1, 1)


def test_a_coalesced_job_can_be_cancelled_expire_and_run_again(world: World) -> None:
    lease, leader, ids = led(world, coalesced_jobs=3)
    with world.store.write() as connection:
        assert cancelling.cancel_job(world.store, connection, ids[0])
    world.sql("UPDATE jobs SET deadline_at = 1 WHERE id = :id", id=ids[1])
    assert world.expire()[0] == [ids[1]]
    assert [world.job(job_id).state for job_id in ids] == ["cancelled", "expired", "coalesced"]
    with world.store.write() as connection:
        assert retrying.retry_job(world.store, connection, ids[1], classes=DEFAULTS)
    world.end(lease, [leader])
    assert [world.job(job_id).state for job_id in ids] == ["cancelled", "waiting", "waiting"]
    world.sql("UPDATE coalesced_jobs SET until = 1")
    assert look(world) == noted(world) + 2, "what is noted of those that ended goes"
    assert noted(world) == 0


def test_a_job_that_ran_again_is_not_woken_by_what_was_noted_of_it(world: World) -> None:
    """The job expired while it was coalesced, was retried, and waits now until its next try."""
    lease, leader, (again,) = led(world, coalesced_jobs=1)
    world.sql("UPDATE jobs SET deadline_at = 1 WHERE id = :id", id=again)
    world.expire()
    with world.store.write() as connection:
        assert retrying.retry_job(world.store, connection, again, classes=DEFAULTS)
    world.sql("UPDATE jobs SET deadline_at = NULL WHERE id = :id", id=again)
    (job,) = world.take(lease, world.dispatch(1))
    later = world.now() + 1_000
    world.end(lease, [job], Wait(later, JobRound(1), Outcome.OVERLOADED, "overloaded"))
    assert (world.job(again).state, noted(world)) == ("delayed", 1)
    world.end(lease, [leader])
    world.sql("UPDATE coalesced_jobs SET until = 1")
    assert look(world) == 1
    assert noted(world) == 0
    assert (world.job(again).state, world.job(again).not_before) == ("delayed", later)


def test_a_cancelled_batch_cancels_its_coalesced_jobs(world: World) -> None:
    batch = world.batch("b", *equal(3))
    leader, *others = world.dispatch(3)
    lease = world.lease()
    world.take(lease, [leader])
    coalesce_with(world, others, leader.id)
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
        assert set(cancelling.cancel_waiting(world.store, connection, batch.id)) == {job.id for job in others}
    assert world.progress("b").cancelled == 2


def test_thousands_of_coalesced_jobs_are_freed_in_groups(world: World) -> None:
    count = 2 * FREED_AT_ONCE + 50
    for _ in range(count // 50 + 1):
        world.add(*equal(50))
    leader, *others = world.dispatch(count + 1)
    for at in range(0, count, 200):
        coalesce_with(world, others[at : at + 200], leader.id)
    lease = world.lease()
    world.sql("UPDATE jobs SET dispatched_until = 4e9 WHERE id = :id", id=leader.id)
    written = world.end(lease, world.take(lease, [leader]))
    assert written.crowded
    assert world.value("SELECT count(*) FROM jobs WHERE state = 'coalesced'") == count - FREED_AT_ONCE
    freed: list[int] = []
    while not freed or freed[-1]:
        with world.store.write() as connection:
            freed.append(free_coalesced(connection, [leader.id]))
    assert freed == [FREED_AT_ONCE, 50, 0]
    assert noted(world) == 0


def test_jobs_without_a_key_cost_no_look_for_coalesced_jobs(world: World) -> None:
    lease, (job,) = world.running()
    with statements(world.store) as seen:
        assert not world.end(lease, [job]).crowded
    assert not [statement for statement, _ in seen if "coalesced_jobs" in statement]


def test_what_is_noted_of_a_pruned_job_goes(world: World) -> None:
    _, _, ids = led(world)
    world.sql("UPDATE coalesced_jobs SET job_id = 'pruned', until = 1 WHERE job_id = :id", id=ids[0])
    assert look(world) == 1
    assert noted(world) == 1


def test_a_job_coalesced_while_its_leader_ends_is_not_forgotten(postgres_world: World) -> None:
    """Two concurrent transactions: the one that coalesces comes second and sees the leader's end."""
    world = postgres_world
    world.add(*equal(2))
    leader, other = world.dispatch(2)
    lease = world.lease()
    (running,) = world.take(lease, [leader])
    with world.store.write() as connection:
        finish(world.store, connection, [finished(running, lease)])
        late = InThread(lambda: coalesce_with(world, [other], leader.id))
        until_blocked(world, late)
    assert [job.id for job in late.result().leaderless] == [other.id]
    assert world.job(other.id).state == "dispatched"


def test_a_leader_that_ends_while_a_job_is_coalesced_frees_it(postgres_world: World) -> None:
    world = postgres_world
    world.add(*equal(2))
    leader, other = world.dispatch(2)
    lease = world.lease()
    (running,) = world.take(lease, [leader])
    with world.store.write() as connection:
        coalesce(world.store, connection, [CoalescedJob(other.id, other.claim, leader.id)])
        late = InThread(lambda: world.end(lease, [running]))
        until_blocked(world, late)
    late.result()
    assert world.job(other.id).state == "waiting"


def test_a_locked_coalesced_job_is_skipped(postgres_world: World) -> None:
    world = postgres_world
    lease, leader, ids = led(world)
    with world.store.write() as connection:
        cancelling.cancel_job(world.store, connection, ids[0])
        other = InThread(lambda: world.end(lease, [leader]))
        other.result()
    assert [world.job(job_id).state for job_id in ids] == ["cancelled", "waiting"]
