"""A long system prompt that fifty jobs share is written to the provider's cache once and read by the others."""

from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from tests.command_line import commands

from trivet.testing import RunningTrivet
from trivet_simulator.calls import Call

MODEL = "claude-sonnet-5"
JOBS = 50
RULES = "the rule of this house is that every letter is answered on the day it came " * 265
"""About 5,000 tokens, as the simulator counts: four characters each."""
DONE_S = 120.0


def requests(words: str) -> list[dict[str, object]]:
    return [{"prompt": f"{words}: letter {number}", "system": f"{words} {RULES}"} for number in range(JOBS)]


def large(calls: list[Call]) -> list[Call]:
    """Without probes."""
    return [call for call in calls if call.usage and sum(call.usage.values()) > 4_000]


def test_one_call_writes_and_the_others_read(
    system: RunningTrivet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system.simulator.latency("anthropic", median_s=0.5)
    system.simulator.latency("bedrock", median_s=0.5)
    system.simulator.latency("vertex", median_s=0.5)
    name = f"cached-{tmp_path.name}"
    began = system.simulator.counts()["started"]
    batch = system.client.submit_many(
        requests(name), name=name, model=MODEL, max_tokens=20, prompt_cache=True, tags={"part": name}
    )
    batch.wait(timeout=DONE_S)
    assert batch.progress().succeeded == JOBS
    calls = large(system.simulator.calls(began))
    assert len(calls) == JOBS
    writes = [call for call in calls if call.usage and call.usage["cache_creation_input_tokens"]]
    reads = [call for call in calls if call.usage and call.usage["cache_read_input_tokens"]]
    assert len(writes) == len({call.provider for call in calls}), "one for each route that was used"
    assert len(reads) == JOBS - len(writes)
    first = min(calls, key=lambda call: call.started)
    assert first in writes
    assert first.usage is not None
    assert 4_900 < first.usage["cache_creation_input_tokens"] < 5_100
    assert all(first.finished and call.started >= first.finished for call in calls if call is not first), "they waited"
    assert {call.provider for call in calls} == {first.provider}, "where it is warm"

    (saving,) = [one for one in system.admin.costs.report().prompt_cache if one.model == MODEL]
    assert saving.written_tokens == first.usage["cache_creation_input_tokens"]
    assert saving.read_tokens == sum(call.usage["cache_read_input_tokens"] for call in reads if call.usage)
    assert saving.saved_usd == saving.read_tokens * Decimal("1.8") / 10**6, "0.20 instead of 2 dollars a million"
    assert saving.surcharge_usd == saving.written_tokens * Decimal("0.5") / 10**6
    with commands(str(system.local.config_path), monkeypatch, capsys) as trivet:
        said = orjson.loads(trivet("costs", "--by", "tag:part", "--json").out)
        page = tmp_path / "costs.html"
        trivet("costs", "--html", str(page))
    assert said
    assert "prompt cache" in page.read_text(encoding="utf-8").lower()


def test_without_being_asked_nothing_is_cached(system: RunningTrivet, tmp_path: Path) -> None:
    began = system.simulator.counts()["started"]
    batch = system.client.submit_many(requests(f"plain-{tmp_path.name}")[:5], model=MODEL, max_tokens=20)
    batch.wait(timeout=DONE_S)
    used = [call.usage for call in large(system.simulator.calls(began)) if call.usage]
    assert len(used) == 5
    assert not any(usage["cache_creation_input_tokens"] or usage["cache_read_input_tokens"] for usage in used)


def test_a_file_is_sent_alike(
    system: RunningTrivet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"file-{tmp_path.name}"
    file = tmp_path / "letters.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(request) for request in requests(name)[:10]))
    began = system.simulator.counts()["started"]
    with commands(str(system.local.config_path), monkeypatch, capsys) as trivet:
        done = trivet("bulk", str(file), "--name", name, "--model", MODEL, "--max-tokens", "20", "--prompt-cache", "1h", "--wait")  # fmt: skip
    assert done.code == 0, done
    used = [call.usage for call in large(system.simulator.calls(began)) if call.usage]
    assert sorted(bool(usage["cache_read_input_tokens"]) for usage in used) == [False] + 9 * [True]
