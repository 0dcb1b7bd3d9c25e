"""Set-ups that the benchmark of cost compares. Each is started anew for each of its turns."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from load import LATENCY_S
from orders import HERE, Child

from trivet.local.embedded import EmbeddedValkey
from trivet_simulator import Control, SimulatorProcess
from trivet_tasks.config.server_urls import celery_url, redis_url

PEERS = HERE / ".peers"
READY_S = 180.0
IN_FLIGHT = 256
"""Calls at a time, in all; a Trivet worker's default."""
TRICKLE_EVERY_S = 0.05
FINISH_S = 300.0


@dataclass(frozen=True, slots=True)
class Wire:
    """Destination of a set-up's calls."""

    name: str
    simulator: SimulatorProcess

    @property
    def url(self) -> str:
        """Its base URL."""
        return str(self.simulator.endpoints.providers[self.name])

    @property
    def control(self) -> Control:
        """The simulator's."""
        return self.simulator.control


class Setup(Protocol):
    """A set-up that makes calls. A context manager: inside, it is ready."""

    def __enter__(self) -> Setup:
        """Start."""

    def __exit__(self, *_: object) -> None:
        """Stop all that was started."""

    def processes(self) -> dict[str, list[int]]:
        """Root processes by part: `worker` and whatever else it needs."""

    def run(self, jobs: int) -> float | None:
        """Make so many calls and wait for the last. Returns the seconds that handing the jobs over took, where it is a step."""

    def pick_up(self, jobs: int) -> list[float] | None:
        """Hand jobs over one by one; the seconds each took from there to the provider's socket."""


class InProcess:
    """Calls made by the program itself: the bare SDK, or LiteLLM."""

    def __init__(self, command: list[str | Path], in_flight: int = IN_FLIGHT) -> None:
        self._child = Child(command)
        self._in_flight = in_flight

    def __enter__(self) -> InProcess:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def processes(self) -> dict[str, list[int]]:
        """The one."""
        return {"worker": [self._child.pid]}

    def run(self, jobs: int) -> None:
        """The loop."""
        self._child.ask("run", jobs=jobs, in_flight=self._in_flight)

    def pick_up(self, _jobs: int) -> None:
        """Nothing is handed over."""


def bare(wire: Wire, *, uvloop: bool = False) -> InProcess:
    """The SDK's async client in a loop."""
    more = ["--uvloop"] if uvloop else []
    return InProcess([sys.executable, HERE / "peers/bare_loop.py", "--wire", wire.name, "--url", wire.url, *more])


def litellm(wire: Wire) -> InProcess:
    """A LiteLLM Router."""
    return InProcess([PEERS / "litellm/bin/python", HERE / "peers/litellm_loop.py", "--url", wire.url])


class Queued:
    """A hand-made worker behind a broker: the embedded Valkey, as Trivet uses it."""

    def __init__(self, wire: Wire, peer: str, worker: Callable[[Path], list[str | Path]], producer: str) -> None:
        self._wire = wire
        self._python = PEERS / peer / "bin"
        self._worker_command = worker
        self._producer = producer
        self._folder = Path(tempfile.mkdtemp(prefix="trivet-bench-"))
        self._held = contextlib.ExitStack()
        self._worker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Queued:
        with contextlib.ExitStack() as held:
            held.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._valkey = held.enter_context(EmbeddedValkey(self._folder))
            env = {
                "BENCH_BROKER": celery_url(self._folder),
                "BENCH_REDIS": redis_url(self._folder),
                "BENCH_URL": self._wire.url,
                "PYTHONPATH": f"{HERE}{os.pathsep}{HERE / 'peers'}",
            }
            log = held.enter_context((self._folder / "worker.log").open("wb"))
            self._worker = subprocess.Popen(
                [str(word) for word in self._worker_command(self._python)],
                env={**os.environ, **env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            held.callback(self.stop_worker)
            self._child = Child([self._python / "python", HERE / "peers" / self._producer], env)
            held.callback(self._child.stop)
            self._child.start()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def stop_worker(self) -> None:
        """Kill the worker. Twice does no harm."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # the session we started; a warm shutdown takes its time
        worker.wait()

    def processes(self) -> dict[str, list[int]]:
        """Worker, producer, broker."""
        assert self._worker is not None
        assert self._valkey.pid is not None
        return {"worker": [self._worker.pid], "producer": [self._child.pid], "broker": [self._valkey.pid]}

    def hand_over(self, jobs: int) -> float:
        """Hand jobs over; return the seconds it took."""
        return float(self._child.ask("send", jobs=jobs)["seconds"])

    def run(self, jobs: int) -> float:
        """Hand over, and wait until the simulator has answered the last."""
        control = self._wire.control
        control.reset()
        seconds = self.hand_over(jobs)
        control.wait_for_calls(jobs, FINISH_S)
        time.sleep(LATENCY_S)  # for the worker to be done with them
        return seconds

    def pick_up(self, jobs: int) -> list[float]:
        """From the call of `.delay()` to the provider."""
        control = self._wire.control
        control.reset()
        sent = self._child.ask("trickle", jobs=jobs, every_s=TRICKLE_EVERY_S)["sent"]
        control.wait_for_calls(jobs, FINISH_S)
        return [call.started - sent[call.attempt] for call in control.iter_calls() if call.attempt in sent]


def celery(wire: Wire, pool: str, concurrency: int) -> Queued:
    """A Celery worker of one pool."""

    def command(binaries: Path) -> list[str | Path]:
        options = ["-A", "celery_app", "worker", "-P", pool, "-c", str(concurrency), "--loglevel", "WARNING"]
        return [binaries / "celery", *options, "--without-gossip", "--without-mingle"]

    return Queued(wire, "celery", command, "celery_producer.py")


def taskiq(wire: Wire) -> Queued:
    """A taskiq worker, one process."""

    def command(binaries: Path) -> list[str | Path]:
        options = ["--workers", "1", "--max-async-tasks", str(IN_FLIGHT), "--log-level", "WARNING"]
        return [binaries / "taskiq", "worker", *options, "taskiq_app:broker"]

    return Queued(wire, "taskiq", command, "taskiq_producer.py")
