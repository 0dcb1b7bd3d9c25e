"""The control port: bad input, the call log, counts."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import anthropic
import pytest

from trivet_simulator import Control, ControlError, Endpoints, SimulatorProcess

from .sdk import BODY, MODELS, call, client, message


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_steer_nothing(control: Control, headers: dict[str, str]) -> None:
    """Post as a browser would: no preflight is asked for, and the name may be one that was rebound."""
    request = urllib.request.Request(
        f"{control.url}/providers/anthropic/down", b"{}", {"Content-Type": "text/plain", **headers}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as answer:
        assert answer.code == 403
        assert json.loads(answer.read())["error"].startswith("refused: ")
    assert control.providers()["anthropic"]["up"]


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_rebound_name_reads_nothing_and_loopback_names_do(control: Control) -> None:
    port = control.url.rpartition(":")[2]
    for host, status in {"evil.example": 403, f"localhost:{port}": 200, f"[::1]:{port}": 200}.items():
        request = urllib.request.Request(f"{control.url}/calls", headers={"Host": host})
        assert status_of(request) == status


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"kind": "nonsense"}, "kind"),
        ({}, "kind"),
        ({"kind": 299}, "kind"),
        ({"kind": "hang", "sahre": 0.5}, "sahre"),
        ({"kind": "hang", "share": 1.5}, "share"),
        ({"kind": "hang", "share": "half"}, "share"),
        ({"kind": "hang", "times": 0}, "times"),
        ({"kind": "hang", "times": True}, "times"),
        ({"kind": "hang", "flap_on_s": 1}, "flap_off_s"),
        ({"kind": "rate_limited", "retry_after_as": "weeks"}, "retry_after_as"),
        ({"kind": "rate_limited", "retry_after_s": -1}, "retry_after_s"),
        ({"kind": "raw"}, "status"),
        ({"kind": "raw", "status": 200, "headers": {"a": "b\r\nc: d"}}, "headers.a"),
    ],
)
def test_bad_faults_name_the_field(control: Control, document: dict[str, Any], field: str) -> None:
    control.fault("anthropic", "overloaded")
    with pytest.raises(ControlError) as caught:
        control.faults("anthropic", [document])
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert [f["kind"] for f in control.providers()["anthropic"]["faults"]] == ["overloaded"]


def test_bad_figures_name_the_field(control: Control) -> None:
    with pytest.raises(ControlError) as caught:
        control.limits("bedrock", requests_per_minute=-5)
    assert caught.value.field == "requests_per_minute"
    with pytest.raises(ControlError) as caught:
        control.limits("bedrock", models={"c*": {"concurrency": 1.5}})
    assert caught.value.field == "models.c*.concurrency"
    with pytest.raises(ControlError) as caught:
        control.limits("bedrock", models={"c*": {"speed": 1}})
    assert caught.value.field == "models.c*.speed"
    with pytest.raises(ControlError) as caught:
        control.latency("bedrock", median_s=1, p95_s=0.5)
    assert caught.value.field == "p95_s"
    with pytest.raises(ControlError, match="no provider 'azure'"):
        control.down("azure")
    with pytest.raises(ControlError) as caught:
        control.wait_for_calls(1, of="dreamt")
    assert caught.value.field == "of"


def test_bad_json_and_unknown_paths(endpoints: Endpoints, control: Control) -> None:
    def status(method: str, path: str, body: bytes | None) -> int:
        request = urllib.request.Request(endpoints.control + path, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                document = json.loads(error.read())
            return error.code if document["error"] else 0

    assert status("PUT", "/providers/anthropic/fault", b"{") == 400
    assert status("PUT", "/providers/anthropic/limits", b"[]") == 400
    assert status("GET", "/calls?since=yesterday", None) == 400
    assert status("GET", "/nowhere", None) == 404
    assert status("GET", "/health", None) == 200


def test_calls_since_a_number(control: Control, endpoints: Endpoints) -> None:
    for i in range(3):
        asyncio.run(call(endpoints, "anthropic", attempt=f"a{i}"))
    asyncio.run(call(endpoints, "vertex", attempt="v"))
    calls = control.calls()
    numbers = [c.seq for c in calls]
    assert [c.attempt for c in calls] == ["a0", "a1", "a2", "v"]
    assert numbers == list(range(numbers[0] or 0, (numbers[0] or 0) + 4))
    assert [c.attempt for c in control.calls(since=(numbers[0] or 0) + 2)] == ["a2", "v"]
    assert [c.attempt for c in control.calls(provider="vertex")] == ["v"]
    assert all(c.finished is not None and c.started <= c.finished for c in calls)
    control.reset()
    assert control.calls() == []
    assert control.counts()["started"] == 0


def test_the_log_holds_no_prompt(control: Control, endpoints: Endpoints) -> None:
    asyncio.run(call(endpoints, "anthropic", messages=[{"role": "user", "content": "the word xylophone is secret"}]))
    with urllib.request.urlopen(endpoints.control + "/calls", timeout=10) as answer:
        assert b"xylophone" not in answer.read()


def test_waiting_for_calls_that_do_not_come(control: Control) -> None:
    with pytest.raises(TimeoutError, match="1 calls finished awaited"):
        control.wait_for_calls(1, 0.05)


def test_reset_breaks_off_what_hangs_and_forgets_it(control: Control, endpoints: Endpoints) -> None:
    control.fault("bedrock", "hang")
    control.limits("bedrock", requests_per_minute=1)
    control.down("vertex")

    async def hang() -> None:
        asking = asyncio.create_task(message(endpoints, "bedrock"))
        await asyncio.to_thread(control.wait_for_calls, 1, of="started")
        await asyncio.to_thread(control.reset)
        with pytest.raises(anthropic.APIConnectionError):
            await asking

    asyncio.run(hang())
    assert control.calls(running=True) == []
    counts = control.counts()
    assert (counts["started"], counts["finished"], counts["in_flight"]) == (0, 0, 0)
    shown = control.providers()
    assert (shown["bedrock"]["faults"], shown["bedrock"]["limits"], shown["vertex"]["up"]) == ([], [], True)
    assert asyncio.run(message(endpoints, "bedrock")).stop_reason == "end_turn"


async def _many(endpoints: Endpoints, number: int) -> None:
    async with client(endpoints, "anthropic") as made:
        for i in range(number):
            await made.messages.create(model=MODELS["anthropic"], **BODY, extra_headers={"x-trivet-attempt": f"a{i}"})


def test_ring_drops_the_oldest_and_says_so_and_the_file_keeps_all(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    with SimulatorProcess("--log-capacity", "5", "--call-log", str(log)) as simulator:
        asyncio.run(_many(simulator.endpoints, 13))
        assert [c.attempt for c in simulator.control.calls()] == [f"a{i}" for i in range(8, 13)]
        figures = simulator.control.counts()["log"]
        assert (figures["held"], figures["dropped"], figures["next_seq"]) == (5, 8, 13)
        # reading has flushed it
        assert len(log.read_bytes().splitlines()) == 13
        simulator.control.fault("anthropic", "overloaded")
        with pytest.raises(anthropic.OverloadedError):
            asyncio.run(_many(simulator.endpoints, 1))
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert [line["attempt"] for line in lines] == [*(f"a{i}" for i in range(13)), "a0"]
    assert lines[-1]["status"] == 529
    assert all("stone" not in json.dumps(line) for line in lines)
