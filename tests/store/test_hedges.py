"""Hedges: the row of a second call exists only while its job is held, and no end leaves it unsettled."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Row
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, InThread, World, finished, go_on, until_blocked
from uuid_utils import uuid7

from trivet_store.jobs import rescuing
from trivet_store.jobs.claiming import add_attempt
from trivet_store.jobs.finishing import finish
from trivet_store.steps import CallTarget, ClaimedJob, Transition
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import AttemptPurpose

PRICE = Decimal("0.4")


def hedge_of(world: World, lease_id: str, job: ClaimedJob) -> ClaimedJob | None:
    """The job as its second call has it; None where the row was refused."""
    target = CallTarget(lease_id, OTHER_ROUTE, "vertex", MODEL, f"wire.{MODEL}", Latency.BATCH)
    hedge = job._replace(target=target, attempt_id=uuid7().hex)
    with world.store.write() as connection:
        now = world.store.now(connection)
        held = add_attempt(connection, hedge, now=now, estimate=PRICE, purpose=AttemptPurpose.HEDGE)
    return hedge if held else None


def added(world: World, lease_id: str, job: ClaimedJob) -> ClaimedJob:
    hedge = hedge_of(world, lease_id, job)
    assert hedge is not None
    return hedge


def attempts(world: World, job_id: str) -> dict[str, Row[Any]]:
    """By purpose."""
    return {row.purpose: row for row in world.sql("SELECT * FROM attempts WHERE job_id = :id", id=job_id)}


def lost(job: ClaimedJob, lease_id: str, outcome: Outcome = Outcome.CANCELLED) -> Transition:
    """A call that decides nothing, because the other one does."""
    return replace(finished(job, lease_id, outcome=outcome, cost="0.4", estimated=True), next=None)


def test_a_hedge_of_a_running_job_has_a_row_beside_the_first(world: World) -> None:
    lease, (job,) = world.running(1)
    hedge = added(world, lease, job)
    first, second = attempts(world, job.id)["job"], attempts(world, job.id)["hedge"]
    assert (first.id, second.id) == (job.attempt_id, hedge.attempt_id)
    assert (second.claim, second.round, second.lease_id) == (first.claim, first.round, lease)
    assert (second.route, second.provider, second.wire_model) == (OTHER_ROUTE, "vertex", f"wire.{MODEL}")
    assert (second.outcome, bool(second.estimated)) == (None, True)
    assert world.value("SELECT cost_usd FROM attempts WHERE id = :id", id=hedge.attempt_id)
    row = world.job(job.id)
    assert (row.state, row.route, row.attempts, row.claim) == ("running", ROUTE, 2, job.claim)


def _ended(world: World, lease_id: str, job: ClaimedJob) -> None:
    world.end(lease_id, [job])


def _gone_on(world: World, lease_id: str, job: ClaimedJob) -> None:
    world.end(lease_id, [job], go_on())


def _rescued(world: World, lease_id: str, job: ClaimedJob) -> None:
    world.let_die(lease_id)
    assert world.rescue() == {lease_id: 1}


def _claimed_by_another(world: World, lease_id: str, job: ClaimedJob) -> None:
    _rescued(world, lease_id, job)
    assert world.take(world.lease(worker="another"), world.dispatch())


def _claimed_again(world: World, lease_id: str, job: ClaimedJob) -> None:
    """Claimed again by the same worker: the earlier claim is no longer valid."""
    world.sql("UPDATE jobs SET state = 'waiting', lease_id = NULL WHERE id = :id", id=job.id)
    assert world.take(lease_id, world.dispatch())


def _put_back(world: World, lease_id: str, job: ClaimedJob) -> None:
    with world.store.write() as connection:
        rescuing.put_back_strays(connection, lease_id, [job.id])


@pytest.mark.parametrize("lose", [_ended, _gone_on, _rescued, _claimed_by_another, _claimed_again, _put_back])
def test_a_job_that_is_no_longer_held_gets_no_hedge(
    world: World, lose: Callable[[World, str, ClaimedJob], None]
) -> None:
    lease, (job,) = world.running(1)
    lose(world, lease, job)
    before = world.job(job.id).attempts
    assert hedge_of(world, lease, job) is None
    assert "hedge" not in attempts(world, job.id)
    assert world.job(job.id).attempts == before


def test_another_workers_job_gets_no_hedge(world: World) -> None:
    _, (job,) = world.running(1)
    assert hedge_of(world, world.lease(worker="another"), job) is None


def test_a_job_that_is_being_ended_gets_no_hedge(postgres_world: World) -> None:
    world = postgres_world
    lease, (job,) = world.running(1)
    with world.store.write() as connection:
        finish(world.store, connection, [finished(job, lease)])
        asking = InThread(lambda: hedge_of(world, lease, job))
        until_blocked(world, asking)
        assert not asking.over, "it waits for what becomes of the job"
    assert asking.result() is None
    assert "hedge" not in attempts(world, job.id)


@pytest.mark.parametrize("hedge_wins", [True, False])
def test_the_winner_ends_the_job_and_the_loser_is_settled(world: World, hedge_wins: bool) -> None:
    """In either order of their commits, and in one."""
    lease, (job,) = world.running(1)
    hedge = added(world, lease, job)
    winner, loser = (hedge, job) if hedge_wins else (job, hedge)
    where = OTHER_ROUTE if hedge_wins else ROUTE
    written = world.finish(finished(winner, lease))
    assert (written.ended_jobs, written.refused) == ((job.id,), ())
    late = world.finish(lost(loser, lease))
    assert (late.ended_jobs, late.refused) == ((), ()), "no late result: it only settles its row"
    assert world.job(job.id).state == "succeeded"
    assert world.value("SELECT route FROM job_results WHERE job_id = :id", id=job.id) == where
    rows = {row.id: row for row in attempts(world, job.id).values()}
    assert (rows[winner.attempt_id].outcome, bool(rows[winner.attempt_id].estimated)) == ("succeeded", False)
    assert (rows[loser.attempt_id].outcome, bool(rows[loser.attempt_id].estimated)) == ("cancelled", True)


def test_both_in_one_group_are_written_together(world: World) -> None:
    lease, (job,) = world.running(1)
    hedge = added(world, lease, job)
    written = world.finish(lost(job, lease, Outcome.OVERLOADED), finished(hedge, lease))
    assert (written.ended_jobs, written.refused) == ((job.id,), ())
    assert {row.outcome for row in attempts(world, job.id).values()} == {"overloaded", "succeeded"}


def test_a_failure_beside_a_call_under_way_leaves_the_job_running(world: World) -> None:
    lease, (job,) = world.running(1)
    hedge = added(world, lease, job)
    assert world.finish(lost(hedge, lease, Outcome.OVERLOADED)).ended_jobs == ()
    assert world.job(job.id).state == "running"
    assert world.end(lease, [job]).ended_jobs == (job.id,)


def test_a_closed_lease_leaves_no_hedge_unsettled(world: World) -> None:
    """The row's commit was never answered: its worker does not know of it, and its job has ended."""
    lease, (job,) = world.running(1)
    hedge = added(world, lease, job)
    other, (theirs,) = world.running(1)
    world.end(lease, [job])
    world.release(lease)
    row = attempts(world, job.id)["hedge"]
    assert (row.id, row.outcome, bool(row.estimated)) == (hedge.attempt_id, "unknown", True)
    assert row.cost_usd, "what it may have cost at most stays written"
    assert attempts(world, job.id)["job"].outcome == "succeeded"
    assert attempts(world, theirs.id)["job"].outcome is None, "another worker's goes on"
    assert world.value("SELECT count(*) FROM leases") == 1
    assert world.value("SELECT id FROM leases") == other


def test_a_lease_closed_while_jobs_run_leaves_both_calls_unknown(world: World) -> None:
    lease, (job,) = world.running(1)
    added(world, lease, job)
    world.release(lease)
    assert {row.outcome for row in attempts(world, job.id).values()} == {"unknown"}
    assert world.rescue() == {}
    assert world.job(job.id).state == "waiting"


def test_a_dead_workers_job_is_taken_from_both_its_calls(world: World) -> None:
    lease, (job,) = world.running(1)
    hedge = added(world, lease, job)
    world.let_die(lease)
    assert world.rescue() == {lease: 1}
    assert world.end(lease, [hedge]).refused == (job.id,), "an answer that comes after that is not the job's"
    assert world.job(job.id).state == "waiting"
