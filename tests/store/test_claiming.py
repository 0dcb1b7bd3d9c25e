"""Claiming jobs: only under a valid claim number, and never without the row of the attempt that is about to be made."""

from decimal import Decimal

from tests.store.world import ESTIMATE, MODEL, PERMIT, ROUTE, World, spec, specs, together

from trivet_store.steps import JobRound
from trivet_tasks.jobs import DispatchedJob, Permit, permit_id
from trivet_tasks.latency import Latency


def test_a_taken_job_has_what_its_call_needs(world: World) -> None:
    lease = world.lease()
    one = spec("hello", residency=("eu",), compliance=("hipaa",), features=("files",), deadline_at=world.now() + 60)
    (accepted,) = world.add(one)
    (job,) = world.take(lease, world.dispatch())
    assert (job.id, job.claim, job.batch_id, job.round) == (accepted.id, 1, None, JobRound(0))
    assert (job.prompt.body, job.input_estimate, job.max_tokens) == (one.body, 5, 100)
    assert (job.residency, job.compliance, job.features) == (("eu",), ("hipaa",), ("files",))
    row = world.job(job.id)
    assert (row.state, row.lease_id, row.attempts) == ("running", lease, 1)


def test_only_the_database_says_that_a_job_is_streamed(world: World) -> None:
    lease = world.lease()
    streamed, plain = spec("streamed"), spec("plain")
    streamed.streamed = True
    ids = [accepted.id for accepted in world.add(streamed, plain)]
    jobs = {job.id: job.streamed for job in world.take(lease, world.dispatch(2))}
    assert [jobs[job_id] for job_id in ids] == [True, False]


def test_the_attempt_is_written_before_the_call(world: World) -> None:
    before = world.now()
    lease, jobs = world.running(3)
    rows = {row.id: row for row in world.sql("SELECT * FROM attempts")}
    assert set(rows) == {job.attempt_id for job in jobs}
    for job in jobs:
        row = rows[job.attempt_id]
        assert (row.job_id, row.claim, row.round, row.lease_id) == (job.id, 1, 0, lease)
        assert (row.route, row.provider, row.model, row.wire_model) == (ROUTE, "bedrock", MODEL, f"wire.{MODEL}")
        assert (row.outcome, row.latency_s, bool(row.estimated)) == (None, None, True)
        assert before - 0.01 <= row.started_at <= world.now()
    with world.store.read() as connection:
        from trivet_store.reports.results import attempts_of

        (attempt,) = attempts_of(connection, [jobs[0].id])[jobs[0].id]
    assert attempt.cost_usd == ESTIMATE


def test_an_attempt_without_a_known_price_has_no_estimate(world: World) -> None:
    lease = world.lease()
    world.add(spec())
    world.take(lease, world.dispatch(), estimate=None)
    assert world.value("SELECT cost_usd FROM attempts") is None


def test_each_job_gets_its_own_attempt_and_estimate(world: World) -> None:
    from trivet_store.jobs.claiming import claim
    from trivet_store.reports.results import attempts_of
    from trivet_store.steps import CallTarget

    lease = world.lease()
    world.add(*specs(3))
    claimed = world.dispatch()
    estimates = [Decimal("0.1"), Decimal("0.2"), None]
    with world.store.write() as connection:
        now = world.store.now(connection)
        target = CallTarget(lease, ROUTE, "bedrock", MODEL, MODEL, Latency.BATCH)
        ids = [f"{number:032x}" for number in range(3)]
        permits = [Permit(permit_id(lease, attempt_id), 1, 1) for attempt_id in ids]
        jobs = claim(
            connection, target, claimed, now=now, attempt_ids=ids, permits=permits, estimates=estimates
        ).claimed
        found = attempts_of(connection, [job.id for job in claimed])
    assert [found[job.id][0].cost_usd for job in claimed] == estimates
    assert [found[job.id][0].id for job in claimed] == ids
    assert {(job.attempt_id, job.permit.id) for job in jobs} == {(one, f"{lease}:{one}") for one in ids}


def test_a_duplicate_message_takes_nothing(world: World) -> None:
    world.add(*specs(3))
    claimed = world.dispatch()
    first, second = world.lease(), world.lease(worker="worker-2")
    assert len(world.take(first, claimed)) == 3
    assert world.take(second, claimed) == []
    assert world.take(first, claimed) == []
    assert world.value("SELECT count(*) FROM attempts") == 3
    assert {world.job(job.id).lease_id for job in claimed} == {first}


def test_many_workers_with_one_message_make_one_attempt_a_job(world: World) -> None:
    world.add(*specs(20))
    claimed = world.dispatch()
    taken: list[str] = []

    def take(number: int) -> None:
        taken.extend(job.id for job in world.take(world.lease(worker=f"worker-{number}"), claimed))

    together(*[lambda n=n: take(n) for n in range(4)])
    assert sorted(taken) == sorted(job.id for job in claimed)
    assert world.value("SELECT count(*) FROM attempts") == 20


def test_a_stale_token_is_refused_and_the_others_are_taken(world: World) -> None:
    world.add(*specs(3))
    old = world.dispatch()
    world.give_back(old[:1])
    (newer,) = world.dispatch()
    assert newer.claim == 2
    lease = world.lease()
    assert sorted(job.id for job in world.take(lease, old)) == sorted(job.id for job in old[1:])
    assert [job.claim for job in world.take(lease, [newer])] == [2]


def test_a_token_of_the_future_or_of_nobody_is_refused(world: World) -> None:
    (accepted,) = world.add(spec())
    world.dispatch()
    lease = world.lease()
    assert world.take(lease, [DispatchedJob(accepted.id, 2, 1, 1), DispatchedJob("nobody", 1, 1, 1)]) == []
    assert world.job(accepted.id).state == "dispatched"


def test_a_recalled_job_is_not_taken_by_its_old_message(world: World) -> None:
    world.add(spec())
    claimed = world.dispatch(within_s=-1)
    assert world.recall() == 1
    lease = world.lease()
    assert world.take(lease, claimed) == [], "waiting"
    (again,) = world.dispatch()
    assert world.take(lease, claimed) == [], "dispatched anew"
    assert len(world.take(lease, [again])) == 1


def test_a_worker_whose_lease_ran_out_takes_nothing(world: World) -> None:
    """Nobody would rescue what it took: the lease is, or soon will be, gone."""
    world.add(*specs(2))
    claimed = world.dispatch()
    lease = world.lease()
    world.let_die(lease)
    assert world.take(lease, claimed) == []
    world.rescue()
    assert world.take(lease, claimed) == []
    assert world.take("never opened", claimed) == []
    assert world.states() == {"dispatched": 2}
    assert world.value("SELECT count(*) FROM attempts") == 0


def test_a_lease_is_not_dropped_during_a_claim(postgres_world: World) -> None:
    """A rescuer that comes during a claim leaves the lease alone and finds the jobs the next time."""
    from trivet_store.jobs.claiming import claim
    from trivet_store.steps import CallTarget

    world = postgres_world
    world.add(spec())
    (claimed,) = world.dispatch()
    lease = world.lease()
    with world.store.write() as connection:
        target = CallTarget(lease, ROUTE, "bedrock", MODEL, MODEL, Latency.BATCH)
        now = world.store.now(connection)
        (job,) = claim(
            connection, target, [claimed], now=now, attempt_ids=["a" * 32], permits=[PERMIT], estimates=[None]
        ).claimed
        world.let_die(lease)  # a heartbeat would not be blocked either
        assert world.rescue() == {}
    assert world.rescue() == {lease: 1}
    assert world.job(job.id).state == "waiting"
    assert world.value("SELECT outcome FROM attempts") == "unknown"


def test_jobs_given_back_wait_again(world: World) -> None:
    world.add(*specs(3))
    claimed = world.dispatch()
    lease = world.lease()
    world.take(lease, claimed[:1])
    world.give_back(claimed)
    assert world.states() == {"running": 1, "waiting": 2}
    row = world.job(claimed[1].id)
    assert (row.route, row.dispatched_until, row.claim, row.attempts) == (None, None, 1, 0)


def test_giving_back_under_a_stale_token_does_nothing(world: World) -> None:
    world.add(spec())
    old = world.dispatch()
    world.give_back(old)
    world.dispatch()
    world.give_back(old)
    assert world.states() == {"dispatched": 1}


def test_a_job_whose_deadline_passed_in_the_queue_expires_without_an_attempt(world: World) -> None:
    lease = world.lease()
    late, good = world.add(spec("late", deadline_at=world.now() + 600), spec("good"))
    claimed = world.dispatch()
    world.sql("UPDATE jobs SET deadline_at = 2.0 WHERE id = :id", id=late.id)
    assert [job.id for job in world.take(lease, claimed)] == [good.id]
    assert world.value("SELECT count(*) FROM attempts") == 1
    assert world.expire()[0] == [late.id]
    assert world.job(late.id).state == "expired"
