"""Failed jobs run again, a life is told in order, cancels take effect at once and book what they cost."""

import asyncio
import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.builders import unique
from tests.command_line import Said

from trivet import AsyncClient, InvalidRequest
from trivet.testing import RunningTrivet

PROVIDERS = ("anthropic", "bedrock", "vertex")
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
CANCELLED_WITHIN_S = 2.0
BUSY_S = 6.0
"""Time that a test grants beyond that, because the machine has other work."""


def refuse_all(system: RunningTrivet) -> None:
    for provider in PROVIDERS:
        system.simulator.fault(provider, "context_too_long")


def test_a_batch_whose_jobs_failed_is_mended_by_two_commands(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    name = unique("mended")
    good = [{"prompt": f"Good {n}", "key": f"{name}/{n}"} for n in range(4)]
    batch = system.client.submit_many(good, name=name, **TERMS)
    reader = batch.results(timeout=60)
    assert [next(reader).status for _ in good] == ["succeeded"] * 4
    refuse_all(system)
    batch = system.client.submit_many([*good, *({"prompt": f"Bad {n}"} for n in range(3))], name=name, **TERMS)
    failed = [next(reader) for _ in range(3)]
    assert {result.status for result in failed} == {"failed"}
    system.simulator.clear()

    status = trivet("batch", "status", name).out
    assert f"3 jobs failed: trivet job list --batch {name} --state failed says why" in status
    assert f"trivet batch retry {name} --failed runs them again" in status
    listed = trivet("job", "list", "--batch", name, "--state", "failed")
    assert listed.out.splitlines()[0].split()[-1] == "WHY"
    assert len(listed.out.splitlines()) == 4
    assert all("invalid" in line for line in listed.out.splitlines()[1:])

    assert trivet("batch", "retry", name, "--failed").out == f"{name}: 3 jobs run again.\n"
    again = [next(reader) for _ in range(3)]  # the same reader, going on
    assert [result.status for result in again] == ["succeeded"] * 3
    assert {result.id for result in again} == {result.id for result in failed}
    for result in again:
        assert [attempt.outcome for attempt in result.attempts] == ["invalid", "succeeded"]
    progress = batch.wait(timeout=60)
    assert (progress.total, progress.succeeded, progress.failed, progress.done) == (7, 7, 0, True)
    whole = list(batch.results(timeout=60))
    assert len({result.id for result in whole}) == len(whole) == 7
    assert progress.cost_usd == sum((result.cost_usd or Decimal(0) for result in whole), Decimal(0))
    assert "retry" not in trivet("batch", "status", name).out
    said = trivet("batch", "retry", name)
    assert (said.code, said.out) == (0, f"{name}: no job failed; nothing runs again.\n")
    assert trivet("batch", "retry", name, "--json").json["retried"] == 0


def test_bulk_out_has_each_job_once_after_a_retry(
    system: RunningTrivet, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    name, file, out = unique("out"), tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    asked = [{"prompt": f"Document {n}", "metadata": {"row": n}} for n in range(6)]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in asked))
    words = ["bulk", str(file), "--name", name, "--model", TERMS["model"], "--max-tokens", "40", "--with-request"]
    refuse_all(system)
    assert trivet(*words, "--out", str(out)).code == 1
    failed = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [line["status"] for line in failed] == ["failed"] * 6
    system.simulator.clear()
    assert trivet("batch", "retry", name, "--json").json["retried"] == 6
    assert trivet(*words, "--out", str(out)).code == 0
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [line["status"] for line in lines] == ["succeeded"] * 6
    assert {line["id"] for line in lines} == {line["id"] for line in failed}
    for line in lines:
        assert line["metadata"] == asked[line["index"]]["metadata"] == line["request"]["metadata"]
        assert line["request"]["messages"][0]["content"] == asked[line["index"]]["prompt"]
    assert {path.name for path in tmp_path.iterdir()} == {file.name, out.name}


def test_a_life_is_told_in_order_over_a_retry(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    refuse_all(system)
    key = unique("key")
    job = system.client.submit("Once more", key=key, **TERMS)
    first = job.result(timeout=60)
    assert first.status == "failed"
    system.simulator.clear()
    assert trivet("job", "retry", "--key", key).out == f"{job.id} runs again.\n"
    second = job.result(timeout=60)
    assert (second.status, second.id, second.key) == ("succeeded", job.id, key)
    assert second.latency_s > first.latency_s, "from the submit to the new end"
    life = trivet("job", "show", job.id).out
    assert first.error is not None
    words = [
        "accepted at",
        f"call 1 on {first.route}: invalid (400)",
        "failed (invalid): ",
        "made to run again at",
        f"call 2 on {second.route}: succeeded",
        f"succeeded on {second.route}",
    ]
    at = [life.index(said) for said in words]
    assert at == sorted(at), life
    shown = trivet("job", "show", job.id, "--json").json
    assert [call["outcome"] for call in shown["attempts"]] == ["invalid", "succeeded"]
    assert [end["state"] for end in shown["retries"]] == ["failed"]
    assert "only a job that failed or expired runs again" in trivet("job", "retry", job.id).out
    assert trivet("job", "retry", job.id, "--json").json == {"id": job.id, "retried": False, "state": "succeeded"}
    assert job.retry() is False


def test_an_expired_job_runs_again_with_its_whole_time(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    name = unique("expired")
    for provider in PROVIDERS:
        system.simulator.fault(provider, "hang")
    batch = system.client.submit_many([{"prompt": f"Late {n}"} for n in range(2)], name=name, deadline=2.0, **TERMS)
    assert batch.wait(timeout=60).expired == 2
    rows = [system.admin.jobs.life(result.id).job for result in batch.results(timeout=60)]
    allowed_s = {row.id: (row.deadline_at or 0.0) - row.created_at for row in rows}
    assert list(allowed_s.values()) == pytest.approx([2.0, 2.0], abs=0.5)
    system.simulator.clear()
    assert batch.retry() == 0, "none failed"
    assert f"trivet batch retry {name} --expired" in trivet("batch", "status", name).out
    assert trivet("batch", "retry", name, "--expired", "--json").json["retried"] == 2
    progress = batch.wait(timeout=60)
    assert (progress.expired + progress.succeeded, progress.total) == (2, 2)
    for result in batch.results(timeout=60):
        life = system.admin.jobs.life(result.id)
        (before,) = life.retries
        assert before.state == "expired"
        assert life.job.deadline_at == pytest.approx(before.at + allowed_s[result.id], abs=0.01)


def test_a_cancelled_batch_is_not_run_again(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    name = unique("cancelled")
    batch = system.client.submit_many([{"prompt": "Later", "not_before": 3600}], name=name, **TERMS)
    batch.cancel()
    with pytest.raises(InvalidRequest, match="was cancelled"):
        batch.retry()
    said = trivet("batch", "retry", name)
    assert said.code == 2
    assert f"The batch {name!r} was cancelled; nothing of it runs again." in " ".join(said.err.split())


def test_the_async_client_retries_too(system: RunningTrivet) -> None:
    refuse_all(system)

    async def main() -> list[object]:
        async with AsyncClient(settings=system.settings) as client:
            batch = await client.submit_many([{"prompt": "One"}, {"prompt": "Two"}], **TERMS)
            job = await client.submit("Three", **TERMS)
            before = [(await batch.wait(60)).failed, (await job.result(60)).status]
            system.simulator.clear()
            again = [await batch.retry(), await job.retry(), await batch.retry()]
            return [*before, *again, (await batch.wait(60)).succeeded, (await job.result(60)).status]

    assert asyncio.run(main()) == [2, "failed", 2, True, 0, 2, "succeeded"]


@pytest.mark.parametrize("whole_batch", [False, True], ids=["job", "batch"])
def test_what_runs_is_dropped_within_two_seconds_and_its_cost_is_booked(
    system: RunningTrivet, whole_batch: bool
) -> None:
    for provider in PROVIDERS:
        system.simulator.fault(provider, "hang")
    calls = len(system.simulator.calls())
    # a class whose calls would go on for minutes
    batch = system.client.submit_many([{"prompt": "Never"}], name=unique("drop"), latency="async", **TERMS)
    system.simulator.wait_for_calls(calls + 1, 60, of="started")
    (row,) = system.client.jobs(batch=batch.name)
    job = system.client.job(row.id)
    asked = time.monotonic()
    if whole_batch:
        batch.cancel()
    else:
        assert job.cancel() is True
    result = job.result(timeout=60)
    took_s = time.monotonic() - asked
    assert result.status == "cancelled"
    assert took_s < CANCELLED_WITHIN_S + BUSY_S, took_s
    (attempt,) = result.attempts
    assert (attempt.outcome, attempt.estimated) == ("cancelled", True)
    assert attempt.cost_usd
    assert attempt.cost_usd > 0, "what it may have cost at most"
    progress = batch.wait(timeout=60)
    assert (progress.cancelled, progress.done) == (1, True)
    print(f"dropped after {took_s:.2f} s")  # noqa: T201
