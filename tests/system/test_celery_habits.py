"""Habits of people who know Celery, by the table in docs/explanation/celery.md: one test a row, here or elsewhere."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery.result import AsyncResult
from kombu import Connection
from tests.celery_command import Celery
from tests.databases import rows
from tests.foreign_calls import other_app
from tests.stopped_workers import stopped
from tests.timing import until

from trivet.celery.application import TrivetApp
from trivet.celery.failures import JobFailed
from trivet.testing import RunningTrivet
from trivet_simulator.calls import Call
from trivet_tasks.latency import Latency
from trivet_tasks.shared_state import connect

WAIT_S = 90.0
SLOW_S = 30.0
ROUTE, QUEUE = "anthropic", "anthropic.batch"
PROVIDERS = ("anthropic", "bedrock", "vertex")
TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 40}


@pytest.fixture
def shared(system: RunningTrivet) -> Iterator[redis.Redis]:
    client = connect(system.settings.redis_url)
    yield client
    client.close()


def prompt(word: str) -> str:
    return f"{word} {time.time_ns()}"


def messages(system: RunningTrivet, shared: redis.Redis) -> int:
    return sum(shared.llen(f"{route}.{latency}") for route in system.settings.routes for latency in Latency)


@pytest.mark.habit("acks_late")
@pytest.mark.habit("visibility_timeout")
def test_no_message_is_left_to_be_delivered_again_while_a_job_runs(
    system: RunningTrivet, app: TrivetApp, shared: redis.Redis
) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=2)
    job = system.client.submit(prompt("slow"), **TERMS)
    until(lambda: job.state == "running", "it to run", WAIT_S)
    assert shared.hlen("unacked") == 0
    other = other_app(app.conf.broker_url)
    other.conf.broker_transport_options = {"visibility_timeout": 0}
    with other.connection_for_read() as connection:
        assert isinstance(connection, Connection)
        connection.default_channel.qos.restore_visible(num=1_000)
    other.close()
    assert job.result(timeout=WAIT_S).status == "succeeded"
    assert [attempt.outcome for attempt in job.result().attempts] == ["succeeded"]
    assert app.conf.task_acks_late is False


@pytest.mark.habit("retry")
def test_a_failed_call_is_made_again_elsewhere_by_trivet(system: RunningTrivet) -> None:
    for provider in PROVIDERS:
        system.simulator.fault(provider, "server_error", times=1)
    result = system.client.submit(prompt("again"), **TERMS).result(timeout=WAIT_S)
    assert result.status == "succeeded"
    failed = [attempt.route for attempt in result.attempts if attempt.outcome != "succeeded"]
    assert len(failed) == len(set(failed)) == len(PROVIDERS)


@pytest.mark.habit("eta")
def test_a_job_for_later_is_in_no_queue(system: RunningTrivet, app: TrivetApp, shared: redis.Redis) -> None:
    later = system.client.submit(prompt("later"), not_before=3_600.0, **TERMS)
    soon = system.client.submit(prompt("soon"), not_before=1.0, **TERMS)
    submitted = time.time()
    assert soon.result(timeout=WAIT_S).status == "succeeded"
    assert min(attempt.started_at for attempt in soon.result().attempts) > submitted
    assert (later.state, AsyncResult(later.id, app=app).state) == ("delayed", "PENDING")
    assert (messages(system, shared), shared.hlen("unacked")) == (0, 0)
    later.cancel()


@pytest.mark.habit("expires")
def test_a_job_that_is_too_late_expires(system: RunningTrivet, app: TrivetApp) -> None:
    for route in system.settings.routes:
        system.admin.routes.drain(route)
    job = system.client.submit(prompt("too late"), deadline=1.0, **TERMS)
    with pytest.raises(JobFailed):
        AsyncResult(job.id, app=app).get(timeout=WAIT_S)
    for route in system.settings.routes:
        system.admin.routes.restore(route)
    assert (job.state, AsyncResult(job.id, app=app).state) == ("expired", "FAILURE")
    assert job.result().attempts == ()


@pytest.mark.habit("priority")
def test_each_route_has_a_queue_for_each_class(system: RunningTrivet, app: TrivetApp) -> None:
    unhurried = [latency for latency in Latency if latency != Latency.REALTIME]
    jobs = [system.client.submit(prompt(latency), latency=latency, **TERMS) for latency in unhurried]
    assert {job.result(timeout=WAIT_S).status for job in jobs} == {"succeeded"}
    served = until(
        lambda: app.control.inspect(timeout=5, limit=2).active_queues(),
        "both",
        fits=lambda found: len(found or {}) == 2,
    )
    assert {queue["name"] for of_one in served.values() for queue in of_one} == {
        f"{route}.{latency}" for route in system.settings.routes for latency in Latency
    }


@pytest.mark.habit("rate_limit")
def test_a_limit_of_a_route_holds_over_its_workers(system: RunningTrivet) -> None:
    others = [route for route in system.settings.routes if route != ROUTE]
    for route in others:
        system.admin.routes.drain(route)
    system.admin.routes.limit(ROUTE, {"max_concurrency": 1})
    system.simulator.latency("anthropic", median_s=1)

    def one_after_the_other() -> bool:
        """Call for jobs of both lanes, which are two processes, and return whether no two calls overlapped."""
        begun = time.time()
        classes = (Latency.BATCH, Latency.INTERACTIVE, Latency.ASYNC)
        jobs = [system.client.submit(prompt(latency), latency=latency, **TERMS) for latency in classes]
        assert {job.result(timeout=WAIT_S).status for job in jobs} == {"succeeded"}

        def own_calls() -> list[Call]:
            """Return the calls since then: earlier ones may end in between."""
            return [call for call in system.simulator.calls() if call.started > begun]

        until(lambda: len(own_calls()) >= len(jobs), "the simulator to note the ends of the calls", WAIT_S)
        calls = sorted(own_calls(), key=lambda call: call.started)
        assert len(calls) == len(jobs)
        # the permit is given back before the simulator notes the end of the call
        return all(after.started > (before.finished or 0) - 0.5 for before, after in itertools.pairwise(calls))

    try:
        until(one_after_the_other, "the limit to be in force in each process", WAIT_S)
    finally:
        system.admin.routes.reset_limits(ROUTE)
        for route in others:
            system.admin.routes.restore(route)


@pytest.mark.habit("time_limit")
def test_the_time_of_a_call_ends_the_call_and_no_process(system: RunningTrivet, app: TrivetApp) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=SLOW_S)
    pid = system.local.supervisor.pid("worker-1-realtime")
    result = AsyncResult(system.client.submit(prompt("slow"), latency="realtime", **TERMS).id, app=app)
    failed = result.get(timeout=WAIT_S, propagate=False)
    assert result.state == "FAILURE"
    assert failed.outcome in ("timeout", None)  # None: on a busy machine its time may be over before the first call
    assert system.local.supervisor.pid("worker-1-realtime") == pid


@pytest.mark.habit("worker_prefetch_multiplier")
@pytest.mark.habit("--concurrency")
def test_a_process_makes_calls_at_once_and_prefetches_nothing(system: RunningTrivet, app: TrivetApp) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=3)
    slots = system.settings.worker.slots
    batch = system.client.submit_many([{"prompt": prompt(f"{n}")} for n in range(3 * slots)], **TERMS)
    until(lambda: system.simulator.counts()["in_flight"] > slots // 2, "many calls at once", WAIT_S)
    reserved = until(
        lambda: app.control.inspect(timeout=5, limit=2).reserved(), "both", fits=lambda found: len(found or {}) == 2
    )
    assert [task for of_one in reserved.values() for task in of_one] == []
    assert system.simulator.counts()["in_flight"] <= slots
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=0.01)
    assert {result.status for result in batch.results(timeout=WAIT_S)} == {"succeeded"}


@pytest.mark.habit("purge")
def test_jobs_of_purged_messages_are_dispatched_again(
    system: RunningTrivet, app: TrivetApp, shared: redis.Redis
) -> None:
    with stopped(system, shared):
        job = system.client.submit(prompt("purged"), **TERMS)
        until(lambda: messages(system, shared) == 1, "its message", WAIT_S)
        assert app.control.purge() == 0
        assert messages(system, shared) == 1
        with app.connection_for_write() as connection:
            purged = [connection.default_channel.queue_purge(f"{route}.batch") for route in system.settings.routes]
        assert sum(purged) == 1
    assert job.result(timeout=WAIT_S).status == "succeeded"
    (row,) = rows(system.settings, "SELECT claim FROM jobs WHERE id = :id", id=job.id)
    assert row.claim == 2, "dispatched twice, called once"
    assert len(job.result().attempts) == 1


@pytest.mark.habit("add_consumer")
def test_a_route_is_taken_out_of_service_on_record(system: RunningTrivet, app: TrivetApp, celery: Celery) -> None:
    said = until(lambda: celery("control", "cancel_consumer", QUEUE), "an answer", fits=lambda one: "->" in one.stdout)
    assert "trivet route drain" in said.stdout
    system.admin.routes.drain(ROUTE, why="habits")
    try:
        jobs = [system.client.submit(prompt("elsewhere"), **TERMS) for _ in range(3)]
        used = {attempt.route for job in jobs for attempt in job.result(timeout=WAIT_S).attempts}
    finally:
        system.admin.routes.restore(ROUTE)
    assert used
    assert ROUTE not in used
    kinds = [event.kind for event in system.admin.events.list(since=0, route=ROUTE)]
    assert kinds[-2:] == ["route drained", "route restored"]
