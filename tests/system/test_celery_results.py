"""`AsyncResult`, `ResultSet` and `GroupResult` of jobs, as a Celery programmer uses them."""

import multiprocessing
import pickle
import time
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult, GroupResult, ResultSet, allow_join_result, denied_join_result
from tests.databases import database_of
from tests.timing import until

from trivet.celery.application import TrivetApp
from trivet.celery.failures import JobFailed
from trivet.testing import RunningTrivet
from trivet_tasks.errors import NotFound

WAIT_S = 90.0
TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 40}


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"line {number} {time.time_ns()}"} for number in range(count)]


def test_a_callback_gets_each_answer_and_nothing_else_is_kept(system: RunningTrivet, app: TrivetApp) -> None:
    jobs = [system.client.submit(**each, **TERMS) for each in prompts(3)]
    results = [AsyncResult(job.id, app=app) for job in jobs]
    seen: dict[str, Any] = {}
    assert results[0].get(timeout=WAIT_S, callback=seen.__setitem__).id == jobs[0].id
    ResultSet(results, app=app).get(timeout=WAIT_S, callback=seen.__setitem__)
    assert {job_id: answer.id for job_id, answer in seen.items()} == {job.id: job.id for job in jobs}
    assert [answer.id for answer in ResultSet(results, app=app).get()] == [job.id for job in jobs]
    assert {job_id for job_id, _ in ResultSet(results, app=app).iter_native(timeout=WAIT_S)} == set(seen)
    assert results[0].as_tuple() == ((jobs[0].id, None), None)
    assert (results[0].children, results[0].parent) == ([], None)
    assert [value.id for _, value in results[0].collect()] == [jobs[0].id]


def test_an_unknown_id_is_told_from_a_waiting_job_and_from_a_batch(system: RunningTrivet, app: TrivetApp) -> None:
    batch = system.client.submit_many(prompts(2), not_before=3_600.0, **TERMS)
    waiting = AsyncResult(batch.job_ids()[0], app=app)
    assert (waiting.state, waiting.exists(), AsyncResult("nobody", app=app).exists()) == ("PENDING", True, False)
    with pytest.raises(NotFound, match=r"no job but a batch. Use GroupResult.restore"):
        AsyncResult(batch.name, app=app).get(timeout=WAIT_S)
    assert GroupResult.restore(waiting.id, app=app) is None
    with pytest.raises(CeleryTimeout, match=batch.name):
        GroupResult.restore(batch.name, app=app).get(timeout=0.05)
    with pytest.raises(CeleryTimeout, match=waiting.id):
        ResultSet([waiting], app=app).get(timeout=0.05)
    with pytest.raises(NotImplementedError, match="`trivet db prune`"):
        waiting.forget()
    GroupResult.restore(batch.name, app=app).revoke()


def test_a_group_counts_by_the_batch_and_is_revoked_as_one(system: RunningTrivet, app: TrivetApp) -> None:
    system.simulator.fault("anthropic", "context_too_long", contains="bad")
    system.simulator.fault("bedrock", "context_too_long", contains="bad")
    system.simulator.fault("vertex", "context_too_long", contains="bad")
    batch = system.client.submit_many([*prompts(4), {"prompt": "bad"}], **TERMS)
    group = GroupResult.restore(batch.name, app=app)
    answers = group.get(timeout=WAIT_S, propagate=False)
    assert [getattr(answer, "id", None) for answer in answers[:4]] == batch.job_ids()[:4]
    assert isinstance(answers[4], JobFailed)
    assert (group.ready(), group.waiting(), group.successful(), group.failed()) == (True, False, False, True)
    assert (group.completed_count(), len(group)) == (4, 5)
    with pytest.raises(JobFailed):
        group.get(timeout=WAIT_S)
    group.save()
    with pytest.raises(NotImplementedError, match="a group is a batch"):
        GroupResult("mine", [group[0]], app=app).save()

    later = system.client.submit_many(prompts(3), not_before=3_600.0, **TERMS)
    revoked = GroupResult.restore(later.name, app=app)
    assert (revoked.ready(), revoked.completed_count()) == (False, 0)
    revoked.revoke()
    assert later.progress().state == "cancelled"
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=WAIT_S)


def test_the_states_of_a_large_group_take_one_read(system: RunningTrivet, app: TrivetApp) -> None:
    batch = system.client.submit_many(prompts(300), not_before=3_600.0, **TERMS)
    group = GroupResult.restore(batch.name, app=app)
    reads = 0
    progress = type(group.batch).progress

    def counted(of_batch: Any) -> Any:
        nonlocal reads
        reads += 1
        return progress(of_batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(group.batch), "progress", counted)
        patch.setattr(AsyncResult, "state", property(lambda _: pytest.fail("a job was asked for by itself")))
        assert (group.ready(), group.completed_count(), group.waiting()) == (False, 0, True)
    assert reads == 3
    batch.cancel()


def read_in_child(pickled: bytes) -> tuple[str, str]:
    """Read a pickled result where nothing is known of Trivet but its configuration file."""
    result = pickle.loads(pickled)
    return result.state, result.get(timeout=WAIT_S).text


def test_results_are_pickled_without_passwords_and_read_in_another_process(
    system: RunningTrivet, app: TrivetApp
) -> None:
    batch = system.client.submit_many(prompts(2), **TERMS)
    group = GroupResult.restore(batch.name, app=app)
    (first, _) = group.get(timeout=WAIT_S)
    pickled = pickle.dumps(group[0])
    password = app.conf.broker_url.rpartition("@")[0]
    assert not password or password.encode() not in pickled
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_in_child, (pickled,)) == ("SUCCESS", first.text)
    again = pickle.loads(pickle.dumps(group))
    assert ([each.id for each in again], again.completed_count()) == (batch.job_ids(), 2)
    assert len(pickle.dumps(group)) < 500
    again.app.close()


def test_a_task_must_allow_to_wait(system: RunningTrivet, app: TrivetApp) -> None:
    job = system.client.submit(**prompts(1)[0], **TERMS)
    with denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task"):
            AsyncResult(job.id, app=app).get(timeout=WAIT_S)
        with allow_join_result():
            assert AsyncResult(job.id, app=app).get(timeout=WAIT_S).id == job.id


def test_a_deleted_result_is_no_answer(system: RunningTrivet, app: TrivetApp) -> None:
    job = system.client.submit(**prompts(1)[0], **TERMS)
    assert job.result(timeout=WAIT_S).status == "succeeded"
    with database_of(system.settings) as store, store.write() as connection:
        connection.exec_driver_sql(f"DELETE FROM job_results WHERE job_id = '{job.id}'")
    until(lambda: job.look().pruned, "it to be gone", WAIT_S)
    with pytest.raises(JobFailed, match="succeeded, and its result was deleted"):
        AsyncResult(job.id, app=app).get(timeout=WAIT_S)
