"""`trivet up --simulate` and `trivet worker`, as a person starts and stops them."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.command_line import run_trivet
from tests.databases import database_of, rows
from tests.gateways import REQUEST
from tests.processes import free_port, under
from tests.timing import until

from trivet import Client
from trivet_simulator import Control
from trivet_store.cluster import leases, registry

START_S = 90.0
STOP_S = 10.0
MODEL = "claude-sonnet-5-5"


@dataclass
class Up:
    """A running `trivet up --simulate --json` and what it said when it was up."""

    process: subprocess.Popen[str]
    folder: Path
    said: dict[str, Any]

    @property
    def errors(self) -> str:
        """Return what it wrote to stderr so far."""
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def everything(self) -> list[psutil.Process]:
        """Return the process, all its descendants, and the broker, which is in a session of its own."""
        root = psutil.Process(self.process.pid)
        broker = psutil.Process(int((self.folder / ".trivet" / "valkey.pid").read_text(encoding="ascii")))
        return list({process.pid: process for process in (root, *root.children(recursive=True), broker)}.values())

    def interrupt(self) -> float:
        """Ctrl-C; seconds until it was gone."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(STOP_S * 3)
        return time.monotonic() - begun


@contextlib.contextmanager
def running(
    folder: Path, *arguments: str, python: Sequence[str] = (), ignored: Sequence[int] = (), closed: Sequence[int] = ()
) -> Iterator[Up]:
    folder.mkdir(exist_ok=True)
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            under(
                [sys.executable, *python, "-m", "trivet", "up", "--simulate", "--json", *arguments],
                ignored=ignored,
                closed=closed,
            ),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()  # ends by itself: `up` gives up when its parts do not come up
        assert line, (folder / "stderr").read_text(encoding="utf-8")
        yield Up(process, folder, json.loads(line))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S * 3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)
        process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("TRIVET_"):
            monkeypatch.delenv(name)
    return tmp_path / "work"


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_files_of_the_folder_are_no_modules_of_trivet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    for name in ("queue", "secrets", "celery", "simulator", "trivet"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')\n")
    with running(folder, python=("-P",)):
        monkeypatch.chdir(folder)
        with Client() as client:
            terms: dict[str, Any] = {"model": MODEL, "max_tokens": 20, "latency": "batch"}
            assert client.submit("Hello.", **terms).result(timeout=30).succeeded


def test_jobs_run_and_ctrl_c_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(folder, "--workers", "2") as up:
        monkeypatch.chdir(folder)
        with Client() as client:  # finds what runs here
            for latency in ("realtime", "batch"):
                result = client.submit("Hello.", model=MODEL, max_tokens=20, latency=latency, cache=False).result(
                    timeout=30
                )
                assert result.status == "succeeded", result.error
                assert result.text
        below = folder / "documents"
        below.mkdir()
        checked = run_trivet("config", "check", cwd=below)
        assert f"of the `trivet up` that runs in {folder}" in checked.out
        volume = ("--tokens-per-day", "1M", "--input-share", "0.5", "--model", MODEL)
        planned = run_trivet("plan", *volume, "--json", cwd=below)
        assert {one["name"] for one in planned.json["scenarios"]} >= set(up.said["routes"])
        assert "Traceback" not in run_trivet("routes", "--json", cwd=below).err
        assert list(below.iterdir()) == []
        second = run_trivet("up", "--simulate")
        assert second.code == 2
        assert f"already running in {folder}" in second.err
        assert f"process {up.process.pid}" in second.err

        processes = up.everything()
        titles = {process.pid: " ".join(process.cmdline()).rstrip() for process in processes}
        assert titles[up.process.pid] == "trivet up"
        for name, title in (
            ("scheduler", "trivet scheduler"),
            ("simulator", "trivet simulator"),
            ("worker-1-bulk", "trivet worker all bulk"),
            ("worker-2-realtime", "trivet worker all realtime"),
        ):
            assert titles[up.said["processes"][name]] == title
        assert "trivet worker all bulk (fork server)" in titles.values()
        assert psutil.Process(up.said["processes"]["scheduler"]).environ()["TRIVET_CONFIG"] == up.said["config"]
        assert len(processes) >= 8  # up, broker, simulator, scheduler, two workers of two lanes
        assert up.interrupt() < STOP_S
        assert up.process.returncode == 0
        assert alive(processes) == []
        assert [f"  {name} stopped" for name in up.said["processes"] if f"  {name} stopped" not in up.errors] == []
    assert (folder / ".trivet").stat().st_mode & 0o777 == 0o700


def test_it_stops_in_time_while_calls_hang_and_the_jobs_survive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(folder, "--workers", "1") as up:
        monkeypatch.chdir(folder)
        control = Control(up.said["simulator"]["control"])
        for provider in up.said["simulator"]["providers"]:
            control.fault(provider, "hang")
        with Client() as client:
            batch = client.submit_many(
                [{"prompt": f"Document {n}", "model": MODEL, "max_tokens": 20} for n in range(20)], name="hanging"
            )
            control.wait_for_calls(1, timeout=30, of="started")
            processes = up.everything()
            assert up.interrupt() < STOP_S
            assert alive(processes) == []
            progress = batch.progress()
            assert progress.succeeded + progress.failed + progress.expired == 0


def test_a_second_ctrl_c_ends_it_now_and_nobody_is_quarantined(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_WORKER__SHUTDOWN_GRACE_S", "300")
    with running(folder, "--workers", "1") as up:
        monkeypatch.chdir(folder)
        control = Control(up.said["simulator"]["control"])
        for provider in up.said["simulator"]["providers"]:
            control.fault(provider, "hang")
        with Client() as client:
            documents = [{"prompt": f"Document {n}"} for n in range(20)]
            client.submit_many(documents, model=MODEL, max_tokens=20, latency="deferred")  # none runs out of time
            control.wait_for_calls(20, timeout=60, of="started")
            processes = up.everything()
            log = folder / ".trivet" / "logs" / "worker-1-bulk.log"
            up.process.send_signal(signal.SIGINT)
            until(lambda: "calls may go on for 300 s" in log.read_text(encoding="utf-8"), "the worker to stop")
            asked = time.monotonic()
            until(lambda: time.monotonic() > asked + 0.6, "a second one to count")
            assert up.interrupt() < STOP_S
            assert alive(processes) == []
            left = rows(client.settings, "SELECT DISTINCT state, crashes FROM jobs")
        assert [tuple(row) for row in left] == [("waiting", 0)]


def test_a_part_that_dies_is_told_of_and_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(folder, "--workers", "1") as up:
        monkeypatch.chdir(folder)
        simulator, worker = (up.said["processes"][name] for name in ("simulator", "worker-1-bulk"))
        for pid in (simulator, worker):
            os.kill(pid, signal.SIGKILL)
        until(lambda: up.errors.count("was killed by signal 9") == 2, "both ends to be told")
        assert str(folder / ".trivet" / "logs" / "worker-1-bulk.log") in up.errors
        with Client() as client:  # the simulator came back where the routes look for it
            result = client.submit("Hello.", model=MODEL, max_tokens=20).result(timeout=60)
        assert result.status == "succeeded", result.error


def test_in_the_background_under_nohup_it_ends_by_a_signal_to_itself_alone(folder: Path) -> None:
    """Start it like `nohup trivet up &` in a script, below a parent that also lets its children vanish; without standard input."""
    with running(
        folder, "--workers", "1",
        ignored=(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD), closed=(0,),
    ) as up:  # fmt: skip
        for process in up.everything():
            process.send_signal(signal.SIGHUP)  # the terminal is closed
        worker = up.said["processes"]["worker-1-bulk"]
        os.kill(worker, signal.SIGKILL)
        until(lambda: "worker-1-bulk was killed by signal 9" in up.errors, "its end to be told")
        processes = up.everything()
        assert up.process.poll() is None
        assert up.interrupt() < STOP_S
        assert up.process.returncode == 0
        assert alive(processes) == []
    assert up.errors.count("was killed") == 1, "the hangup of the terminal ended nobody"


def test_a_part_that_cannot_work_stops_everything_with_2(folder: Path) -> None:
    with running(folder, "--workers", "1") as up:
        processes = up.everything()
        with (
            contextlib.closing(sqlite3.connect(folder / ".trivet" / "trivet.db", timeout=30)) as connection,
            connection,
        ):
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        os.kill(up.said["processes"]["worker-1-bulk"], signal.SIGKILL)  # the next one meets a newer database
        assert up.process.wait(START_S) == 2
        assert alive(processes) == []
    last = up.errors.splitlines()[-1]
    assert "worker-1-bulk cannot work as configured" in last
    assert "9999" in last
    assert "Traceback" not in up.errors


def test_its_sudden_death_takes_the_processes_along(folder: Path) -> None:
    with running(folder, "--workers", "1") as up:
        root, *parts = up.everything()
        broker = psutil.Process(int((folder / ".trivet" / "valkey.pid").read_text(encoding="ascii")))
        try:
            root.kill()
            until(lambda: alive(parts) == [broker], "the end of all but the broker, which the next one adopts")
            with running(folder, "--workers", "1") as again:
                assert broker in again.everything()
                assert again.said["simulator"]["control"] == up.said["simulator"]["control"]
                parts = again.everything()
            assert alive(parts) == []
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                broker.kill()


def test_a_worker_without_a_lane_runs_both_until_it_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(folder, "--workers", "1") as up:
        ready = folder / "ready"
        worker = subprocess.Popen(
            [sys.executable, "-m", "trivet", "--config", up.said["config"], "worker", "--routes", "anthropic"],
            cwd=folder,
            env={**os.environ, "TRIVET_READY_FILE": str(ready)},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until(ready.exists, "the worker to be ready", START_S)
            lanes = psutil.Process(worker.pid).children(recursive=True)
            served = {
                lane: [p for p in lanes if p.cmdline()[0] == f"trivet worker anthropic {lane}"]
                for lane in ("realtime", "bulk")
            }
            assert [len(found) for found in served.values()] == [1, 1], lanes
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(STOP_S * 2) == 0
            assert alive(lanes) == []
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait(STOP_S)


def test_a_worker_that_cannot_work_as_configured_exits_with_2(folder: Path) -> None:
    folder.mkdir()
    (folder / "trivet.toml").write_text('[routes.one]\nprovider = "anthropic"\n', encoding="utf-8")
    done = run_trivet("worker", "--routes", "two", cwd=folder)
    assert done.code == 2
    assert "no route is called 'two'" in done.err


def test_on_a_hangup_scheduler_and_workers_read_the_file_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(folder, "--workers", "1") as up:
        monkeypatch.chdir(folder)
        config = Path(up.said["config"])
        before, processes = config.read_text(encoding="utf-8"), up.everything()
        logs = {name: folder / ".trivet" / "logs" / f"{name}.log" for name in ("scheduler", "worker-1-bulk")}

        def said(name: str, words: str) -> bool:
            return words in logs[name].read_text(encoding="utf-8")

        def change(old: str, new: str) -> None:
            text = before.replace(old, new)
            assert text != before
            config.write_text(text, encoding="utf-8")
            up.process.send_signal(signal.SIGHUP)

        with Client() as client, database_of(client.settings) as store:

            def limits() -> dict[str, int]:
                with store.read() as connection:
                    known = registry.registered(store, connection)
                return {name: route.settings.max_concurrency for name, route in known.items()}

            def impaired() -> set[str]:
                with store.read() as connection:
                    return {route for lease in leases.living(store, connection) for route in lease.impaired}

            change("[routes.anthropic]", "[routes.anthropic]\nmax_concurrency = 17")
            until(lambda: limits()["anthropic"] == 17, "the new limit")
            for name in logs:
                until(lambda: said(name, "the configuration was read again: "), f"{name} to read the file")  # noqa: B023
            change("[routes.anthropic]", "[routes.anthropic]\nmax_concurrancy = 18")
            for name in logs:
                until(lambda: said(name, "is wrong, so nothing changes: "), f"{name} to refuse the file")  # noqa: B023
            assert limits()["anthropic"] == 17
            change("[routes.anthropic]", '[routes.anthropic]\nresidency = ["us"]\nmax_concurrency = 17')
            asked = "has another residency: it counts once this worker is restarted"
            until(lambda: said("worker-1-bulk", asked), "workers to ask for a restart")
            assert impaired() == set()
            change("[routes.anthropic]", "[routes.anthropic]\nmax_concurrency = 19")
            until(lambda: impaired() == set() and limits()["anthropic"] == 19, "the old place again")
            result = client.submit("Hello.", model=MODEL, max_tokens=20).result(timeout=60)
        assert result.status == "succeeded", result.error
        assert alive(processes) == processes, "nobody was stopped by it"


def test_the_gateway_runs_beside_the_rest_and_takes_the_local_key(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path / "served", "--serve", "--serve-port", str(port), "--workers", "1") as up:
        assert up.said["gateway"] == f"http://127.0.0.1:{port}"
        assert "gateway" in up.said["processes"]
        (key,) = (tmp_path / "served").rglob("gateway.key")
        answer = httpx2.post(
            f"http://127.0.0.1:{port}/v1/messages",
            json=REQUEST,
            headers={"authorization": f"Bearer {key.read_text(encoding='ascii').strip()}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        assert up.interrupt() < STOP_S
