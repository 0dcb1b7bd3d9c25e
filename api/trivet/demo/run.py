"""Running the demo from the first process started to the last one gone.

The routes' limits are what makes the run last: long enough to see an outage and the recovery, and no longer. They grow
and shrink with the number of documents, within what two cores can do. What is done to the providers goes by how far the
batch is, not by the clock.
"""

import contextlib
import errno
import queue
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from trivet.admin import Admin
from trivet.client.client import Client
from trivet.demo.documents import BATCH, MAX_TOKENS, MODEL, prompts
from trivet.demo.ledger import DemoResult, Reading, audit, read
from trivet.demo.screen import View
from trivet.demo.watch import ConditionMonitor, Journal, State
from trivet.local.child_process import Exit
from trivet.local.cleaner import cleaned_up
from trivet.local.local_simulator import Simulation, without_settings
from trivet.local.local_trivet import LocalTrivet
from trivet.local.temporary import Stopping, log_to
from trivet_simulator import Control
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import BrokerUnavailable, ProcessFailed, StoreUnavailable, TrivetError
from trivet_tasks.latency import Lane
from trivet_tasks.processes.signals import STOP_SIGNALS, StopSignals, interrupt

READ_EVERY_S = 0.2
READY_S = 60.0
STALLED_S = 60.0
"""Seconds without an ended job after which a run is given up."""
FULL_STOP_S = 3.0
"""Seconds for which no route at all takes calls."""

ANTHROPIC, BEDROCK, VERTEX = "anthropic", "bedrock-us-east-1", "vertex-global"
"""The routes, by their names in `trivet.local.local_simulator.ROUTES`."""

_CONFIG = """\
# Written by `trivet demo`. Probes and steps are shorter than the defaults, so that less than a minute shows them all.
[health]
probe_interval_s = 1.5
recovery_step_s = 2

[worker]
shutdown_grace_s = 2
"""
_PER_MINUTE = {ANTHROPIC: 1_560, BEDROCK: 1_320, VERTEX: 1_320}
"""Requests for a run of 1,000 documents; with one route of three left, about 25 s altogether."""
_CONCURRENCY = {ANTHROPIC: 24, BEDROCK: 20, VERTEX: 16}
"""Calls in flight: about what these rates need at the simulator's latency."""
_SLOWEST, _FASTEST = 0.25, 4.0


class Step(NamedTuple):
    """One step of the story: the share of ended jobs at which it begins, the text for a person, and the action."""

    at: float
    text: str
    do: Callable[[Control], None]


def _bring_back(control: Control) -> None:
    control.up("bedrock")
    control.clear("vertex")


STEPS = (
    Step(
        0.15,
        "Vertex AI refuses three calls of four: 429, retry-after 3 s",
        lambda control: control.fault("vertex", 429, share=0.75, retry_after_s=3.0),
    ),
    Step(0.25, "Bedrock goes down: its port is closed", lambda control: control.down("bedrock")),
    Step(
        0.42,
        f"the Anthropic API answers 429 as well, for {FULL_STOP_S:g} s",
        lambda control: control.fault("anthropic", 429, for_s=FULL_STOP_S),
    ),
    Step(0.60, "Bedrock and Vertex AI come back", _bring_back),
)


def run_demo(jobs: int, workers: int, view: View) -> DemoResult:
    """Run it in a temporary folder, which is removed at the end, and kept when the demo failed.

    Raises:
        KeyboardInterrupt: on SIGINT, SIGTERM or SIGHUP, or when its output went away; everything is stopped and removed by then.
        ProcessFailed: it could not be run to its end; says where the logs are.
    """
    folder = Path(tempfile.gettempdir()) / f"trivet-demo-{secrets.token_hex(6)}"
    with StopSignals(interrupt), cleaned_up(folder) as cleanup:
        try:
            folder.mkdir(mode=0o700)
            with without_settings(), log_to(folder / "demo.log"):
                outcome = _run(folder, jobs, workers, view)
            cleanup.keep = not outcome.good
        except (TrivetError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EPIPE):
                raise KeyboardInterrupt from None  # the terminal or the pipe is gone: nobody watches any more
            cleanup.keep = True
            raise ProcessFailed(f"The demo broke off: {error}", hint=f"Its logs are in {folder}.") from error
        finally:
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # it is all but over
            with contextlib.suppress(OSError):
                view.finish(None)
        if cleanup.keep:
            view.starting(f"The database and the logs of this run are kept in {folder}.")
            view.finish(None)
        return outcome


def _run(folder: Path, jobs: int, workers: int, view: View) -> DemoResult:
    ends: queue.SimpleQueue[Exit] = queue.SimpleQueue()  # told from another thread
    config = folder / "trivet.toml"  # the simulated routes are added to it
    config.write_text(_CONFIG, encoding="utf-8")
    settings = load_settings(config)
    local = LocalTrivet(settings, workers=workers, lanes=(Lane.BULK,), simulation=_simulation(jobs), on_exit=ends.put)
    stopping = Stopping(local)
    try:
        view.starting(f"Starting Valkey, the simulated providers, a scheduler and {workers} workers")
        with local, stopping:
            local.wait_ready(READY_S)
            assert local.simulator is not None
            control = Control(local.simulator.control)
            with Admin(settings=local.settings) as admin:  # connections of its own: it does not disturb the work
                state = _Run(local, admin, control, ends, view, jobs).to_the_end()
                ledger = audit(admin, control, jobs)
            view.finish(state)
            view.starting("Stopping all of it")
        if stopping.hastened:
            raise KeyboardInterrupt
    except BaseException:
        view.finish(None)
        if left := stopping.left_behind():
            view.starting(f"Processes left behind: {', '.join(map(str, left))}")
        raise
    return DemoResult(ledger, state.elapsed_s, state.watch.throttled_s, stopping.left_behind())


class _Run:
    """The batch, from its first document to its last result."""

    def __init__(
        self,
        local: LocalTrivet,
        admin: Admin,
        control: Control,
        ends: "queue.SimpleQueue[Exit]",
        view: View,
        jobs: int,
    ) -> None:
        self._local = local
        self._admin = admin
        self._control = control
        self._steps = list(STEPS)
        self._journal = Journal()
        self._ends = ends
        self._view = view
        self._jobs = jobs
        self._submitted = 0
        self._shown_at = 0.0
        self._began = time.monotonic()
        self._watch = ConditionMonitor(self._journal, self._began)

    def to_the_end(self) -> State:
        """Submit everything, then watch it until every job has ended or nothing moves any more."""
        self._submit()
        moved_at, ended = time.monotonic(), -1
        while True:
            state = self._look()
            if state is not None and state.reading is not None:
                self._view.show(state)
                progress = state.reading.progress
                if progress.done:
                    return state
                if progress.ended != ended:
                    moved_at, ended = time.monotonic(), progress.ended
            if time.monotonic() - moved_at > STALLED_S:
                if state is None:
                    raise ProcessFailed("The database or the broker does not answer any more.")
                self._journal.add(state.elapsed_s, "demo", f"gives up: no job has ended for {STALLED_S:g} s")
                return state
            time.sleep(READ_EVERY_S)

    def _submit(self) -> None:
        with Client(settings=self._local.settings) as client:
            client.submit_many(self._documents(), name=BATCH, model=MODEL, max_tokens=MAX_TOKENS, latency="batch")
        took_s = time.monotonic() - self._began
        self._journal.add(took_s, "demo", f"{self._jobs:,} documents are submitted as one batch")

    def _documents(self) -> Iterator[dict[str, str]]:
        for prompt in prompts(self._jobs):
            yield {"prompt": prompt}
            self._submitted += 1
            if time.monotonic() - self._shown_at > READ_EVERY_S:
                self._shown_at = time.monotonic()
                self._view.show(self._state(None))

    def _look(self) -> State | None:
        """Take a reading and the steps that are due by it; None when nothing can be read at the moment."""
        try:
            reading = read(self._admin)
        except (StoreUnavailable, BrokerUnavailable):
            return None
        self._watch.update(reading)
        while not self._ends.empty():
            ended = replace(self._ends.get(), last_line="")  # that is in its log
            self._journal.add(time.monotonic() - self._began, "trivet", str(ended))
        while self._steps and self._steps[0].at <= reading.share < 1:
            step = self._steps.pop(0)
            step.do(self._control)
            self._journal.add(time.monotonic() - self._began, "demo", step.text)
        return self._state(reading)

    def _state(self, reading: Reading | None) -> State:
        at = reading.at if reading is not None else time.monotonic()
        return State(at - self._began, self._jobs, self._submitted, reading, self._watch, self._journal)


def _simulation(jobs: int) -> Simulation:
    """Three providers with a latency of 0.35 s at the median and 1 s at p95, and routes with limits."""
    pace = min(_FASTEST, max(_SLOWEST, jobs / 1_000))
    limits: dict[str, dict[str, Any]] = {
        route: {
            "requests_per_minute": round(_PER_MINUTE[route] * pace),
            "max_concurrency": max(4, round(_CONCURRENCY[route] * pace)),
        }
        for route in _PER_MINUTE
    }
    return Simulation(
        arguments=("--latency-median", "0.35", "--latency-p95", "1.0"),
        route_settings=limits,
        sections={"worker": {"lanes": [Lane.BULK.value]}},
    )
