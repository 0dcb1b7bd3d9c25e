"""The way of a job through the whole system: submit, dispatch, call, record, result."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import psutil
import pytest
from tests.builders import unique

from trivet import (
    AsyncClient,
    Client,
    ClientClosed,
    InvalidRequest,
    Job,
    KeyConflict,
    LatencyName,
    NotFound,
    RequestParams,
    ResultTimeout,
)
from trivet.testing import RunningTrivet

MODEL = "claude-sonnet-5-5"
TERMS: dict[str, Any] = {"model": MODEL, "max_tokens": 40}


@pytest.mark.parametrize("latency", ["realtime", "batch", "async", "deferred"])
def test_a_job_of_each_class_gets_its_message(system: RunningTrivet, latency: LatencyName) -> None:
    job = system.client.submit("What is a trivet?", latency=latency, tags={"team": "docs"}, **TERMS)
    result = job.result(timeout=60)
    assert result.status == "succeeded"
    assert result.error is None
    assert result.text
    assert result.message is not None
    assert result.message["role"] == "assistant"
    assert result.stop_reason == result.message["stop_reason"]
    assert result.usage["output_tokens"] > 0
    assert result.tags == {"team": "docs"}
    assert result.model == MODEL
    assert result.cost_usd is not None
    assert result.cost_usd > 0
    [attempt] = result.attempts
    assert (attempt.route, attempt.outcome) == (result.route, "succeeded")
    assert attempt.cost_usd == result.cost_usd
    [call] = [call for call in system.simulator.calls() if call.attempt == attempt.id]
    assert call.request_id == attempt.request_id
    assert system.client.job(job.id).state == "succeeded"


def test_a_batch_streams_every_result_once(system: RunningTrivet) -> None:
    name = unique("batch")
    requests = ({"prompt": f"Document {i}", "key": f"{name}/{i}"} for i in range(450))
    batch = system.client.submit_many(requests, name=name, **TERMS)
    found = list(batch.results(timeout=60))
    assert Counter(result.key for result in found) == Counter(f"{name}/{i}" for i in range(450))
    assert {result.status for result in found} == {"succeeded"}
    progress = batch.progress()
    assert (progress.total, progress.succeeded, progress.ended, progress.done) == (450, 450, 450, True)
    assert progress.cost_usd == sum((result.cost_usd or Decimal(0) for result in found), Decimal(0))
    # another reader sees the same, in the same order
    again = [result.id for result in system.client.batch(name).results(timeout=60)]
    assert again == [result.id for result in found]


def test_the_ledger_has_one_row_per_call_and_sums_to_the_results(system: RunningTrivet) -> None:
    name = unique("ledger")
    started = time.time() - 1
    before = len(system.simulator.calls())
    batch = system.client.submit_many([{"prompt": f"Page {i}"} for i in range(60)], name=name, **TERMS)
    found = list(batch.results(timeout=60))
    rows = [attempt for result in found for attempt in result.attempts]
    calls = system.simulator.calls()[before:]
    assert Counter(row.id for row in rows) == Counter(call.attempt for call in calls)
    [total] = [row for row in system.admin.costs.report(["batch"], since=started).rows if row.group == (name,)]
    assert total.cost_usd == sum((row.cost_usd or Decimal(0) for row in rows), Decimal(0))
    assert (total.calls, total.jobs, total.unpriced) == (60, 60, 0)


def test_the_same_key_is_the_same_job_and_runs_once(system: RunningTrivet) -> None:
    key = unique("key")
    first = system.client.submit("Once", key=key, **TERMS)
    second = system.client.submit("Once", key=key, **TERMS)
    assert first.id == second.id
    assert first.result(timeout=60).key == key
    third = system.client.submit("Once", key=key, **TERMS)
    assert third.result(timeout=60).id == first.id
    assert len(third.result(timeout=60).attempts) == 1
    assert system.client.job_by_key(key).id == first.id
    with pytest.raises(KeyConflict, match=first.id):
        system.client.submit("Twice", key=key, **TERMS)


def test_a_batch_with_a_bad_request_waits_until_it_is_resumed(system: RunningTrivet) -> None:
    name = unique("broken")
    good = [{"prompt": f"Line {i}"} for i in range(10)]
    with pytest.raises(InvalidRequest, match=r"request 7") as raised:
        system.client.submit_many([*good[:7], {"prompt": ""}, *good[8:]], name=name, **TERMS)
    assert name in str(raised.value)
    progress = system.client.batch(name).progress()
    assert (progress.state, progress.total, progress.ended) == ("incomplete", 7, 0)
    batch = system.client.submit_many(good, name=name, **TERMS)
    assert len(list(batch.results(timeout=60))) == 10
    assert batch.progress().state == "open"


def test_an_incomplete_batch_can_be_accepted_as_it_is(system: RunningTrivet) -> None:
    name = unique("accepted")
    with pytest.raises(InvalidRequest):
        system.client.submit_many([{"prompt": "good"}, {"prompt": 7}], name=name, **TERMS)
    batch = system.client.batch(name)
    batch.accept()
    assert [result.status for result in batch.results(timeout=60)] == ["succeeded"]


def test_a_resumed_batch_must_begin_with_the_same_requests(system: RunningTrivet) -> None:
    name = unique("resumed")
    batch = system.client.submit_many([{"prompt": f"Line {i}"} for i in range(5)], name=name, **TERMS)
    longer = system.client.submit_many([{"prompt": f"Line {i}"} for i in range(8)], name=name, **TERMS)
    assert len(list(longer.results(timeout=60))) == 8
    assert batch.progress().total == 8
    with pytest.raises(InvalidRequest, match="not the same"):
        system.client.submit_many([{"prompt": f"Other {i}"} for i in range(9)], name=name, **TERMS)


def test_a_result_that_takes_longer_than_asked_for_is_a_timeout_and_the_job_goes_on(system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "held")
    job = system.client.submit("Slowly", latency="batch", **TERMS)
    with pytest.raises(ResultTimeout, match=job.id):
        job.result(timeout=0.2)
    system.simulator.clear()
    assert job.result(timeout=60).status == "succeeded"


def test_cancelling_a_batch_ends_what_waits_and_drops_what_runs(system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "hang")
    name = unique("cancelled")
    batch = system.client.submit_many([{"prompt": f"Never {i}"} for i in range(300)], name=name, **TERMS)
    system.simulator.wait_for_calls(len(system.simulator.calls()) + 1, 60, of="started")
    batch.cancel()
    progress = batch.wait(timeout=60)
    assert (progress.cancelled, progress.ended, progress.total) == (300, 300, 300)
    assert {result.status for result in batch.results(timeout=60)} == {"cancelled"}


def test_a_waiting_job_is_cancelled_at_once(system: RunningTrivet) -> None:
    job = system.client.submit("Later", not_before=3600, **TERMS)
    assert job.state == "delayed"
    assert job.cancel() is True
    assert job.result(timeout=60).status == "cancelled"
    assert job.cancel() is False


def test_a_job_whose_deadline_passes_expires_without_a_call(system: RunningTrivet) -> None:
    result = system.client.submit("Nowhere", deadline=1.5, residency="atlantis", **TERMS).result(timeout=60)
    assert result.status == "expired"
    assert result.attempts == ()
    assert result.error is not None
    assert "deadline" in result.error.message


def test_a_delayed_job_runs_when_its_time_has_come(system: RunningTrivet) -> None:
    submitted = time.time()
    job = system.client.submit("In a moment", not_before=1.5, **TERMS)
    result = job.result(timeout=60)
    assert result.attempts[0].started_at >= submitted + 1.4


def test_realtime_says_why_when_no_route_takes_it(system: RunningTrivet) -> None:
    with pytest.raises(InvalidRequest, match="residency"):
        system.client.submit("Where?", latency="realtime", residency="atlantis", **TERMS)


def test_many_threads_share_one_client(system: RunningTrivet) -> None:
    found: list[str] = []

    def one(i: int) -> None:
        job = system.client.submit(f"Thread {i}", latency="batch", **TERMS)
        found.append(job.result(timeout=60).status)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == ["succeeded"] * 12


def test_the_async_client_does_the_same(system: RunningTrivet) -> None:
    async def main() -> list[str]:
        async with AsyncClient(settings=system.settings) as client:
            job = await client.submit("Async", latency="realtime", **TERMS)
            result = await job.result(timeout=60)
            batch = await client.submit_many([{"prompt": f"Async {i}"} for i in range(5)], **TERMS)
            return [result.status, *[item.status async for item in batch.results(timeout=60)]]

    assert asyncio.run(main()) == ["succeeded"] * 6


def test_an_async_generator_becomes_a_batch_and_a_job_is_awaited(system: RunningTrivet) -> None:
    name = unique("generated")

    async def main() -> None:
        async with AsyncClient(settings=system.settings) as client:

            async def requests() -> AsyncIterator[RequestParams]:
                """Ask for each request what only the event loop can give, through the same client."""
                for number in range(250):
                    if number % 100 == 0:
                        first = await client.submit(f"Before {number}", latency="realtime", **TERMS)
                        assert (await first).status == "succeeded"
                    yield {"prompt": f"Document {number}", "key": f"{name}/{number}"}

            # more at once than the client has threads
            batches = await asyncio.gather(
                client.submit_many(requests(), name=name, **TERMS),
                *(client.submit_many(few(name, n), name=f"{name}-{n}", **TERMS) for n in range(12)),
            )
            found = [result async for result in batches[0].results(timeout=60)]
            assert Counter(result.key for result in found) == Counter(f"{name}/{n}" for n in range(250))
            progress = [await batch.wait(timeout=60) for batch in batches]
            assert [one.succeeded for one in progress] == [250, *[3] * 12]

    asyncio.run(main())


async def few(name: str, number: int) -> AsyncIterator[RequestParams]:
    for line in range(3):
        await asyncio.sleep(0)
        yield {"prompt": f"Few {number} {line}", "key": f"{name}/{number}/{line}"}


def test_a_bad_request_of_an_async_generator_is_named_and_the_generator_closed(system: RunningTrivet) -> None:
    name, closed = unique("generated"), []

    async def requests() -> AsyncIterator[dict[str, Any]]:
        try:
            for number in range(10_000):
                yield {"prompt": f"Document {number}"} if number != 120 else {"prompt": ""}
        finally:
            closed.append(True)

    async def main() -> None:
        async with AsyncClient(settings=system.settings) as client:
            with pytest.raises(InvalidRequest, match="request 120: prompt"):
                await client.submit_many(requests(), name=name, **TERMS)
            assert closed == [True]
            batch = await client.batch(name)
            assert (await batch.progress()).state == "incomplete"
            await batch.cancel()

    asyncio.run(main())


def test_a_deadline_is_a_span_as_on_the_command_line(system: RunningTrivet) -> None:
    job = system.client.submit("Nowhere", deadline="1.5s", not_before="1s", residency="atlantis", **TERMS)
    row = job.look()
    assert row.deadline_at == pytest.approx(row.created_at + 1.5, abs=1)
    assert row.not_before == pytest.approx(row.created_at + 1, abs=1)
    assert job.result(timeout=60).status == "expired"


def test_a_closed_client_keeps_no_thread_and_no_connection_of_its_own(system: RunningTrivet) -> None:
    process = psutil.Process()

    def used() -> Job:
        with Client(settings=system.settings) as client:
            job = client.submit("Hello", latency="realtime", **TERMS)
            assert job.result(timeout=60).succeeded
            return job

    used()  # Celery keeps the broker's sockets of a process's first client for the next ones
    threads, files, sockets = set(threading.enumerate()), len(process.open_files()), len(process.net_connections())
    job = used()
    assert set(threading.enumerate()) <= threads
    assert len(process.open_files()) <= files
    assert len(process.net_connections()) <= sockets
    with pytest.raises(ClientClosed):
        job.result(timeout=60)


def test_what_does_not_exist_is_not_found(system: RunningTrivet) -> None:
    with pytest.raises(NotFound, match="nothing-here"):
        system.client.job("nothing-here")
    with pytest.raises(NotFound, match="nothing-here"):
        system.client.batch("nothing-here")


def test_a_prompt_is_in_the_database_and_nowhere_else(system: RunningTrivet) -> None:
    marker = unique("SECRETPROMPT")
    job = system.client.submit(f"Keep this quiet: {marker}", latency="batch", **TERMS)
    job.result(timeout=60)
    assert marker not in repr(job.look())
    for log in system.local.logs_dir.glob("*.log"):
        assert marker not in log.read_text(errors="replace"), log.name


def test_a_client_made_before_a_fork_works_after_it(system: RunningTrivet) -> None:
    import os

    with Client(settings=system.settings) as client:
        assert client.submit("Parent", latency="realtime", **TERMS).result(timeout=60).succeeded
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if client.submit("Child", latency="realtime", **TERMS).result(timeout=60).succeeded else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert client.submit("Parent again", latency="realtime", **TERMS).result(timeout=60).succeeded
