"""Reading the results of jobs."""

from decimal import Decimal

from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, finished, go_on, spec, specs

from trivet_store.reports import results
from trivet_store.steps import End
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState


def test_a_job_that_has_not_ended_has_no_result_yet(world: World) -> None:
    (accepted,) = world.add(
        spec(key="k1", latency=Latency.ASYNC, tenant="acme", tags={"a": "b"}, deadline_at=world.now() + 60)
    )
    with world.store.read() as connection:
        job = results.jobs_by_id(connection, [accepted.id, "nobody"])[accepted.id]
        assert results.job_by_key(connection, "k1", "acme") == job
        assert results.job_by_key(connection, "k2", "acme") is None
    assert (job.state, job.latency, job.model, job.batch, job.tenant, job.tags) == (
        "waiting", "async", MODEL, None, "acme", {"a": "b"},
    )  # fmt: skip
    assert (job.message, job.cost_usd, job.latency_s, job.ended_at, job.cached) == (None, None, None, None, False)


def test_a_running_job_says_where_it_is(world: World) -> None:
    _, (job,) = world.running(1)
    with world.store.read() as connection:
        assert results.jobs_by_id(connection, [job.id])[job.id].route == ROUTE


def test_an_ended_job_has_all_of_it(world: World) -> None:
    world.batch("contracts", spec("hello", key="k1"))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    world.end(lease, jobs, cost="0.5")
    with world.store.read() as connection:
        (job,) = results.jobs_of_line(connection, 1, "k1")
        assert results.job_by_key(connection, "k1") is None
    assert (job.batch, job.batch_seq, job.state, job.cost_usd) == ("contracts", 1, "succeeded", Decimal("0.5"))
    assert isinstance(job.message, bytes)
    assert isinstance(job.cached, bool)


def test_an_answer_is_in_no_repr(world: World) -> None:
    lease, jobs = world.running(1)
    end = End(JobState.SUCCEEDED, message=b'{"content": "s3cret"}', stop_reason="end_turn")
    ended = finished(jobs[0], lease, end)
    world.finish(ended)
    with world.store.read() as connection:
        job = results.jobs_by_id(connection, [jobs[0].id])[jobs[0].id]
    assert (job.state, job.message) == (JobState.SUCCEEDED, end.message)
    for shown in (end, ended, job):
        assert "s3cret" not in repr(shown)


def test_pages_go_on_where_the_last_one_ended(world: World) -> None:
    batch = world.batch("contracts", *specs(7))
    world.add(spec("not of it"))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch())
    for job in jobs:
        world.end(lease, [job])
    with world.store.read() as connection:
        first = results.batch_page(connection, batch.id, 0, 4)
        second = results.batch_page(connection, batch.id, 4, 4)
        third = results.batch_page(connection, batch.id, 7, 4)
    assert [job.batch_seq for job in first + second] == [1, 2, 3, 4, 5, 6, 7]
    assert [job.id for job in first + second] == [job.id for job in jobs if job.batch_id == batch.id]
    assert third == []


def test_the_newest_jobs_come_first(world: World) -> None:
    batch = world.batch("contracts", *specs(2))
    last = world.add(*specs(3))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(1)))
    with world.store.read() as connection:
        newest = results.recent_jobs(connection, state=None, batch_id=None, limit=4)
        waiting = results.recent_jobs(connection, state=JobState.WAITING, batch_id=batch.id, limit=10)
        ended = results.recent_jobs(connection, state=JobState.SUCCEEDED, batch_id=None, limit=10)
    assert [job.id for job in newest[:3]] == [entry.id for entry in reversed(last)]
    assert len(newest) == 4
    assert len(waiting) + len(ended) in (2, 3)
    assert len(ended) == 1


def test_attempts_come_in_order(world: World) -> None:
    lease, (job,) = world.running(1)
    world.finish(finished(job, lease, go_on(), cost=None))
    (again,) = world.take(lease, [DispatchedJob(job.id, 2, 1, 1)], route=OTHER_ROUTE)
    failed = End(JobState.FAILED, outcome=Outcome.INVALID, error="no")
    world.finish(finished(again, lease, failed, outcome=Outcome.INVALID))
    with world.store.read() as connection:
        found = results.attempts_of(connection, [job.id, "nobody"])
    assert found["nobody"] == []
    assert [(a.route, a.outcome, a.cost_usd, a.estimated) for a in found[job.id]] == [
        (ROUTE, "overloaded", None, False),
        (OTHER_ROUTE, "invalid", Decimal("0.01"), False),
    ]


def test_nothing_asked_is_nothing_found(world: World) -> None:
    with world.store.read() as connection:
        assert results.jobs_by_id(connection, []) == {}
        assert results.attempts_of(connection, []) == {}
