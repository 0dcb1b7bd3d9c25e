"""The response cache with four real workers: exactly one call for each different request, whatever dies."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.builders import unique
from tests.command_line import Said
from tests.databases import new_database, rows
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet

DEADLINE_S = 90.0
TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 1_000}
WORKERS = 4
SECTIONS = {**QUICK, "cache": {"enabled": True}, "leases": {"ttl_s": 8, "heartbeat_s": 0.5}}
CALL_S = 0.2


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """Four workers on each database, and a cache."""
    url = new_database(request, "cache")
    folder: Path = tmp_path_factory.mktemp("cache")
    simulator = ("--latency-median", str(CALL_S), "--latency-p95", str(2 * CALL_S), "--seed", "1")
    with running_trivet(folder, store_url=url, sections=SECTIONS, workers=WORKERS, simulator=simulator) as trivet:
        yield trivet


def test_as_many_calls_are_made_as_there_are_different_requests(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    """A third repeats, and fifty ask the very same at once; four workers share the work."""
    name = unique("repeats")
    before = len(system.simulator.calls())
    numbers = [*range(250), *range(100), *[7] * 50]
    random.Random(1).shuffle(numbers)
    batch = system.client.submit_many([{"prompt": f"Document {n} of {name}"} for n in numbers], name=name, **TERMS)
    found = list(batch.results(timeout=DEADLINE_S))
    assert Counter(result.status for result in found) == {"succeeded": len(numbers)}
    calls = system.simulator.calls()[before:]
    assert len(calls) == len(set(numbers)) == 250
    hits = [result for result in found if result.cached]
    assert len(hits) == 150
    assert all(hit.cost_usd == 0 and not hit.attempts for hit in hits)
    stored = rows(system.settings, "SELECT j.id, q.body FROM jobs j JOIN job_requests q ON q.job_id = j.id")
    bodies = {row.id: row.body for row in stored}
    by_request: dict[object, set[str]] = {}
    for result in found:
        by_request.setdefault(bodies[result.id], set()).add(str(result.message and result.message["id"]))
    assert len(by_request) == 250
    assert all(len(answers) == 1 for answers in by_request.values()), "equal requests, one answer"
    workers = {row[0] for row in rows(system.settings, "SELECT DISTINCT lease_id FROM attempts")}
    assert len(workers) > 1, "one worker alone would prove little"
    # what was saved is what the calls had cost
    cost_of = {str(r.message and r.message["id"]): r.cost_usd or Decimal(0) for r in found if not r.cached}
    saved = sum((cost_of[str(hit.message and hit.message["id"])] for hit in hits), Decimal(0))
    assert saved > 0
    report = trivet("costs", "--by", "batch", "--json").json
    (line,) = [line for line in report["response_cache"] if line["batch"] == name]
    assert (line["hits"], Decimal(line["saved_usd"])) == (150, saved)
    assert batch.progress().cost_usd == sum(cost_of.values(), Decimal(0))


def test_a_realtime_repeat_is_answered_without_a_call(system: RunningTrivet) -> None:
    prompt = unique("Now")
    first = system.client.submit(prompt, latency="realtime", **TERMS).result(timeout=DEADLINE_S)
    before = len(system.simulator.calls())
    again = system.client.submit(prompt, latency="realtime", **TERMS).result(timeout=DEADLINE_S)
    asked = system.client.submit(prompt, latency="realtime", cache=False, **TERMS).result(timeout=DEADLINE_S)
    assert (first.cached, again.cached, asked.cached) == (False, True, False)
    assert again.message == first.message
    assert len(system.simulator.calls()) == before + 1


def test_no_tenant_is_answered_with_what_anothers_call_brought(system: RunningTrivet) -> None:
    """Neither from the cache nor by waiting for another tenant's call, which is under way at the same time."""
    prompt, before = unique("Ours"), len(system.simulator.calls())
    tenants = ("acme", "globex", None)
    for repeated in (False, True):
        jobs = [system.client.submit(prompt, tenant=tenant, **TERMS) for tenant in tenants]
        assert [job.result(timeout=DEADLINE_S).cached for job in jobs] == [repeated] * 3
    assert len(system.simulator.calls()) == before + 3


def test_a_cut_answer_serves_nobody_and_nobody_waits_for_one(system: RunningTrivet) -> None:
    terms = {**TERMS, "max_tokens": 1}
    prompt = unique("Cut")
    before = len(system.simulator.calls())
    for _ in range(2):
        result = system.client.submit(prompt, **terms).result(timeout=DEADLINE_S)
        assert (result.stop_reason, result.cached) == ("max_tokens", False)
    assert len(system.simulator.calls()) == before + 2


def test_when_the_leaders_worker_is_killed_one_more_call_is_made_and_nothing_is_lost(system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "held")
    prompt = unique("Killed")
    before = len(system.simulator.calls(running=True))
    jobs = [system.client.submit(prompt, **TERMS) for _ in range(12)]
    until(lambda: Counter(job.state for job in jobs) == {"running": 1, "coalesced": 11}, "eleven jobs to be coalesced")
    (leader,) = (job for job in jobs if job.state == "running")
    ((worker,),) = rows(
        system.settings, "SELECT l.worker FROM jobs j JOIN leases l ON l.id = j.lease_id WHERE j.id = :id", id=leader.id
    )
    os.kill(int(str(worker).partition("@")[0].rpartition(".")[2]), signal.SIGKILL)
    system.simulator.clear()
    results = [job.result(timeout=DEADLINE_S) for job in jobs]
    assert {result.status for result in results} == {"succeeded"}
    assert len({str(result.message and result.message["id"]) for result in results}) == 1
    assert Counter(result.cached for result in results) == {True: 11, False: 1}
    assert len(system.simulator.calls(running=True)) == before + 2
    calls = rows(
        system.settings,
        "SELECT a.outcome FROM attempts a JOIN job_requests q ON q.job_id = a.job_id WHERE a.job_id IN"
        f" ({', '.join(repr(job.id) for job in jobs)})",
    )
    assert Counter(call[0] for call in calls) == {"unknown": 1, "succeeded": 1}


def test_a_leader_that_is_cancelled_leaves_the_lead_to_another(system: RunningTrivet) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "held")
    prompt = unique("Cancelled")
    jobs = [system.client.submit(prompt, **TERMS) for _ in range(4)]
    until(lambda: Counter(job.state for job in jobs) == {"running": 1, "coalesced": 3}, "three jobs to be coalesced")
    (leader,) = (job for job in jobs if job.state == "running")
    leader.cancel()
    assert leader.result(timeout=DEADLINE_S).status == "cancelled"
    system.simulator.clear()
    others = [job.result(timeout=DEADLINE_S) for job in jobs if job.id != leader.id]
    assert Counter(result.cached for result in others) == {True: 2, False: 1}


def test_its_commands_and_metrics(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    prompt = unique("Kept")
    for _ in range(2):
        system.client.submit(prompt, **TERMS).result(timeout=DEADLINE_S)
    stats = trivet("cache", "stats", "--json").json
    assert stats["enabled"]
    assert stats["entries"] > 0
    assert 0 < stats["bytes"] <= stats["max_bytes"]
    assert stats["hits"] > 0
    assert 0 < stats["hit_rate"] < 1
    assert Decimal(stats["saved_usd"]) > 0
    assert "saved" in trivet("cache", "stats").out
    assert "The response cache answered" in trivet("costs").out
    assert trivet("cache", "clear", "--model", "claude-opus-5", "--json").json == {
        "cleared": 0,
        "model": "claude-opus-5",
    }
    assert trivet("cache", "clear", "--json").json["cleared"] == stats["entries"]
    assert trivet("cache", "stats", "--json").json["entries"] == 0
    assert not system.client.submit(prompt, **TERMS).result(timeout=DEADLINE_S).cached
