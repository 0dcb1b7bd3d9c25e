"""`trivet demo` as somebody runs it: a process of its own, watched from outside."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from tests.processes import under, wait_for_line

KEYS = [
    "jobs", "succeeded", "failed", "expired", "lost", "doubled", "attempts", "failovers", "throttled_s", "cost_usd",
    "seconds", "first_token_s", "by_route",
]  # fmt: skip
FINISHED_S = 300.0
LINE_S = 200.0
"""These two only end a test that hangs, on a machine however slow."""
GONE_S = 60.0
IN_THE_BACKGROUND = (signal.SIGINT, signal.SIGQUIT)
"""Signals that a shell script lets its background jobs ignore."""

pytestmark = [pytest.mark.timeout(500), pytest.mark.xdist_group("demo")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder in which the demo makes its temporary folder."""
    made = tmp_path / "t"
    made.mkdir()
    return made


@contextlib.contextmanager
def _demo(folder: Path, *arguments: str, ignored: Sequence[int] = ()) -> Iterator[subprocess.Popen[str]]:
    # a store and a broker that are not there: the demo must not listen to what is configured on the machine
    env = {
        **os.environ,
        "TMPDIR": str(folder),
        "TRIVET_STORE__URL": "postgresql://nobody@127.0.0.1:1/none",
        "TRIVET_CONFIG": str(folder / "missing.toml"),
    }
    command = under([sys.executable, "-m", "trivet", "demo", *arguments], ignored=ignored)
    process = subprocess.Popen(
        command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            for left in _left(folder):  # its broker outlives it
                left.kill()
        process.communicate()


def _left(folder: Path, timeout_s: float = 0.0) -> list[psutil.Process]:
    """Processes that name the folder in their command, environment or working directory, other than this one."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = [process for process in psutil.process_iter() if process.pid != os.getpid() and _names(process, folder)]
        if not found or time.monotonic() >= deadline:
            return found
        psutil.wait_procs(found, timeout=0.2)


def _names(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return any(str(folder) in text for text in (*process.cmdline(), *process.environ().values(), process.cwd()))
    except psutil.Error:
        return False


def test_the_demo_succeeds_fails_over_and_leaves_nothing(folder: Path) -> None:
    with _demo(folder, "--jobs", "200", "--json") as process:
        out, err = process.communicate(timeout=FINISHED_S)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 1, "only the object is on stdout"
    told = json.loads(lines[0])
    assert list(told) == KEYS
    counts = ("jobs", "succeeded", "failed", "expired", "lost", "doubled")
    assert [told[key] for key in counts] == [200, 200, 0, 0, 0, 0]
    assert told["failovers"] > 0
    assert told["throttled_s"] > 0
    assert 0 < told["seconds"] < FINISHED_S
    routes = told["by_route"]
    assert sorted(routes) == ["anthropic", "bedrock-us-east-1", "vertex-global"]
    assert all(route["succeeded"] > 0 for route in routes.values())
    assert routes["bedrock-us-east-1"]["failed"] > 0
    assert routes["vertex-global"]["failed"] > 0
    assert sum(route["attempts"] for route in routes.values()) == told["attempts"] > 200
    assert sum(route["succeeded"] for route in routes.values()) == 200
    assert sum(route["succeeded"] + route["failed"] for route in routes.values()) == told["attempts"]
    assert sum(Decimal(route["cost_usd"]) for route in routes.values()) == Decimal(told["cost_usd"]) > 0
    for said in ("Bedrock goes down", "come back", "No process was left behind"):
        assert said in err
    assert _left(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("moment", "number", "ignored"),
    [
        ("Starting", signal.SIGTERM, ()),
        ("Starting", signal.SIGINT, IN_THE_BACKGROUND),
        ("Bedrock goes down", signal.SIGINT, IN_THE_BACKGROUND),
        ("Stopping", signal.SIGINT, ()),
    ],
)
def test_a_signal_at_any_moment_stops_and_removes_everything(
    folder: Path, moment: str, number: signal.Signals, ignored: Sequence[int]
) -> None:
    jobs = "20" if moment == "Stopping" else "400"
    with _demo(folder, "--jobs", jobs, "--json", "--plain", ignored=ignored) as process:
        wait_for_line(process, moment, LINE_S)
        process.send_signal(number)
        assert process.wait(timeout=GONE_S) == 130
        assert _left(folder) == []
        assert list(folder.iterdir()) == []


def test_killed_it_leaves_no_broker_and_no_folder(folder: Path) -> None:
    with _demo(folder, "--jobs", "400", "--json", "--plain") as process:
        wait_for_line(process, "are submitted", LINE_S)
        process.kill()
        process.wait(timeout=GONE_S)
        assert _left(folder, GONE_S) == []
        assert list(folder.iterdir()) == []


def test_a_terminal_that_goes_away_stops_and_removes_everything(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trivet", "demo", "--jobs", "400"]
    env = {**os.environ, "TMPDIR": str(folder), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    try:
        process = subprocess.Popen(
            command, env=env, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
    finally:
        os.close(theirs)
    try:
        _wait_for_screen(ours, "are submitted")
        os.close(ours)
        assert process.wait(timeout=GONE_S) == 130
        assert _left(folder) == []
        assert list(folder.iterdir()) == []
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_no_documents_is_a_usage_error(folder: Path) -> None:
    with _demo(folder, "--jobs", "0") as process:
        _, err = process.communicate(timeout=LINE_S)
    assert process.returncode == 2
    assert "--jobs" in err
    assert list(folder.iterdir()) == []


def _wait_for_screen(terminal: int, words: str) -> None:
    seen = b""
    deadline = time.monotonic() + LINE_S
    while words.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{words!r} did not come"
        seen += os.read(terminal, 65_536)
