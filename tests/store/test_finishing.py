"""Finishing calls: the fence, the next steps of their jobs, counters and costs, many workers at once."""

import threading
from dataclasses import replace
from decimal import Decimal

import pytest
from tests.store.world import (
    OTHER_ROUTE,
    ROUTE,
    SUCCESS,
    WAIT,
    InThread,
    World,
    finished,
    go_on,
    spec,
    specs,
    together,
    until_blocked,
)

from trivet_store.cluster import health
from trivet_store.jobs import cancelling
from trivet_store.jobs.finishing import finish
from trivet_store.reports import costs
from trivet_store.reports.results import AttemptRow, JobRow, attempts_of, batch_page, jobs_by_id
from trivet_store.steps import End, JobRound, Next, Settlement, Transition, Wait
from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.states import JobState, RouteState


def _result(world: World, job_id: str) -> JobRow:
    with world.store.read() as connection:
        return jobs_by_id(connection, [job_id])[job_id]


def _attempts(world: World, job_id: str) -> list[AttemptRow]:
    with world.store.read() as connection:
        return attempts_of(connection, [job_id])[job_id]


def test_a_success_is_one_result_and_a_settled_attempt(world: World) -> None:
    lease, (job,) = world.running(1)
    written = world.end(lease, [job], cost="0.0123")
    assert (written.ended_jobs, written.refused, written.gone_on) == ((job.id,), (), ())
    result = _result(world, job.id)
    assert (result.state, result.message, result.stop_reason) == ("succeeded", SUCCESS.message, "end_turn")
    assert (result.cost_usd, result.route, result.error_outcome) == (Decimal("0.0123"), ROUTE, None)
    assert result.latency_s is not None
    assert result.latency_s >= 0
    assert result.ended_at is not None
    (attempt,) = _attempts(world, job.id)
    assert (attempt.outcome, attempt.status, attempt.request_id, attempt.latency_s) == ("succeeded", 200, "req_1", 0.5)
    assert (attempt.input_tokens, attempt.output_tokens, attempt.estimated) == (10, 5, False)
    row = world.job(job.id)
    assert (row.lease_id, row.dispatched_until, row.batch_seq) == (None, None, None)


def test_a_failure_is_a_result_that_says_why(world: World) -> None:
    lease, (job,) = world.running(1)
    then = End(JobState.FAILED, outcome=Outcome.INVALID, error="messages.0: too long")
    world.finish(finished(job, lease, then, outcome=Outcome.INVALID, cost="0"))
    result = _result(world, job.id)
    assert (result.state, result.error_outcome, result.error_message) == ("failed", "invalid", "messages.0: too long")
    assert (result.message, result.cost_usd, result.last_outcome) == (None, Decimal(0), "invalid")


def test_going_on_is_dispatched_under_the_next_number(world: World) -> None:
    lease, (job,) = world.running(1)
    written = world.end(lease, [job], go_on())
    assert [transition.job.id for transition in written.gone_on] == [job.id]
    row = world.job(job.id)
    assert (row.state, row.route, row.claim, row.lease_id) == ("dispatched", OTHER_ROUTE, 2, None)
    assert (row.tried, row.round_spent_s, row.last_outcome) == (ROUTE, 1.5, "overloaded")
    assert world.value("SELECT count(*) FROM job_results") == 0
    assert _attempts(world, job.id)[0].message == "busy"


def test_the_next_worker_goes_on_where_the_last_one_was(world: World) -> None:
    from trivet_tasks.jobs import DispatchedJob

    lease, (job,) = world.running(1)
    world.end(lease, [job], go_on())
    other = world.lease(worker="worker-2")
    (again,) = world.take(other, [DispatchedJob(job.id, 2, 1, 1)], route=OTHER_ROUTE)
    assert (again.claim, again.round) == (2, JobRound(0, 1.5, (ROUTE,)))
    assert again.attempt_id != job.attempt_id
    world.end(other, [again])
    assert [a.outcome for a in _attempts(world, job.id)] == ["overloaded", "succeeded"]
    assert _result(world, job.id).route == OTHER_ROUTE


def test_a_job_that_waits_for_a_route_keeps_its_place_in_line(world: World) -> None:
    lease, jobs = world.running(3)
    world.add(spec("newcomer"))
    rank = world.job(jobs[0].id).rank
    world.end(lease, jobs[:1], WAIT)
    row = world.job(jobs[0].id)
    assert (row.state, row.route, row.lease_id, row.not_before, row.rank) == ("waiting", None, None, None, rank)
    assert world.dispatch(1)[0].id == jobs[0].id


def test_backing_off_is_delayed_until_its_time(world: World) -> None:
    lease, (job,) = world.running(1)
    at = world.now() + 60
    waits = JobRound(1, doubted_by="bedrock", too_slow=("a", "b"))
    world.end(lease, [job], Wait(at, waits, Outcome.OVERLOADED, "busy"))
    row = world.job(job.id)
    assert (row.state, row.round, row.tried, row.doubted_by, row.too_slow) == ("delayed", 1, "", "bedrock", "a,b")
    assert row.not_before == pytest.approx(at, abs=0.001)
    assert (row.last_outcome, row.last_error) == ("overloaded", "busy")
    assert world.dispatch() == []


def test_a_wait_without_a_word_keeps_the_last_one(world: World) -> None:
    lease, (job,) = world.running(1)
    world.end(lease, [job], Wait(None, JobRound(0), Outcome.TIMEOUT, "silent"))
    world.end(lease, world.take(lease, world.dispatch()), WAIT)
    assert (world.job(job.id).last_outcome, world.job(job.id).last_error) == ("timeout", "silent")


def test_a_late_result_is_refused_and_its_cost_booked(world: World) -> None:
    late, (job,) = world.running(1)
    world.let_die(late)
    world.rescue()
    lease = world.lease(worker="worker-2")
    (again,) = world.take(lease, world.dispatch())
    written = world.end(late, [job], cost="0.5")
    assert (written.refused, written.ended_jobs) == ((job.id,), ())
    assert world.job(job.id).state == "running"
    assert world.value("SELECT count(*) FROM job_results") == 0
    world.end(lease, [again], cost="0.25")
    attempts = {attempt.id: attempt for attempt in _attempts(world, job.id)}
    assert (attempts[job.attempt_id].outcome, attempts[job.attempt_id].cost_usd) == ("succeeded", Decimal("0.5"))
    assert not attempts[job.attempt_id].estimated
    with world.store.read() as connection:
        (total,) = costs.summed(connection, [], costs.Span())
    assert total.cost_usd == Decimal("0.75")


@pytest.mark.parametrize("then", [SUCCESS, WAIT, go_on(), End(JobState.FAILED, outcome=Outcome.INVALID, error="no")])
@pytest.mark.parametrize("how", ["another lease", "another number", "ended", "nobody's"])
def test_a_token_that_does_not_hold_changes_nothing(sqlite_world: World, how: str, then: object) -> None:
    world = sqlite_world
    lease, (job,) = world.running(1)
    mine = job
    if how == "another lease":
        lease = world.lease(worker="worker-2")
    elif how == "another number":
        mine = job._replace(claim=2)
    elif how == "ended":
        world.end(lease, [job])
    else:
        mine = job._replace(id="nobody")
    before, results = world.job(job.id), world.value("SELECT count(*) FROM job_results")
    written = world.finish(finished(mine, lease, then))  # type: ignore[arg-type]
    assert (written.refused, written.ended_jobs, written.gone_on) == ((mine.id,), (), ())
    assert world.job(job.id) == before
    assert world.value("SELECT count(*) FROM job_results") == results


def test_one_refused_job_does_not_harm_its_neighbours(world: World) -> None:
    lease, jobs = world.running(3)
    world.end(lease, jobs[:1])
    written = world.end(lease, jobs)
    assert written.refused == (jobs[0].id,)
    assert sorted(written.ended_jobs) == sorted(job.id for job in jobs[1:])
    assert world.value("SELECT count(*) FROM job_results") == 3


def test_a_job_asked_to_be_cancelled_ends_so_unless_it_succeeded(world: World) -> None:
    lease, jobs = world.running(4)
    with world.store.write() as connection:
        for job in jobs:
            assert cancelling.cancel_job(world.store, connection, job.id)
    thens: list[Next] = [SUCCESS, WAIT, go_on(), End(JobState.FAILED, outcome=Outcome.INVALID, error="no")]
    written = world.finish(*(finished(job, lease, then) for job, then in zip(jobs, thens, strict=True)))
    assert sorted(written.ended_jobs) == sorted(job.id for job in jobs)
    assert [world.job(job.id).state for job in jobs] == ["succeeded", "cancelled", "cancelled", "cancelled"]
    assert written.gone_on == ()


def test_words_that_a_provider_chose_fit_the_columns(world: World) -> None:
    """NUL characters, lone surrogates and endless ids must not keep a group from being written."""
    lease, jobs = world.running(3)
    bad = "a\x00b\ud800c"
    settlement = Settlement(jobs[0].attempt_id, Outcome.SERVER_ERROR, 0.5, request_id="r" * 500 + bad, message=bad)
    ends = End(JobState.FAILED, outcome=Outcome.SERVER_ERROR, error=bad)
    waits = Wait(None, JobRound(0), Outcome.SERVER_ERROR, bad)
    on = go_on()
    world.finish(
        Transition(jobs[0], settlement, ends),
        finished(jobs[1], lease, waits),
        finished(jobs[2], lease, replace(on, outcome=Outcome.SERVER_ERROR, error=bad)),
    )
    clean = "ab\ufffdc"
    assert _result(world, jobs[0].id).error_message == clean
    (attempt,) = _attempts(world, jobs[0].id)
    assert (attempt.message, attempt.request_id) == (clean, "r" * 200)
    assert [world.job(job.id).last_error for job in jobs[1:]] == [clean, clean]
    lease, (job,) = world.running(1)
    world.end(lease, [job], End(JobState.SUCCEEDED, message=b"{}", stop_reason="x" * 100))
    assert _result(world, job.id).stop_reason == "x" * 40


def test_costs_add_up_exactly(world: World) -> None:
    amounts = [Decimal("0.000000000001"), Decimal("0.1"), Decimal("0.2"), Decimal("123456.789012345678")]
    batch = world.batch("contracts", *specs(4))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    world.finish(*(finished(job, lease, cost=str(amount)) for job, amount in zip(jobs, amounts, strict=True)))
    assert world.progress("contracts").cost_usd == sum(amounts)
    assert {_result(world, job.id).cost_usd for job in jobs} == set(amounts)
    with world.store.read() as connection:
        (row,) = costs.summed(connection, ["batch"], costs.Span())
    assert (row.group, row.cost_usd) == (("contracts",), sum(amounts))
    assert batch.id


def test_ten_thousand_small_costs_are_no_float(world: World) -> None:
    world.batch("contracts", *specs(100))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    world.finish(*(finished(job, lease, cost="0.000123456789") for job in jobs))
    assert world.progress("contracts").cost_usd == Decimal("0.000123456789") * 100


def test_a_job_costs_what_all_its_settled_attempts_cost(world: World) -> None:
    from trivet_tasks.jobs import DispatchedJob

    lease, (job,) = world.running(1)
    world.finish(finished(job, lease, go_on(), cost="0.002"))
    (again,) = world.take(lease, [DispatchedJob(job.id, 2, 1, 1)], route=OTHER_ROUTE)
    world.finish(finished(again, lease, WAIT, outcome=Outcome.TIMEOUT, cost="0.9", estimated=True))
    third = world.take(lease, world.dispatch())
    world.end(lease, third, cost="0.003")
    assert _result(world, job.id).cost_usd == Decimal("0.005"), "the estimate of the timeout is separate"


def test_a_job_whose_answer_has_no_price_has_no_cost(world: World) -> None:
    lease, (job,) = world.running(1)
    world.end(lease, [job], cost=None)
    assert _result(world, job.id).cost_usd is None


def test_batch_counters_say_how_each_ended(world: World) -> None:
    world.batch("contracts", *specs(6))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    failed = End(JobState.FAILED, outcome=Outcome.INVALID, error="no")
    expired = End(JobState.EXPIRED, outcome=Outcome.TIMEOUT, error="late")
    thens: list[Next] = [SUCCESS, SUCCESS, failed, expired, WAIT]
    world.finish(*(finished(job, lease, then) for job, then in zip(jobs, thens, strict=False)))
    progress = world.progress("contracts")
    assert (progress.total, progress.succeeded, progress.failed, progress.expired, progress.cancelled) == (
        6,
        2,
        1,
        1,
        0,
    )
    assert (progress.ended, progress.running, progress.waiting, progress.done) == (4, 1, 1, False)


def test_numbers_within_a_batch_are_gapless_with_any_number_of_finishers(world: World) -> None:
    """Four workers finish at once; a reader that remembers the last number it saw misses nothing."""
    batch = world.batch("contracts", *specs(100))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    seen: list[str] = []
    numbers: list[int] = []
    over = threading.Event()

    def read() -> None:
        last = False
        while not last:
            last = over.is_set()
            with world.store.read() as connection:
                page = batch_page(connection, batch.id, numbers[-1] if numbers else 0, 100)
            seen.extend(row.id for row in page)
            numbers.extend(row.batch_seq or 0 for row in page)

    def work(share: int) -> None:
        mine = jobs[share::4]
        for at in range(0, len(mine), 5):
            world.end(lease, mine[at : at + 5])

    reader = InThread(read)
    together(*[lambda n=n: work(n) for n in range(4)])
    over.set()
    reader.result()
    assert numbers == list(range(1, 101))
    assert sorted(seen) == sorted(job.id for job in jobs)
    progress = world.progress("contracts")
    assert (progress.ended, progress.succeeded, progress.done) == (100, 100, True)
    assert progress.cost_usd == Decimal(1)


def test_a_group_may_end_jobs_of_several_batches(world: World) -> None:
    one, two = world.batch("one", *specs(2)), world.batch("two", *specs(2))
    world.add(spec("alone"))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    written = world.end(lease, jobs)
    assert written.ended_batches == tuple(sorted([one.id, two.id]))
    assert world.progress("one").done
    assert world.progress("two").done


def test_groups_that_share_batches_do_not_lock_each_other_out(postgres_world: World) -> None:
    world = postgres_world
    for name in ("one", "two", "three"):
        world.batch(name, *specs(40))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(120))
    together(
        lambda: [world.end(lease, jobs[at : at + 6]) for at in range(0, 60, 6)],
        lambda: [world.end(lease, list(reversed(jobs[at : at + 6]))) for at in range(60, 120, 6)],
    )
    assert world.states() == {"succeeded": 120}


def test_a_finish_and_a_batch_cancel_do_not_lock_each_other_out(postgres_world: World) -> None:
    world = postgres_world
    batch = world.batch("contracts", *specs(2))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())

    def cancel() -> None:
        with world.store.write() as connection:
            cancelling.begin_cancel(world.store, connection, batch.id)

    with world.store.write() as connection:
        # the jobs' rows are held, the batch's is not yet
        connection.exec_driver_sql("SELECT 1 FROM jobs FOR UPDATE")
        cancelling_ = InThread(cancel)
        until_blocked(world, cancelling_)
        finish(world.store, connection, [finished(job, lease) for job in jobs])
    cancelling_.result()
    assert world.states() == {"succeeded": 2}


def test_a_late_finish_and_a_rescue_do_not_lock_each_other_out(postgres_world: World) -> None:
    world = postgres_world
    lease, jobs = world.running(2)
    world.let_die(lease)
    with world.store.write() as connection:
        # a rescuer holds one job and has not come to the attempts yet
        connection.exec_driver_sql("SELECT 1 FROM jobs WHERE id = %(id)s FOR UPDATE", {"id": jobs[1].id})
        late = InThread(lambda: world.end(lease, jobs))
        until_blocked(world, late)
        connection.exec_driver_sql("UPDATE attempts SET outcome = 'unknown' WHERE outcome IS NULL")
    assert len(late.result().ended_jobs) == 2


def test_a_job_claimed_at_the_moment_of_a_cancel_ends_with_its_call(world: World) -> None:
    """The job was not asked to stop, and must not wait where nobody claims any more."""
    batch = world.batch("contracts", *specs(1))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
    world.sql("UPDATE jobs SET cancel_requested = false")
    world.end(lease, jobs, WAIT)
    assert world.states() == {"cancelled": 1}
    assert world.progress("contracts").done


def test_settling_keeps_every_kind_of_token(world: World) -> None:
    _, (job,) = world.running(1)
    usage = Usage(1, 2, 3, 4, 5)
    settlement = Settlement(
        job.attempt_id, Outcome.SUCCEEDED, 1.25, usage=usage, cost_usd=Decimal("1.5"), list_price='{"input": "3"}',
        multipliers='{"region": "1.1"}', price_version="2026-11", price_terms='{"region":"eu"}',
    )  # fmt: skip
    world.finish(Transition(job, settlement, SUCCESS))
    (row,) = world.sql("SELECT * FROM attempts")
    assert {row.input_tokens, row.output_tokens, row.cache_read_tokens} == {
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens,
    }  # fmt: skip
    assert (row.cache_write_5m_tokens, row.cache_write_1h_tokens) == (
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
    )
    assert (row.list_price, row.multipliers, row.price_version) == ('{"input": "3"}', '{"region": "1.1"}', "2026-11")
    assert row.price_terms == '{"region":"eu"}'


def test_a_cause_that_a_provider_chose_fits_its_column(world: World) -> None:
    with world.store.write() as connection:
        health.note(connection, ROUTE, "*", RouteState.OPEN, "unusable: a\x00b\ud800c", 1000.0, 15.0)
        (noted,) = health.noted(connection)
    assert noted == (ROUTE, "*", RouteState.OPEN, "unusable: ab\ufffdc", 1000.0, 1015.0)


def test_what_a_late_call_cost_is_in_the_sums_of_its_job_and_batch(world: World) -> None:
    batch = world.batch("contracts", *specs(1))
    late = world.lease()
    (job,) = world.take(late, world.dispatch(1))
    world.let_die(late)
    world.rescue()
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(1)), cost="0.25")
    assert world.progress(batch.name).cost_usd == Decimal("0.25")
    assert world.end(late, [job], cost="0.5").refused == (job.id,)
    with world.store.read() as connection:
        assert jobs_by_id(connection, [job.id])[job.id].cost_usd == Decimal("0.75")
    assert world.progress(batch.name).cost_usd == Decimal("0.75")
    world.end(late, [job], cost="0.5")
    assert world.progress(batch.name).cost_usd == Decimal("0.75"), "told twice it counts once"
