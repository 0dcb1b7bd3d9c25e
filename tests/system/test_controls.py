"""Pausing and prioritizing through the whole system, as an operator types it."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.builders import unique
from tests.command_line import Said
from tests.timing import until

from trivet import AsyncClient
from trivet.testing import RunningTrivet

PROVIDERS = ("anthropic", "bedrock", "vertex")
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
DEADLINE_S = 60.0


@pytest.fixture
def trivet(system: RunningTrivet, trivet: Callable[..., Said]) -> Iterator[Callable[..., Said]]:
    """Runs the command line in this process; no control is left at the end."""
    yield trivet
    for control in system.admin.controls.list():
        which = {"batch": "batch", "tenant": "tenant", "class": "latency"}[control.kind]
        system.admin.controls.resume(**{which: control.value})
        system.admin.controls.prioritize(0, **{which: control.value})


def slow(system: RunningTrivet, seconds: float) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=seconds)


def test_a_batch_is_paused_named_everywhere_and_goes_on(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    slow(system, 0.3)
    name = unique("paused")
    batch = system.client.submit_many([{"prompt": f"Document {n}"} for n in range(400)], name=name, **TERMS)
    until(lambda: batch.progress().ended > 10, "the first results")
    assert (
        trivet("batch", "pause", name, "--reason", "the prompt is wrong").out
        == f"batch {name} is paused; what runs ends.\n"
    )
    until(lambda: batch.progress().running == 0, "what runs to end", 10)
    ended = batch.progress().ended
    assert ended < 400
    assert batch.progress().failed == 0
    status = trivet("batch", "status", name)
    assert status.code == 0
    assert re.search(r"^state +paused$", status.out, re.MULTILINE)
    assert f"The batch {name} is paused by " in status.out
    assert "the prompt is wrong" in status.out
    assert "left" not in status.out
    found = trivet("batch", "status", name, "--json").json
    assert (found["paused"][0]["reason"], found["left_s"], found["held_up"]) == ("the prompt is wrong", None, False)
    assert {row["name"]: row["paused"] for row in trivet("batch", "list", "--json").json}[name]
    waiting = next(job for job in system.client.jobs(batch=name, limit=500) if job.state == "waiting")
    assert f"The batch {name} is paused by " in trivet("job", "show", waiting.id).out
    routes = trivet("routes")
    assert routes.code == 0
    assert "is paused by" in routes.out
    waited = trivet("batch", "wait", name, "--timeout", "5")
    assert waited.code == 1
    assert "is paused by" in waited.err
    assert batch.progress().ended == ended
    assert trivet("batch", "resume", name).out == f"batch {name} goes on.\n"
    assert batch.wait(timeout=DEADLINE_S).succeeded == 400
    kinds = [event.kind for event in system.admin.events.list(since=0.0) if name in event.text]
    assert kinds == ["work paused", "work resumed"]


def test_a_tenant_is_paused_for_all_classes_also_for_jobs_to_come(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    tenant, other = unique("acme"), unique("beta")
    system.admin.controls.pause(latency="deferred")  # they wait until the tenant is paused
    before = [system.client.submit("Mail", tenant=one, latency="deferred", **TERMS) for one in (tenant, other)]
    assert trivet("batch", "pause", "--tenant", tenant, "--reason", "unpaid", "--json").json["paused"]
    until(lambda: tenant in str(system.admin.jobs.blocked(before[0].id).notes), "its job to be in its own flow")
    assert trivet("batch", "resume", "--class", "deferred").code == 0
    after = [system.client.submit("Mail", tenant=one, latency="async", **TERMS) for one in (tenant, other)]
    quick = system.client.submit("Mail", tenant=tenant, latency="realtime", **TERMS).result(timeout=DEADLINE_S)
    assert quick.status == "expired"
    assert quick.error is not None
    assert f"tenant {tenant} is paused" in quick.error.message
    assert {job.result(timeout=DEADLINE_S).status for job in (before[1], after[1])} == {"succeeded"}
    assert {before[0].state, after[0].state} == {"waiting"}
    assert trivet("batch", "resume", "--tenant", tenant).code == 0
    assert {job.result(timeout=DEADLINE_S).status for job in (before[0], after[0])} == {"succeeded"}


def test_a_batch_of_higher_priority_ends_before_an_older_one(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    requests = [{"prompt": f"Document {n}"} for n in range(300)]
    assert trivet("batch", "pause", "--class", "deferred").code == 0
    batches = [system.client.submit_many(requests, name=unique("batch"), latency="deferred", **TERMS) for _ in "12"]
    assert trivet("batch", "priority", batches[1].name, "7").out == f"batch {batches[1].name} has priority 7.\n"
    assert trivet("batch", "priority", batches[0].name, "-3").code == 0
    assert re.search(r"^priority +\+7$", trivet("batch", "status", batches[1].name).out, re.MULTILINE)
    slow(system, 0.5)
    assert "Priorities: " in trivet("routes").out
    assert trivet("batch", "resume", "--class", "deferred").code == 0
    until(lambda: batches[1].progress().ended > 200, "the second to be nearly done")
    assert batches[0].progress().ended < 100
    slow(system, 0.02)
    assert [batch.wait(timeout=DEADLINE_S).succeeded for batch in batches] == [300, 300]


def test_a_batch_is_paused_and_resumed_from_asyncio(system: RunningTrivet) -> None:
    async def run() -> None:
        async with AsyncClient(settings=system.settings) as client:
            batch = await client.submit_many([{"prompt": "Later", "not_before": "1h"}], name=unique("later"), **TERMS)
            assert await batch.pause("not now")
            assert not await batch.pause()
            await batch.prioritize(2)
            progress = await batch.progress()
            assert ([one.reason for one in progress.paused], progress.priority) == (["not now"], 2)
            assert await batch.resume()
            assert not await batch.resume()
            assert (await batch.progress()).paused == ()
            await batch.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("pause",), "Name one batch, one tenant or one latency class."),
        (("pause", "nothing"), "No batch is called 'nothing'."),
        (("resume", "--class", "quick"), "class: 'quick' is none."),
        (("priority", "5"), "takes a batch and a number"),
        (("priority", "--class", "async", "11"), "must be from -10 to 10, is 11"),
        (("priority", "--class", "async", "much"), "'much' is not a whole number"),
    ],
)
def test_what_is_typed_wrong_is_said_and_changes_nothing(
    system: RunningTrivet, trivet: Callable[..., Said], typed: tuple[str, ...], said: str
) -> None:
    found = trivet("batch", *typed)
    assert found.code == 2
    assert said in found.err
    assert system.admin.controls.list() == ()


def test_a_second_reason_and_a_tenant_without_jobs_are_told(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    first = trivet("batch", "pause", "--tenant", "amce", "--reason", "one")
    assert (first.code, "tenant amce is paused" in first.out) == (0, True)
    assert "No job of the tenant amce waits or runs" in first.err
    second = trivet("batch", "pause", "--tenant", "amce", "--reason", "two")
    assert "was paused before, and its reason is as it was: resume it first" in second.out
    assert [control.reason for control in system.admin.controls.list()] == ["one"]
    trivet("batch", "resume", "--tenant", "amce")
    assert system.admin.controls.list() == ()
