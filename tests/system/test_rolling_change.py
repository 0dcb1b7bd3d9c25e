"""Limits that change while two schedulers and three workers are under load: every process is restarted with the new file."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import run_trivet
from tests.databases import migrated
from tests.postgres import PostgresServer
from tests.timing import until

from trivet import Client
from trivet.local.child_process import Exit
from trivet.local.local_simulator import Simulation
from trivet.local.local_trivet import LocalTrivet
from trivet.testing import QUICK
from trivet_simulator import Control
from trivet_simulator.calls import Call
from trivet_store import events
from trivet_store.cluster import leases, registry
from trivet_store.database.engine import Store
from trivet_tasks.config.finding import CONFIG_VARIABLE
from trivet_tasks.config.settings import Settings, load_settings

pytestmark = pytest.mark.timeout(600)  # 13 processes are started, one after the other

ROUTES = {"anthropic": "anthropic", "bedrock": "bedrock-us-east-1", "vertex": "vertex-global"}
WORKERS = tuple(f"worker-{number}-bulk" for number in range(1, 4))
SCHEDULERS = ("scheduler", "scheduler-2")
MANY, FEW = 12, 3
"""Calls at once, of each route, before and after."""
HOLDS_WITHIN_S = 2.0
READY_S = 120.0
DEADLINE_S = 90.0
LATENCY_S = 0.8
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40, "latency": "batch"}


@dataclass
class Fleet:
    """Two schedulers and three workers over the simulator."""

    local: LocalTrivet
    simulator: Control
    client: Client
    store: Store
    exits: list[Exit]
    config: Path

    def write(self, old: str, new: str) -> None:
        """Change the file that all processes read."""
        text = self.config.read_text(encoding="utf-8")
        assert old in text
        self.config.write_text(text.replace(old, new), encoding="utf-8")

    def restart(self, name: str, config: Path | None = None) -> None:
        """Stop one process in order, and start it again, with another file where one is named."""
        self.local.supervisor.end(name, 20)
        arguments = ("scheduler",) if name in SCHEDULERS else ("worker", "--lane", "bulk")
        self.local.start_part(name, *arguments, env={} if config is None else {CONFIG_VARIABLE: str(config)})
        self.local.supervisor.wait_ready(name, READY_S)

    def routes(self) -> dict[str, registry.RegisteredRoute]:
        with self.store.read() as connection:
            return registry.registered(self.store, connection)

    def events(self, kind: str) -> list[str]:
        with self.store.read() as connection:
            return [f"{one.route} {one.text}" for one in events.latest(connection, since=0) if one.kind == kind]

    def most_at_once(self, since: float) -> dict[str, int]:
        """The most calls that each provider had in flight at any moment since then."""
        return {provider: _most_at_once(self.simulator.calls(provider=provider), since) for provider in ROUTES}


def _most_at_once(calls: list[Call], since: float) -> int:
    steps = sorted(
        step
        for call in calls
        if call.finished is None or call.finished > since
        for step in ((max(call.started, since), 1), (call.finished or float("inf"), -1))
    )
    most = now = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


@pytest.fixture(params=["sqlite", "postgres"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Two schedulers and three workers, and a broker, on either database."""
    for name in os.environ:
        if name.startswith("TRIVET_"):
            monkeypatch.delenv(name)
    start = tmp_path / "trivet.toml"
    start.touch()
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        start.write_text(f'[store]\nurl = "{server.create_database("rolling")}"\n')
        migrated(load_settings(start).store_url)
    limits = {route: {"max_concurrency": MANY} for route in ROUTES.values()}
    options = ("--latency-median", f"{LATENCY_S}", "--latency-p95", f"{2 * LATENCY_S}", "--seed", "1")
    exits: list[Exit] = []
    with contextlib.ExitStack() as started:
        local = started.enter_context(
            LocalTrivet(
                load_settings(start),
                config_path=start,
                workers=len(WORKERS),
                lanes=("bulk",),
                simulation=Simulation(options, limits, QUICK),
                on_exit=exits.append,
            )
        )
        local.start_part(SCHEDULERS[1], "scheduler")
        local.wait_ready(READY_S)
        assert local.simulator is not None
        assert local.config_path is not None
        settings: Settings = local.settings
        store = started.enter_context(contextlib.closing(Store(settings.store_url)))
        client = started.enter_context(Client(settings=settings))
        yield Fleet(local, Control(local.simulator.control), client, store, exits, local.config_path)
    if request.param == "postgres":
        server.drop_database("rolling")


class Load:
    """Submits batches one after another until it is stopped, and keeps how their jobs ended."""

    def __init__(self, client: Client) -> None:
        self.ended: dict[str, int] = {}
        self._client = client
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]
        self._counting = threading.Lock()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, thread: int) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            requests = [{"prompt": f"Page {page} of {thread}-{number}"} for page in range(60)]
            batch = self._client.submit_many(requests, name=f"load-{thread}-{number}", **TERMS)
            for result in batch.results(timeout=DEADLINE_S):
                with self._counting:
                    self.ended[result.status] = self.ended.get(result.status, 0) + 1


def test_a_rolling_change_of_limits_fails_no_job_and_holds_within_two_seconds(fleet: Fleet, tmp_path: Path) -> None:
    old = Path(shutil.copyfile(fleet.config, fleet.config.with_name("old.toml")))
    with Load(fleet.client) as load:
        for provider in ROUTES:
            fleet.simulator.wait_for_calls(100, DEADLINE_S, provider=provider)
        assert min(fleet.most_at_once(0).values()) > FEW, "the old limit is used"
        fleet.write(f"max_concurrency = {MANY}", f"max_concurrency = {FEW}")
        fleet.restart(SCHEDULERS[0])
        changed_at = max(route.version_at or 0 for route in fleet.routes().values())
        for name in (WORKERS[0], SCHEDULERS[1], *WORKERS[1:]):
            fleet.restart(name)
        fleet.restart(WORKERS[0], old)  # a pod that comes up with the file of yesterday
        until(lambda: time.time() > changed_at + HOLDS_WITHIN_S + 4, "some calls under the new limit")
        at_once = fleet.most_at_once(changed_at + HOLDS_WITHIN_S + 2 * LATENCY_S)
        until(lambda: load.ended.get("succeeded", 0) > 100, "jobs to end")
    assert set(load.ended) == {"succeeded"}, "no job fails"
    assert max(at_once.values()) == FEW
    assert fleet.exits == [], "no process ended by itself, with 2 or otherwise"
    assert {route.settings.max_concurrency for route in fleet.routes().values()} == {FEW}
    changes = fleet.events("route changed")
    assert sorted(line.split(" ")[0] for line in changes) == sorted(ROUTES.values()), "each was changed once"
    assert all(f"max_concurrency {MANY} -> {FEW}; by scheduler." in line for line in changes)
    said = fleet.local.log_path(WORKERS[0]).read_text(encoding="utf-8")
    assert f"has an older version of its figures, which changes nothing (max_concurrency {FEW} -> {MANY})" in said


@pytest.mark.parametrize("fleet", ["sqlite"], indirect=True)
def test_a_worker_of_another_place_serves_a_route_once_its_file_is_applied(fleet: Fleet) -> None:
    new = Path(shutil.copyfile(fleet.config, fleet.config.with_name("new.toml")))
    text = new.read_text(encoding="utf-8")
    new.write_text(text.replace("[routes.anthropic]", '[routes.anthropic]\nresidency = ["us"]'), encoding="utf-8")

    def impaired() -> dict[str, str]:
        with fleet.store.read() as connection:
            return {
                lease.worker: lease.impaired["anthropic"]
                for lease in leases.living(fleet.store, connection)
                if "anthropic" in lease.impaired
            }

    fleet.restart(WORKERS[0], new)
    pids = {name: fleet.local.supervisor.pid(name) for name in WORKERS}
    until(lambda: len(impaired()) == 1, "the worker with the new file to take no work of the route")
    ((worker, reason),) = impaired().items()
    assert f".{pids[WORKERS[0]]}@" in worker
    assert f"from {new} has another residency than the workers that serve the route now." in reason
    with Load(fleet.client) as load:
        until(lambda: load.ended.get("succeeded", 0) > 60, "jobs to end on the other workers and routes")
        applied = run_trivet("--config", str(new), "config", "apply", "--places", "--json")
        assert applied.json["changes"] == {"anthropic": ["residency as in this file"]}
        until(
            lambda: worker not in impaired() and len(impaired()) == len(WORKERS) - 1,
            "the others to take no more work of the route",
        )
        asked = fleet.client.submit("Where am I?", **{**TERMS, "residency": ["us"]})
        assert asked.result(timeout=DEADLINE_S).route == "anthropic"
    assert set(load.ended) == {"succeeded"}
    assert fleet.exits == []
    assert {name: fleet.local.supervisor.pid(name) for name in WORKERS} == pids
