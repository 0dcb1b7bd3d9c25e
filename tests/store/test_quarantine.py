"""Quarantined jobs: a job in flight when its worker died runs isolated from then on; three isolated crashes end it."""

import pytest
from tests.store.world import ROUTE, InThread, World, specs, together, until_blocked

from trivet_store.jobs import cancelling, dispatching, rescuing
from trivet_store.jobs.dispatching import Outstanding
from trivet_store.jobs.rescuing import ISOLATED_CRASHES, LONGEST_WAIT_S, PATIENT_AFTER
from trivet_store.reports.results import attempts_of, jobs_by_id
from trivet_store.steps import ClaimedJob
from trivet_tasks.outcomes import Outcome


def _strike(world: World, job: ClaimedJob) -> tuple[str | None, int] | None:
    with world.store.write() as connection:
        return rescuing.strike(world.store, connection, job.id, job.claim)


def _died(world: World, count: int = 1, **how: object) -> list[ClaimedJob]:
    """Jobs whose worker died with them in flight, waiting again."""
    lease, jobs = world.running(count, **how)
    world.let_die(lease)
    world.rescue()
    return jobs


def _isolation(world: World) -> tuple[str, ClaimedJob]:
    """The next job, claimed by a process of its own."""
    lease = world.lease(lane="isolated")
    (job,) = world.take(lease, world.dispatch(1))
    return lease, job


def _flows(world: World) -> dict[int, bool]:
    with world.store.read() as connection:
        return {flow.id: flow.isolated for flow in dispatching.flows_with_waiting(connection, 0.0)}


def test_what_was_in_flight_runs_alone_and_its_neighbours_do_not(world: World) -> None:
    died = _died(world, 2)
    world.add(*specs(2))
    assert sorted(_flows(world).values()) == [False, True]
    by_flow = {job.id: job.flow_id for job in world.sql("SELECT * FROM jobs")}
    assert {_flows(world)[by_flow[job.id]] for job in died} == {True}
    jobs = world.take(world.lease(), world.dispatch(4))
    assert {job.id: job.target.isolated for job in jobs} == {
        job_id: job_id in {d.id for d in died} for job_id in by_flow
    }


def test_isolated_jobs_of_a_route_are_counted(world: World) -> None:
    _died(world, 2)
    world.add(*specs(3))
    world.dispatch(5)
    with world.store.read() as connection:
        (row,) = dispatching.outstanding(connection)
    assert isinstance(row, Outstanding)
    assert (row.jobs, row.isolated) == (5, 2)


def test_the_third_isolated_crash_ends_the_job_and_says_so(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    first = world.lease()
    (job,) = world.take(first, world.dispatch(1))
    world.let_die(first)
    world.rescue()
    for deaths in range(1, ISOLATED_CRASHES + 1):
        world.sql("UPDATE jobs SET state = 'waiting', not_before = NULL WHERE state = 'delayed'")
        lease, mine = _isolation(world)
        assert _strike(world, mine) == (lease, deaths)
        assert world.value("SELECT count(*) FROM leases WHERE id = :id", id=lease) == 0
        assert _strike(world, mine) is None, "once for one death"
    with world.store.read() as connection:
        row = jobs_by_id(connection, [job.id])[job.id]
        calls = attempts_of(connection, [job.id])[job.id]
    assert (row.state, row.error_outcome, row.route) == ("failed", Outcome.UNKNOWN, ROUTE)
    assert row.error_message is not None
    assert f"{ISOLATED_CRASHES} worker processes died while they ran this job and nothing else" in row.error_message
    assert [call.outcome for call in calls] == ["unknown"] * (1 + ISOLATED_CRASHES)
    assert all(call.estimated for call in calls)
    assert world.progress(batch.name).failed == 1


def test_a_process_that_dies_with_its_worker_is_no_strike(world: World) -> None:
    (job,) = _died(world)
    for _ in range(ISOLATED_CRASHES + 2):
        lease, _ = _isolation(world)
        world.let_die(lease)
        world.rescue()
        world.sql("UPDATE jobs SET state = 'waiting', not_before = NULL WHERE state = 'delayed'")
    row = world.job(job.id)
    assert (row.state, row.isolated_crashes, row.crashes) == ("waiting", 0, 1 + ISOLATED_CRASHES + 2)
    assert len(_flows(world)) == 1, "it stays where it is"


def test_who_is_in_flight_in_death_after_death_waits_ever_longer(world: World) -> None:
    """Such a job may be what takes whole machines down, and nobody can tell."""
    (job,) = _died(world)
    waits = []
    for deaths in range(2, 14):
        lease, _ = _isolation(world)
        world.let_die(lease)
        before = world.now()
        world.rescue()
        row = world.job(job.id)
        assert row.crashes == deaths
        waits.append(0.0 if row.not_before is None else min(LONGEST_WAIT_S, row.not_before - before))
        assert (row.state == "delayed") == (deaths > PATIENT_AFTER)
        world.sql("UPDATE jobs SET state = 'waiting', not_before = NULL WHERE state = 'delayed'")
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S, abs=60)


def test_a_recorded_quarantined_job_is_no_strike(world: World) -> None:
    _died(world)
    lease, job = _isolation(world)
    world.end(lease, [job])
    assert _strike(world, job) is None
    assert world.job(job.id).state == "succeeded"


def test_a_strike_under_an_old_token_counts_nothing(world: World) -> None:
    _died(world)
    lease, job = _isolation(world)
    world.let_die(lease)
    world.rescue()
    _, again = _isolation(world)
    assert _strike(world, job) is None
    assert world.job(job.id).isolated_crashes == 0
    assert _strike(world, again) is not None


def test_a_cancelled_quarantined_job_ends_cancelled(world: World) -> None:
    _died(world)
    _, job = _isolation(world)
    world.sql("UPDATE jobs SET cancel_requested = true WHERE id = :id", id=job.id)
    assert _strike(world, job) is not None
    assert world.job(job.id).state == "cancelled"


def test_quarantined_jobs_of_a_cancelled_batch_are_cancelled(world: World) -> None:
    batch = world.batch("contracts", *specs(3))
    lease = world.lease()
    world.take(lease, world.dispatch(3))
    world.let_die(lease)
    world.rescue()
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
        assert len(cancelling.cancel_waiting(world.store, connection, batch.id)) == 3
    assert world.states() == {"cancelled": 3}
    assert _flows(world) == {}


def test_a_rescue_and_the_cancelling_of_the_batch_do_not_lock_each_other_out(world: World) -> None:
    for number in range(5):
        batch = world.batch(f"contracts {number}", *specs(20))
        lease = world.lease()
        world.take(lease, world.dispatch(20))
        world.let_die(lease)

        def cancel(batch_id: int = batch.id) -> None:
            with world.store.write() as connection:
                cancelling.begin_cancel(world.store, connection, batch_id)

        together(world.rescue, cancel, world.rescue)
        world.rescue()
    for row in world.sql("SELECT id FROM batches"):
        with world.store.write() as connection:
            cancelling.cancel_waiting(world.store, connection, row.id)
    assert world.states() == {"cancelled": 100}


def test_a_process_that_had_to_be_ended_counts_though_its_lease_ran_out_before(world: World) -> None:
    """A job that wedges its process: the lease runs out, the job is rescued, and the process still hangs."""
    _died(world)
    for deaths in range(1, ISOLATED_CRASHES + 1):
        world.sql("UPDATE jobs SET state = 'waiting', not_before = NULL WHERE state = 'delayed'")
        lease, job = _isolation(world)
        world.let_die(lease)
        world.rescue()
        with world.store.write() as connection:
            assert rescuing.strike(world.store, connection, job.id, job.claim) is None
            assert rescuing.strike(world.store, connection, job.id, job.claim, hung=True) == (None, deaths)
    assert world.job(job.id).state == "failed"
    with world.store.write() as connection:
        assert rescuing.strike(world.store, connection, job.id, job.claim, hung=True) is None


def test_an_isolated_flow_is_opened_with_its_batch(postgres_world: World) -> None:
    """A batch that is resumed holds its flows; opened while a rescuer copies one, it must find the copy."""
    world = postgres_world
    batch = world.batch("contracts", *specs(1))
    lease = world.lease()
    world.take(lease, world.dispatch(1))
    world.sql("UPDATE flows SET held = true")
    world.sql("UPDATE batches SET state = 'loading'")
    world.let_die(lease)
    with world.store.write() as connection:
        assert rescuing.hold_dead(world.store, connection, ()) == lease
        rescuing.rescue(world.store, connection, lease)
        opening = InThread(lambda: world.open(batch))
        until_blocked(world, opening)
    opening.result()
    assert {bool(row.held) for row in world.sql("SELECT held FROM flows")} == {False}
