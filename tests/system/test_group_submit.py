"""Requests that are submitted together: each is accepted or refused for itself, as it would be alone."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.timing import until

from trivet import Job
from trivet.client.async_results import AsyncResults
from trivet.testing import RunningTrivet
from trivet_tasks.errors import InvalidRequest, KeyConflict, NotFound


def request(words: str = "Say yes.", **more: Any) -> tuple[dict[str, Any], bool]:
    messages = [{"role": "user", "content": words}]
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 20,
        "latency": "interactive",
        "messages": messages,
        **more,
    }, False


def test_each_request_has_its_own_fate(system: RunningTrivet) -> None:
    key = f"group-{time.monotonic()}"
    found = system.client.submit_together(
        [
            request("One."),
            request("Two.", max_tokens=0),
            request("Three.", key=key),
            request("Three.", key=key),
            request("Four.", latency="batch"),
            request("Five.", compliance=["nobody-has-this"]),
        ]
    )
    one, two, three, again, four, five = found
    assert isinstance(two, InvalidRequest)
    assert two.field == "max_tokens"
    assert isinstance(five, InvalidRequest)
    assert "No route can take this job" in five.message
    jobs = [job for job in (one, three, again, four) if isinstance(job, Job)]
    assert len(jobs) == 4
    assert jobs[1].id == jobs[2].id
    assert [job.existed for job in jobs] == [False, False, True, False]
    assert all(job.result(timeout=60).succeeded for job in jobs)
    assert [job.look().latency for job in jobs] == ["interactive", "interactive", "interactive", "batch"]


def test_a_key_that_is_taken_refuses_its_request_alone(system: RunningTrivet) -> None:
    key = f"taken-{time.monotonic()}"
    first = system.client.submit(**request("First.", key=key)[0])
    found = system.client.submit_together([request("Second.", key=key), request("Third.")])
    assert isinstance(found[0], KeyConflict)
    assert first.id in found[0].message
    assert isinstance(found[1], Job)
    assert found[1].result(timeout=60).succeeded


def test_a_paused_tenant_waits_and_the_others_go(system: RunningTrivet) -> None:
    tenant = f"parked-{time.monotonic()}"
    system.admin.controls.pause(tenant=tenant)
    try:
        parked, free = system.client.submit_together([request("Parked.", tenant=tenant), request("Free.")])
        assert isinstance(parked, Job)
        assert isinstance(free, Job)
        assert free.result(timeout=60).succeeded
        assert parked.state == "waiting"
    finally:
        system.admin.controls.resume(tenant=tenant)
    assert parked.result(timeout=60).succeeded


def test_many_coroutines_wait_for_their_jobs_over_two_threads(system: RunningTrivet) -> None:
    async def wait_for_all() -> list[bool]:
        with ThreadPoolExecutor(2) as threads:
            waiting = AsyncResults(system.client, threads)
            await waiting.start()
            submitted = system.client.submit_together([request(f"Number {number}.") for number in range(40)])
            jobs = [job for job in submitted if isinstance(job, Job)]
            found = await asyncio.gather(*(waiting.result(job.id) for job in jobs))
            assert [result.id for result in found] == [job.id for job in jobs]
            assert waiting.waiting == 0
            again = await waiting.result(jobs[0].id, existed=True)
            assert again.id == jobs[0].id
            with pytest.raises(NotFound):
                await waiting.result("0" * 32, existed=True)
            await waiting.close()
            return [result.succeeded for result in found]

    assert asyncio.run(wait_for_all()) == [True] * 40


def test_a_notice_that_came_first_is_not_missed(system: RunningTrivet) -> None:
    async def come_late() -> bool:
        with ThreadPoolExecutor(2) as threads:
            waiting = AsyncResults(system.client, threads)
            await waiting.start()
            job = system.client.submit(**request("Late.")[0])
            await asyncio.to_thread(until, lambda: job.state == "succeeded", "the job to end")
            result = await asyncio.wait_for(waiting.result(job.id), 30)
            await waiting.close()
            return result.succeeded

    assert asyncio.run(come_late())
