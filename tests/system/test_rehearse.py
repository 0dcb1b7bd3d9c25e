"""`trivet rehearse` as somebody runs it: a process of its own, whose folder and processes are looked for afterwards."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.processes import wait_for_line
from tests.timing import PATIENCE_S, until

CONFIG = """
[routes.home]
provider = "anthropic"
requests_per_minute = 600
residency = ["us", "eu"]
api_key = "env:NOBODYS_KEY"
base_url = "http://192.0.2.1:9"     # nothing answers there: a call that left this machine would fail
[routes.away]
provider = "bedrock"
region = "us-east-1"
requests_per_minute = 600
residency = ["us"]
base_url = "http://192.0.2.1:9"
"""
PROXY = "http://192.0.2.1:9"

pytestmark = [pytest.mark.timeout(500), pytest.mark.xdist_group("rehearse")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a configuration, 200 requests of which every tenth is bound to the eu, and `t` for what is temporary."""
    (tmp_path / "t").mkdir()
    (tmp_path / "trivet.toml").write_text(CONFIG, encoding="utf-8")
    lines = [
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 200,
            "prompt": f"Document {number}",
            **({"residency": "eu"} if number % 10 == 0 else {}),
        }
        for number in range(200)
    ]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path


@contextmanager
def rehearsal(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "TMPDIR": str(folder / "t"), "HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}
    env.pop("TRIVET_CONFIG", None)
    command = [sys.executable, "-m", "trivet", "rehearse", "requests.jsonl", "--output-tokens", "60", *arguments]
    process = subprocess.Popen(
        command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        until(lambda: not left(folder), "the end of what was started")


def left(folder: Path) -> list[str]:
    """Return the processes that name the temporary folder, and the files in it."""
    temporary = str(folder / "t")
    found = [path.name for path in (folder / "t").iterdir()]
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(temporary in word for word in process.cmdline()):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def rehearsed(folder: Path, *arguments: str, code: int = 0) -> Any:
    with rehearsal(folder, "--json", *arguments) as process:
        out, err = process.communicate(timeout=4 * PATIENCE_S)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return json.loads(out)


def test_jobs_fail_over_and_those_bound_to_a_place_wait_for_their_only_route(folder: Path) -> None:
    told = rehearsed(folder, "--speed", "4", "--outage", "home=40s@0s:529")
    (batch,) = told["classes"]
    assert {name: batch[name] for name in ("class", "jobs", "succeeded", "failed", "expired", "waiting")} == {
        "class": "batch", "jobs": 200, "succeeded": 200, "failed": 0, "expired": 0, "waiting": 0,
    }  # fmt: skip
    assert batch["longest_s"] >= 40, "20 jobs waited until the outage was over"
    assert batch["late"] < 200, "those that were asked at once and then waited, longer than the class's 30 s"
    home, away = told["routes"]
    assert (home["route"], away["route"]) == ("home", "away")
    assert home["failed"] > 0
    assert home["failed_over_to"].get("away", 0) > 0
    assert home["held_open_s"] > 20
    assert away["succeeded"] >= home["failed_over_to"]["away"]
    assert home["succeeded"] >= 20
    assert any("only home may take them" in remark for remark in told["remarks"])
    assert left(folder) == []


def test_a_job_that_nobody_can_take_is_reported_and_not_waited_for(folder: Path) -> None:
    with (folder / "requests.jsonl").open("w", encoding="utf-8") as file:
        for place in ("us", "moon"):
            line = {"model": "claude-haiku-4-5", "max_tokens": 50, "prompt": f"In {place}", "residency": place}
            file.write(json.dumps(line) + "\n")
    told = rehearsed(folder, code=1)
    (batch,) = told["classes"]
    assert (batch["succeeded"], batch["waiting"]) == (1, 1)
    assert any("1 request of claude-haiku-4-5 can go nowhere: home" in remark for remark in told["remarks"])


def test_ctrl_c_prints_what_is_known_so_far_and_leaves_nothing(folder: Path) -> None:
    with rehearsal(folder, "--json", "--outage", "home=1h@0s", "--outage", "away=1h@0s") as process:
        wait_for_line(process, "The clock runs", PATIENCE_S)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        out = process.stdout.read()
        assert process.wait(timeout=PATIENCE_S) == 130
    told = json.loads(out)
    assert told["broken_off"] == "it was stopped"
    assert sum(one["jobs"] for one in told["classes"]) == 200
    assert left(folder) == []


def test_killed_it_leaves_no_process_and_no_prompt(folder: Path) -> None:
    with rehearsal(folder, "--outage", "home=1h@0s", "--outage", "away=1h@0s") as process:
        until(lambda: list((folder / "t").glob("*/.trivet/valkey.pid")), "its broker")
        process.kill()
        process.wait(timeout=PATIENCE_S)
        until(lambda: left(folder) == [], "nothing left")
