"""Liveness with real processes: stopped, ended and stalled ones are reported wherever somebody looks, with exit code 3."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.command_line import Said
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_tasks.config.finding import CONFIG_VARIABLE

TTL_S = 4.0
DEADLINE_S = 60.0
BUSY_S = 3.0
"""For a machine that runs other tests too."""
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
SECTIONS = {**QUICK, "leases": {"ttl_s": TTL_S, "heartbeat_s": 0.5}}
STALLING_WORKER = """
import sys, threading
from celery import signals
from trivet.cli import main
def stall(sender, **_):
    sender.timer.call_after(0.5, lambda: threading.Event().wait(300))
signals.worker_ready.connect(stall, weak=False)
sys.argv = ["trivet", "worker", "--lane", "bulk"]
main()
"""

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("alive")]

Run = Callable[..., Said]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """A scheduler, and a worker of each lane."""
    with running_trivet(tmp_path_factory.mktemp("alive"), sections=SECTIONS) as running:
        yield running


def healthy(trivet: Run) -> bool:
    said = trivet("routes", "--json")
    states = {model["shown_as"] for route in said.json["routes"] for model in route["models"]}
    return (said.code, said.json["impairments"]) == (0, []) and states <= {"healthy", "unproven"}


def wrong(trivet: Run) -> dict[str, str]:
    """Return what is wrong, by kind, where the exit code says so."""
    said = trivet("routes", "--json")
    found = {one["kind"]: one["text"] for one in said.json["impairments"]}
    assert (said.code == 3) == bool(found or said.json["held_up"])
    return found


@contextlib.contextmanager
def stopped(system: RunningTrivet, part: str) -> Iterator[None]:
    """SIGSTOP for a part; it goes on at the end."""
    system.local.supervisor.signal(part, signal.SIGSTOP)
    try:
        yield
    finally:
        system.local.supervisor.signal(part, signal.SIGCONT)


@contextlib.contextmanager
def waiting_for(system: RunningTrivet, job: str) -> Iterator[Callable[[], str]]:
    """`trivet job result --wait` in a process of its own, and what it wrote to standard error so far."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trivet", "job", "result", job, "--wait"],
        env={**os.environ, CONFIG_VARIABLE: str(system.local.config_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)  # type: ignore[union-attr]
    reader.start()
    try:
        yield lambda: "".join(lines)
        assert process.wait(DEADLINE_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(DEADLINE_S)
        reader.join(DEADLINE_S)
        process.stderr.close()


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        ("worker-1-bulk", "lane", "No bulk worker is alive: batch, async and deferred jobs wait."),
        ("scheduler", "scheduler", "No scheduler is alive: waiting jobs are not dispatched"),
    ],
)
def test_a_stopped_process_is_reported_within_its_leases_time_until_it_goes_on(
    system: RunningTrivet, trivet: Run, part: str, kind: str, words: str
) -> None:
    until(lambda: healthy(trivet), "a Trivet without a fault")
    pid = system.local.supervisor.pid(part)
    name = f"stopped-{time.time_ns()}"
    with contextlib.ExitStack() as held:
        with stopped(system, part):
            until(lambda: kind in wrong(trivet), "the stopped process to be missed", within_s=TTL_S + 2 + BUSY_S)
            found = wrong(trivet)
            assert found[kind].startswith(words)
            assert f".{pid}@" in found["silent"]
            assert "it is stopped, dead or cut off" in found["silent"]
            shown = trivet("routes")
            assert shown.code == 3
            assert " ".join(words.split()[:4]) in shown.out
            assert "healthy" not in shown.out

            batch = system.client.submit_many([{"prompt": f"{name} {n}"} for n in range(3)], name=name, **TERMS)
            job = system.client.submit(name, latency="batch", **TERMS)
            status = trivet("batch", "status", name)
            assert (status.code, "held up" in status.out, words.split(":")[0] in " ".join(status.out.split())) == (3, True, True)  # fmt: skip
            assert trivet("batch", "status", name, "--json").json["held_up"] is True
            timed_out = trivet("job", "result", job.id, "--timeout", "4")
            assert (timed_out.code, words.split(":")[0] in timed_out.err) == (3, True)
            said = held.enter_context(waiting_for(system, job.id))
            until(lambda: words.split(":")[0] in said(), "the waiting command to say so")
        until(lambda: healthy(trivet), "everything to be well again")
        assert {result.status for result in batch.results(timeout=DEADLINE_S)} == {"succeeded"}
    assert said().count("Held up:") == 1
    status = trivet("batch", "status", name)
    assert (status.code, "held up" in status.out) == (0, False)


def test_a_consumer_that_stands_still_takes_its_worker_out_of_service(
    system: RunningTrivet, trivet: Run, tmp_path: Path
) -> None:
    until(lambda: healthy(trivet), "a Trivet without a fault")
    ready, log = tmp_path / "ready", tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-c", STALLING_WORKER],
            env={**os.environ, CONFIG_VARIABLE: str(system.local.config_path), "TRIVET_READY_FILE": str(ready)},
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: ready.exists() or worker.poll() is not None, "the worker to be ready")
        assert worker.poll() is None, log.read_text(encoding="utf-8")
        until(lambda: "idle" in wrong(trivet), "the stall to be reported", within_s=5 + 0.5 + BUSY_S)
        said = wrong(trivet)["idle"]
        assert f".{worker.pid}@" in said
        assert "takes no work" in said
        assert "Its Celery consumer has not moved for " in said
        job = system.client.submit(f"stalled {time.time_ns()}", latency="batch", **TERMS)
        assert job.result(timeout=DEADLINE_S).status == "succeeded", "the other worker works"
    finally:
        worker.terminate()
        worker.wait(DEADLINE_S)
    until(lambda: healthy(trivet), "everything to be well again")
    assert log.read_text(encoding="utf-8").count("no work is taken: Its Celery consumer") == 1


def test_one_that_was_killed_is_not_missed_once_another_took_its_place(system: RunningTrivet, trivet: Run) -> None:
    """Its job runs in an isolated process meanwhile, which says so in its title."""
    until(lambda: healthy(trivet), "a Trivet without a fault")
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "hang")
    calls = len(system.simulator.calls(running=True))
    job = system.client.submit(f"hanging {time.time_ns()}", latency="deferred", **TERMS)
    system.simulator.wait_for_calls(calls + 1, timeout=DEADLINE_S, of="started")
    before = system.local.supervisor.pid("worker-1-bulk")
    system.local.supervisor.signal("worker-1-bulk", signal.SIGKILL)
    until(lambda: system.local.supervisor.pid("worker-1-bulk") not in (None, before), "another worker")
    worker = psutil.Process(system.local.supervisor.pid("worker-1-bulk"))

    def titles() -> set[str]:
        found = set()
        for process in worker.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                found.update(process.cmdline()[:1])  # the title, before what it does not fill
        return found

    until(lambda: "trivet worker all bulk (isolated)" in titles(), "the quarantined job to run isolated")
    system.simulator.reset()
    job.cancel()
    until(lambda: healthy(trivet), "everything to be well again")


def test_without_a_scheduler_nothing_is_called_healthy(system: RunningTrivet, trivet: Run) -> None:
    """The last test here: the scheduler ends in order, and stays away."""
    until(lambda: healthy(trivet), "a Trivet without a fault")
    system.local.supervisor.end("scheduler", DEADLINE_S)
    found = wrong(trivet)
    assert list(found) == ["scheduler"], "an orderly end is not silence, and is seen at once"
    states = {model["shown_as"] for route in trivet("routes", "--json").json["routes"] for model in route["models"]}
    assert states == {"unscheduled"}
