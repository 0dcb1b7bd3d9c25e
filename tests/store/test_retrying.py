"""Retrying failed jobs: what is reset, what stays, and what the batch counts meanwhile."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any

import pytest
from tests.store.world import ROUTE, SUCCESS, InThread, World, finished, go_on, spec, specs, together, until_blocked

from trivet_store.jobs import batches, cancelling, retrying
from trivet_store.jobs.enqueue import BatchRef
from trivet_store.jobs.upkeep import empty_flows, retire_if_empty
from trivet_store.reports import results
from trivet_store.steps import ClaimedJob, End
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

FAILURE = End(JobState.FAILED, outcome=Outcome.INVALID, error="the provider's words")
FAILED = frozenset({JobState.FAILED})
EXPIRED = frozenset({JobState.EXPIRED})


def retry_group(world: World, batch: BatchRef, states: Collection[JobState] = FAILED, **how: Any) -> Any:
    with world.store.write() as connection:
        return retrying.retry_group(
            world.store, connection, batch.id, states, classes=DEFAULTS, **{"after": 0, "upto": 1_000_000, **how}
        )


def retry(world: World, batch: BatchRef, states: Collection[JobState] = FAILED) -> list[str]:
    """As a client does it: group by group."""
    with world.store.read() as connection:
        upto = retrying.begin_retry(connection, batch.id)
    ids: list[str] = []
    after = 0
    while (group := retry_group(world, batch, states, after=after, upto=upto)) is not None:
        ids += group.ids
        after = group.last
    return ids


def retry_job(world: World, job_id: str) -> bool | None:
    with world.store.write() as connection:
        return retrying.retry_job(world.store, connection, job_id, classes=DEFAULTS)


def filled(
    world: World, fail: int, succeed: int = 0, **terms: Any
) -> tuple[BatchRef, str, list[ClaimedJob], list[ClaimedJob]]:
    """A batch of which so many failed and then so many succeeded, at 0.01 each."""
    batch = world.batch("contracts", *specs(fail + succeed, **terms))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(fail + succeed))
    world.end(lease, jobs[:fail], FAILURE)
    if succeed:
        world.end(lease, jobs[fail:])
    return batch, lease, jobs[:fail], jobs[fail:]


def test_only_what_failed_runs_again_with_its_id_its_key_and_its_attempts(world: World) -> None:
    batch = world.batch("contracts", *(spec(f"d{n}", key=f"k{n}") for n in range(5)))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    world.end(lease, jobs[:2], FAILURE)
    world.end(lease, jobs[2:4])
    before = {job.id: world.job(job.id) for job in jobs}
    assert sorted(retry(world, batch)) == sorted(job.id for job in jobs[:2])
    for job in jobs[:2]:
        now, was = world.job(job.id), before[job.id]
        assert (now.state, now.ended_at, now.batch_seq, now.key) == ("waiting", None, None, was.key)
        assert (now.round, now.round_spent_s, now.tried, now.doubted_by, now.isolated_crashes) == (0, 0, "", None, 0)
        assert (now.route, now.lease_id, now.last_error, now.attempts) == (None, None, None, 1)
        assert now.claim == was.claim, "the fencing number never falls"
        assert now.created_at == was.created_at
    for job in jobs[2:]:
        assert world.job(job.id) == before[job.id], "what succeeded or runs is left alone"
    assert world.value("SELECT count(*) FROM job_results") == 2
    assert world.value("SELECT count(*) FROM attempts") == 5
    assert retry(world, batch) == [], "there is none any more"

    (again,) = world.take(lease, world.dispatch(1))
    world.end(lease, [again])
    with world.store.read() as connection:
        row = results.jobs_by_id(connection, [again.id])[again.id]
        calls = results.attempts_of(connection, [again.id])[again.id]
        (ended_before,) = results.retries_of(connection, again.id)
    assert (row.state, row.batch_seq, row.cost_usd) == ("succeeded", 5, Decimal("0.02"))
    assert [call.outcome for call in calls] == ["overloaded", "succeeded"]
    assert (ended_before.state, ended_before.error_outcome) == ("failed", "invalid")
    assert ended_before.error_message == "the provider's words"
    assert ended_before.ended_at == before[again.id].ended_at <= ended_before.at


def test_the_counters_go_back_and_the_cost_of_the_batch_stays_exact(world: World) -> None:
    batch, lease, failed, _ = filled(world, fail=3, succeed=2)
    progress = world.progress("contracts")
    assert (progress.failed, progress.succeeded, progress.cost_usd) == (3, 2, Decimal("0.05"))
    assert progress.done
    retry(world, batch)
    progress = world.progress("contracts")
    assert (progress.failed, progress.ended, progress.total, progress.waiting) == (0, 2, 5, 3)
    assert progress.cost_usd == Decimal("0.02"), "that of the ended ones"
    assert not progress.done
    again = world.take(lease, world.dispatch())
    assert {job.id for job in again} == {job.id for job in failed}
    world.end(lease, again[:2], cost="0.3")
    world.end(lease, again[2:], FAILURE, cost=None)
    progress = world.progress("contracts")
    assert (progress.failed, progress.succeeded, progress.done) == (1, 4, True)
    assert progress.cost_usd == Decimal("0.65")
    costs = world.sql("SELECT sum(cost_usd) AS sum FROM attempts WHERE NOT estimated")
    assert costs[0].sum == (Decimal("0.65") if not world.store.sqlite else 650_000_000_000)


def test_an_unpriced_job_takes_nothing_from_the_batch(world: World) -> None:
    batch = world.batch("contracts", *specs(2))
    lease = world.lease()
    one, other = world.take(lease, world.dispatch())
    world.end(lease, [one], cost="0.5")
    world.finish(finished(other, lease, FAILURE, outcome=Outcome.SUCCEEDED, cost=None))
    assert world.value("SELECT count(*) FROM job_results WHERE cost_usd IS NULL") == 1
    assert retry(world, batch) == [other.id]
    assert world.progress("contracts").cost_usd == Decimal("0.5")


def test_who_reads_on_sees_the_new_results_behind_the_old_ones(world: World) -> None:
    batch, lease, failed, _ = filled(world, fail=2, succeed=1)
    with world.store.read() as connection:
        seen = results.batch_page(connection, batch.id, 0, 10)
    assert [job.batch_seq for job in seen] == [1, 2, 3]
    retry(world, batch)
    world.end(lease, world.take(lease, world.dispatch()))
    with world.store.read() as connection:
        new = results.batch_page(connection, batch.id, 3, 10)
        whole = results.batch_page(connection, batch.id, 0, 10)
    assert [(job.batch_seq, job.state) for job in new] == [(4, "succeeded"), (5, "succeeded")]
    assert {job.id for job in new} == {job.id for job in failed}
    assert [job.batch_seq for job in whole] == [3, 4, 5], "each job once"


def test_expired_jobs_run_again_when_asked_for_with_their_whole_time(world: World) -> None:
    batch = world.batch("contracts", spec("late", deadline_at=world.now() + 100), spec("never"))
    (late,) = world.sql("SELECT * FROM jobs WHERE deadline_at IS NOT NULL")

    def let_it_expire() -> None:
        # the clock is not ours: its whole life moves into the past instead
        world.sql(
            "UPDATE jobs SET deadline_at = deadline_at - 200, created_at = created_at - 200 WHERE id = :id", id=late.id
        )
        world.sql("UPDATE retries SET at = at - 200")
        assert world.expire()[0] == [late.id]

    let_it_expire()
    assert retry(world, batch) == [], "nothing failed"
    for _ in range(2):  # the second time it is as long, too
        assert retry(world, batch, EXPIRED) == [late.id]
        progress = world.progress("contracts")
        assert (progress.expired, progress.ended) == (0, 0)
        again = world.job(late.id)
        assert again.state == "waiting"
        assert again.deadline_at == pytest.approx(world.now() + 100, abs=30)
        assert world.expire()[0] == []
        let_it_expire()
    with world.store.read() as connection:
        assert [end.state for end in results.retries_of(connection, late.id)] == ["expired", "expired"]


def test_it_is_in_line_behind_the_waiting_jobs_of_its_batch(world: World) -> None:
    batch = world.batch("contracts", *specs(6))
    lease = world.lease()
    first = world.take(lease, world.dispatch(2))
    world.end(lease, first, FAILURE)
    world.batch("letters", *(spec(f"letter {n}") for n in range(4)))
    retry(world, batch)
    order = [job.id for job in world.dispatch(100)]
    assert len(order) == 10
    assert {*order[-2:]} == {job.id for job in first}


def test_an_emptied_flow_is_looked_at_again(world: World) -> None:
    batch, *_ = filled(world, fail=2)
    with world.store.write() as connection:
        for flow in empty_flows(connection, 10):
            retire_if_empty(connection, flow)
    assert world.value("SELECT count(*) FROM flows WHERE active") == 0
    retry(world, batch)
    assert len(world.dispatch()) == 2


def test_a_batch_that_is_being_filled_is_held_still(world: World) -> None:
    batch, *_ = filled(world, fail=2)
    group = specs(1, model="claude-haiku-4-5")
    with world.store.write() as connection:
        loading = batches.begin_loading(world.store, connection, "contracts")
        world.insert(connection, group, batch)
        batches.advance(connection, loading, [one.fingerprint for one in group])
    assert len(retry(world, batch)) == 2
    assert world.dispatch() == []
    world.open(batch)
    assert len(world.dispatch()) == 3


def test_a_cancelled_batch_refuses_and_says_so(world: World) -> None:
    batch, _, failed, _ = filled(world, fail=1)
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
    for ask in (lambda: retry(world, batch), lambda: retry_group(world, batch), lambda: retry_job(world, failed[0].id)):
        with pytest.raises(InvalidRequest, match="'contracts' was cancelled"):
            ask()
    assert world.job(failed[0].id).state == "failed"


def test_a_result_of_before_is_refused(world: World) -> None:
    lease, (job,) = world.running(1)
    world.end(lease, [job], FAILURE)
    assert retry_job(world, job.id) is True
    assert world.end(lease, [job]).refused == (job.id,)
    (claimed,) = world.dispatch()
    assert world.take(lease, [claimed._replace(claim=job.claim)]) == [], "nor is it claimed under the old token"
    (again,) = world.take(lease, [claimed])
    assert world.end(lease, [job]).refused == (job.id,)
    assert world.end(lease, [again]).ended_jobs == (job.id,)


def test_one_job_runs_again_when_it_failed_or_expired_and_not_otherwise(world: World) -> None:
    lease, jobs = world.running(3)
    world.end(lease, jobs[:1], FAILURE)
    world.end(lease, jobs[1:2])
    (late,) = world.add(spec("late", deadline_at=2.0))
    world.expire()
    probe = world.probe()
    world.end(lease, world.take(lease, [probe]), FAILURE)
    assert [retry_job(world, job.id) for job in jobs] == [True, False, False]
    assert retry_job(world, jobs[0].id) is False, "it waits already"
    assert retry_job(world, late.id) is True
    assert retry_job(world, probe.id) is False, "a probe is nobody's job"
    assert retry_job(world, "nobody") is None


def test_a_cancel_that_came_too_late_does_not_stop_the_next_try(world: World) -> None:
    lease, (job,) = world.running(1)
    world.sql("UPDATE jobs SET cancel_requested = true, crashes = 2, isolated_crashes = 3 WHERE id = :id", id=job.id)
    world.sql("UPDATE jobs SET cancel_requested = false WHERE id = :id", id=job.id)
    world.end(lease, [job], FAILURE)
    world.sql("UPDATE jobs SET cancel_requested = true WHERE id = :id", id=job.id)
    assert retry_job(world, job.id)
    row = world.job(job.id)
    assert (bool(row.cancel_requested), row.crashes, row.isolated_crashes) == (False, 2, 0)
    world.finish(finished(world.take(lease, world.dispatch())[0], lease, go_on(ROUTE)))
    assert world.job(job.id).state == "dispatched"


def test_what_fails_again_meanwhile_is_not_retried_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BULK_ROWS", 2)
    batch, lease, failed, _ = filled(world, fail=6)
    with world.store.read() as connection:
        upto = retrying.begin_retry(connection, batch.id)
    after, again = 0, []
    while (group := retry_group(world, batch, after=after, upto=upto)) is not None:
        again += group.ids
        after = group.last
        world.end(lease, world.take(lease, world.dispatch()), FAILURE)
    assert sorted(again) == sorted(job.id for job in failed)
    assert sorted(row.batch_seq for row in world.sql("SELECT batch_seq FROM jobs")) == list(range(7, 13))


def test_a_retry_that_broke_off_is_gone_on_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BULK_ROWS", 3)
    batch, *_ = filled(world, fail=7)
    assert len(retry_group(world, batch).ids) == 3
    assert len(retry(world, batch)) == 4
    assert world.states() == {"waiting": 7}


def test_two_at_once_run_each_job_again_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BULK_ROWS", 5)
    batch, *_ = filled(world, fail=60)
    got: list[list[str]] = []
    together(*[lambda: got.append(retry(world, batch))] * 3)
    assert sum(len(ids) for ids in got) == len({job_id for ids in got for job_id in ids}) == 60
    progress = world.progress("contracts")
    assert (progress.failed, progress.ended, progress.waiting, progress.cost_usd) == (0, 0, 60, Decimal(0))
    assert world.value("SELECT count(*) FROM retries") == 60


def test_two_at_one_group_do_not_count_it_twice(postgres_world: World) -> None:
    """The second picked the same jobs before it was blocked."""
    world = postgres_world
    batch, *_ = filled(world, fail=4)
    with world.store.write() as connection:
        first = retrying.retry_group(world.store, connection, batch.id, FAILED, classes=DEFAULTS, after=0, upto=4)
        second = InThread(lambda: retry_group(world, batch, upto=4))
        until_blocked(world, second)
        assert not second.over
    assert first is not None
    assert len(first.ids) == 4
    assert second.result().ids == ()
    assert world.progress("contracts").waiting == 4


def test_beside_workers_cancels_and_fillers_nothing_is_lost_or_locked_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of several flows, because their rows are locked one after the other."""
    monkeypatch.setattr(retrying, "BULK_ROWS", 20)
    monkeypatch.setattr(cancelling, "BULK_ROWS", 20)
    models = ["claude-sonnet-5-5", "claude-haiku-4-5", "claude-opus-4-5"]
    kinds = [spec(f"d{n}", model=models[n % 3], latency=[Latency.BATCH, Latency.ASYNC][n % 2]) for n in range(90)]
    batch, other = world.batch("contracts", *kinds), world.batch("letters", *kinds)
    lease = world.lease()
    rounds = 12

    def work() -> None:
        for number in range(rounds * 2):
            if claimed := world.dispatch(30):
                for at, job in enumerate(world.take(lease, claimed)):
                    world.end(lease, [job], SUCCESS if (number + at) % 3 == 0 else FAILURE)

    def again() -> None:
        for _ in range(rounds):
            retry(world, batch)

    def fill() -> None:
        for number in range(rounds):
            group = [spec(f"more {number} {n}", model=models[n]) for n in range(3)]
            with world.store.write() as connection:
                loading = batches.begin_loading(world.store, connection, "contracts")
                world.insert(connection, group, batch)
                batches.advance(connection, loading, [one.fingerprint for one in group])
            world.open(batch)

    def cancel() -> None:
        with world.store.write() as connection:
            cancelling.begin_cancel(world.store, connection, other.id)
        while True:
            with world.store.write() as connection:
                if not cancelling.cancel_waiting(world.store, connection, other.id):
                    return

    together(work, again, again, fill, cancel)
    rows = world.sql("SELECT * FROM jobs WHERE batch_id = :id", id=batch.id)
    progress = world.progress("contracts")
    assert len(rows) == progress.total == 90 + 3 * rounds
    counts = world.states()
    assert sum(counts.values()) == 180 + 3 * rounds
    mine = [row.state for row in rows]
    assert (progress.failed, progress.succeeded) == (mine.count("failed"), mine.count("succeeded"))
    numbers = [row.batch_seq for row in rows if row.batch_seq is not None]
    assert len(numbers) == len(set(numbers)) == progress.ended
    ended = [row.id for row in rows if row.ended_at is not None]
    with world.store.read() as connection:
        found = results.jobs_by_id(connection, ended)
    assert progress.cost_usd == sum((job.cost_usd or Decimal(0) for job in found.values()), Decimal(0))
    assert world.progress("letters").state == "cancelled"
