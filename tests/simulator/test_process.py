"""Starting and stopping: the command, its ready file, taken ports, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anthropic
import psutil
import pytest

from trivet_simulator import Control, Endpoints, Latency, ProviderOptions, SimulatorOptions, SimulatorProcess

from .sdk import message


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trivet_simulator", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _run("--bedrock-port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"port {port} for bedrock cannot be opened" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--latency-median", "1", "--latency-p95", "0.5"], "p95_s"),
        (["--anthropic-port", "70000"], "70000"),
        (["--extra", "eu"], "--extra must be NAME=WIRE"),
        (["--extra", "eu=azure"], "azure"),
        (["--extra", "bedrock=bedrock"], "names must differ"),
    ],
)
def test_wrong_options_are_one_clear_line(arguments: list[str], says: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_start_that_fails_tells_why() -> None:
    with pytest.raises(RuntimeError, match="azure"):
        SimulatorProcess("--extra", "eu=azure").start()


def test_ports_asked_for_are_the_ones_served(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ready = tmp_path / "ready.json"
    with SimulatorProcess("--vertex-port", str(port), "--ready-file", str(ready)) as simulator:
        assert simulator.endpoints.vertex == f"http://127.0.0.1:{port}/v1"
        assert Endpoints.from_json(ready.read_bytes()) == simulator.endpoints
        assert simulator.control.health()
    assert [p.name for p in tmp_path.iterdir()] == ["ready.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_even_with_hanging_calls(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    command = [sys.executable, "-m", "trivet_simulator", "--call-log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            endpoints = Endpoints.from_json(process.stdout.readline())
            control = Control(endpoints.control)
            control.fault("anthropic", "hang")

            async def hang() -> None:
                asking = asyncio.create_task(message(endpoints, "anthropic"))
                await asyncio.to_thread(control.wait_for_calls, 1, of="started")
                process.send_signal(number)
                with pytest.raises(anthropic.APIConnectionError):
                    await asking

            asyncio.run(hang())
            # the SDK's own timeout is 20 s: the call was broken off long before
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert b'"fault":"stopped"' in log.read_bytes()


def test_it_does_not_outlive_its_parent() -> None:
    script = (
        "import os, sys\nfrom trivet_simulator import SimulatorProcess\n"
        "s = SimulatorProcess().start()\nprint(s.pid, flush=True)\nsys.stdin.read()\nos._exit(1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.wait_procs([child], timeout=20)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def test_not_started_is_said() -> None:
    simulator = SimulatorProcess()
    with pytest.raises(RuntimeError, match="not running"):
        _ = simulator.endpoints
    assert simulator.stop() is None


def test_options_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="wire of"):
        ProviderOptions("x", "azure")
    with pytest.raises(ValueError, match="differ"):
        SimulatorOptions(providers=(ProviderOptions("x", "vertex"), ProviderOptions("x", "bedrock")))
    with pytest.raises(ValueError, match="p95_s"):
        Latency(median_s=2, p95_s=1)
