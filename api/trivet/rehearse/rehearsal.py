"""Running a rehearsal: a real Trivet over the simulator in a temporary folder, from its start to its report."""

import logging
import os
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from trivet.admin import Admin, Progress
from trivet.client.client import Client
from trivet.local.cleaner import cleaned_up
from trivet.local.local_simulator import Simulation, without_settings
from trivet.local.local_trivet import LocalTrivet
from trivet.local.temporary import Stopping, log_to
from trivet.plan.planner import Planner
from trivet.rehearse.outages import Outage, OutagePlayer
from trivet.rehearse.pace import FIRST_TOKEN_P95_S, FIRST_TOKEN_S, Workplan
from trivet.rehearse.report import ClassReport, RehearsalReport, advice, class_reports, inaccuracies, route_reports
from trivet.rehearse.scaling import scaled_config, scaled_route
from trivet_routing.route_choice import Requirements
from trivet_simulator import Control
from trivet_tasks.config.addresses import api_address
from trivet_tasks.config.environment_faults import PROXIES
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import BrokerUnavailable, ProcessFailed, StoreUnavailable, TrivetError
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.processes.signals import StopSignals, interrupt
from trivet_tasks.requests.jsonl import FileCheck, read_file

BATCH = "rehearsal"
READY_S = 90.0
LOOK_EVERY_S = 0.1
_LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A rehearsal to run."""

    settings: Settings
    """The user's own."""
    check: FileCheck
    defaults: Mapping[str, Any]
    """Laid under every request of the file."""
    workplan: Workplan
    outages: tuple[Outage, ...]
    """Their starts are known."""
    speed: float
    sample: int
    """Number of requests that are rehearsed, spread over the file."""
    limit_s: float
    """Rehearsed seconds after which it is broken off."""
    workers: int = 1

    @property
    def share(self) -> float:
        """The part of the requests that is rehearsed."""
        return self.sample / self.workplan.requests

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes that its requests need."""
        return tuple(dict.fromkeys(latency.lane for latency in self.workplan.classes))


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a running rehearsal, for a display."""

    at_s: float
    """Rehearsed seconds since the first job."""
    progress: Progress
    active: tuple[Outage, ...]
    """Outages under way."""


def run_rehearsal(rehearsal: Rehearsal, show: Callable[[Moment], None], say: Callable[[str], None]) -> RehearsalReport:
    """Run it and return its report. Ctrl-C and other stop signals break it off, with what is known so far.

    Everything is stopped and removed by then, also if this process is killed.

    Args:
        show: called several times a second.
        say: called with each line on the progress of the start.

    Raises:
        KeyboardInterrupt: stopped before the first job was submitted.
        ProcessFailed: a part does not run, or cannot work as configured.
    """
    folder = Path(tempfile.gettempdir()) / f"trivet-rehearse-{secrets.token_hex(6)}"
    with StopSignals(interrupt), cleaned_up(folder), without_settings(), _without_proxies():
        folder.mkdir(mode=0o700)
        with log_to(folder / "rehearse.log"):
            try:
                return _run(folder, rehearsal, show, say)
            except (TrivetError, OSError) as error:
                raise ProcessFailed(f"The rehearsal broke off: {error}{_last_words(folder)}") from error


def _run(
    folder: Path, rehearsal: Rehearsal, show: Callable[[Moment], None], say: Callable[[str], None]
) -> RehearsalReport:
    config = folder / "trivet.toml"
    written = scaled_config(rehearsal.settings, rehearsal.workplan, rehearsal.lanes, rehearsal.speed)
    config.write_text(written, encoding="utf-8")
    local = LocalTrivet(
        load_settings(config), workers=rehearsal.workers, lanes=rehearsal.lanes, simulation=_simulation(rehearsal)
    )
    workers = "a worker" if rehearsal.workers == 1 else f"{rehearsal.workers} workers"
    say(f"Starting an embedded broker, the simulated providers, a scheduler and {workers}")
    with local, Stopping(local):
        _check_local(local.settings)
        local.wait_ready(READY_S)
        assert local.simulator is not None
        wires = {name: _wire(route) for name, route in rehearsal.settings.routes.items()}
        control = Control(local.simulator.control)
        player = OutagePlayer(control, rehearsal.outages, speed=rehearsal.speed, wires=wires)
        with Admin(settings=local.settings) as admin:
            return _Run(rehearsal, local, admin, player, show).to_the_end(say)


class _Run:
    """The requests, from the first one submitted to the report."""

    def __init__(
        self,
        rehearsal: Rehearsal,
        local: LocalTrivet,
        admin: Admin,
        player: OutagePlayer,
        show: Callable[[Moment], None],
    ) -> None:
        self._rehearsal = rehearsal
        self._local = local
        self._admin = admin
        self._player = player
        self._show = show
        self._stranded = 0
        self._models = {needs.model for needs in rehearsal.workplan.needs}
        self._held_open_s: defaultdict[str, float] = defaultdict(float)
        self._seen_s = 0.0

    def to_the_end(self, say: Callable[[str], None]) -> RehearsalReport:
        """Submit the requests and watch them until all have ended, or time is up."""
        with Client(settings=self._local.settings) as client:
            client.submit_specs(self._specs(client.now()), name=BATCH)
        began = time.monotonic()
        broken_off, interrupted = "", False
        try:
            say("The requests are submitted. The clock runs.")
            while (progress := self._look(began)) is None or not self._over(progress):
                if self._seen_s > self._rehearsal.limit_s:
                    broken_off = "time was up (--for)"
                    break
                self._local.keep_broker()
                time.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            broken_off, interrupted = "it was stopped", True
        return self._report(broken_off, interrupted=interrupted)

    def _specs(self, now: float) -> Iterator[JobSpec]:
        """Yield the sample, with its times on the scaled clock. Warnings are for the real submit."""
        rehearsal, base, speed = self._rehearsal, self._rehearsal.check.checked_at, self._rehearsal.speed
        for number, spec in enumerate(read_file(rehearsal.check, rehearsal.settings, rehearsal.defaults)):
            if not is_sampled(number, rehearsal.sample, rehearsal.workplan.requests):
                continue
            if spec.deadline_at is None and _needs(spec) in rehearsal.workplan.stranded:
                self._stranded += 1
            yield replace(
                spec,
                warnings=(),
                deadline_at=None if spec.deadline_at is None else now + (spec.deadline_at - base) / speed,
                not_before=None if spec.not_before is None else now + (spec.not_before - base) / speed,
            )

    def _over(self, progress: Progress) -> bool:
        """Return whether all jobs have ended but those that no route can ever take."""
        return progress.done or (progress.running == 0 and progress.total - progress.ended <= self._stranded)

    def _look(self, began: float) -> Progress | None:
        now_s = (time.monotonic() - began) * self._rehearsal.speed
        self._player.play(now_s)
        passed_s, self._seen_s = now_s - self._seen_s, now_s
        try:
            progress = self._admin.batches.progress(BATCH)
            shut = self._shut()
        except (StoreUnavailable, BrokerUnavailable) as error:
            log.warning("cannot be read: %s", error)
            return None
        for route in shut:
            self._held_open_s[route] += passed_s
        self._show(Moment(now_s, progress, self._player.active))
        return progress

    def _shut(self) -> set[str]:
        """Return the routes that take only probes, for any of the models."""
        return {
            route
            for model in self._models
            for route, breaker in self._admin.routes.breakers(model).items()
            if breaker.shut
        }

    def _report(self, broken_off: str, *, interrupted: bool) -> RehearsalReport:
        rehearsal, workplan = self._rehearsal, self._rehearsal.workplan
        budgets_s = {latency: one.budget_s / rehearsal.speed for latency, one in workplan.times.items()}
        classes = class_reports(self._admin.batches.ends(BATCH, budgets_s), rehearsal.speed)
        routes = route_reports(
            self._admin.attempts.by_route(),
            rehearsal.outages,
            tuple(rehearsal.settings.routes),
            self._held_open_s,
        )
        planned_usd = workplan.planned_usd
        return RehearsalReport(
            requests=workplan.requests,
            rehearsed=sum(one.jobs for one in classes),
            speed=rehearsal.speed,
            took_s=self._seen_s,
            planned_s=workplan.planned_s,
            planned_usd=None if planned_usd is None else planned_usd * rehearsal.sample / workplan.requests,
            classes=classes,
            routes=routes,
            broken_off=broken_off,
            interrupted=interrupted,
            remarks=(
                *inaccuracies(rehearsal.settings, workplan, routes, rehearsal.speed, rehearsal.share),
                *self._waiting(classes),
                *advice(Planner(rehearsal.settings), workplan, classes, routes),
            ),
        )

    def _waiting(self, classes: Sequence[ClassReport]) -> Iterator[str]:
        """Yield why jobs still waited at the end."""
        if any(one.waiting for one in classes):
            for note in self._admin.batches.blocked(BATCH).notes:
                yield f"At the end jobs waited: {note}"


def is_sampled(number: int, sample: int, total: int) -> bool:
    """Return whether a request is in the sample: one at random, always the same, of each of `sample` equal parts.

    Not the first of each part: where kinds of requests alternate in a file, that might meet one kind alone.
    """
    part = number * sample // total
    first, after = -(-part * total // sample), -(-(part + 1) * total // sample)
    return number == first + Random(part).randrange(after - first)


def _needs(spec: JobSpec) -> Requirements:
    """Return a request's requirements as a plan counts them, regardless of the class."""
    return Requirements(spec.model, Latency.BATCH, spec.residency, spec.compliance, spec.features)


def _simulation(rehearsal: Rehearsal) -> Simulation:
    """Return a provider of its own for each route, whose answers come at the scaled pace."""
    workplan, speed, routes = rehearsal.workplan, rehearsal.speed, rehearsal.settings.routes
    figures: dict[str, float] = {
        "--latency-median": FIRST_TOKEN_S / speed,
        "--latency-p95": FIRST_TOKEN_P95_S / speed,
        "--latency-per-token": 1 / workplan.tokens_per_s / speed,
    }
    return Simulation(
        arguments=(
            *(word for name, value in figures.items() for word in (name, f"{value:.6f}")),
            *("--output-median", str(workplan.output_tokens), "--models", "*"),
        ),
        routes={name: scaled_route(route, speed, rehearsal.share) for name, route in routes.items()},
        wires={name: _wire(route) for name, route in routes.items()},
    )


def _wire(route: RouteSettings) -> str:
    return route.provider if route.endpoint == "invoke" else route.endpoint


def _check_local(settings: Settings) -> None:
    """Make sure that every call of these routes stays on this machine. ProcessFailed where one would not."""
    for name, route in settings.routes.items():
        if urlsplit(api_address(route) or "").hostname != _LOOPBACK or route.environment:
            raise ProcessFailed(f"The route {name} does not lead to the simulator on this machine.")


@contextmanager
def _without_proxies() -> Iterator[None]:
    """Hide the variables that name a proxy, here and for the processes started inside: calls go to this machine."""
    hidden = {name: os.environ.pop(name) for name in PROXIES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _last_words(folder: Path) -> str:
    """Return the last line of each part's log, as the folder is about to go."""
    lines = []
    for path in sorted(folder.glob(".trivet/logs/*.log")):
        with suppress(OSError, IndexError):
            lines.append(f"\n  {path.stem}: {path.read_text(encoding='utf-8', errors='replace').splitlines()[-1]}")
    return "".join(lines)
