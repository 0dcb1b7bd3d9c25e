"""A running Trivet over the simulator, for your own tests. pytest finds the fixtures by itself:

def test_my_summary(trivet_client):
    job = trivet_client.submit("Summarise: …", model="claude-haiku-4-5", max_tokens=100)
    assert job.result(timeout=30).status == "succeeded"

def test_my_patience(trivet_running):
    trivet_running.simulator.fault("bedrock", "overloaded")
    …

It is real: the embedded broker, a scheduler and a worker as processes, started once per session (a few seconds) in a
temporary folder; only the providers are simulated. Needs `trivet[worker,embedded]`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trivet.client import Client
    from trivet.local import LocalTrivet
    from trivet_simulator import Control
    from trivet_tasks.settings import Settings

QUICK: Mapping[str, Mapping[str, Any]] = {
    "health": {"probe_interval_s": 1.0, "limited_backoff_s": 0.5},
    "dispatch": {"interval_s": 0.1},
    "worker": {"shutdown_grace_s": 1.0, "slots": 64},
    "cache": {"enabled": False},
}
"""Settings that make a test short, and its calls its own: no answer that another test's request brought."""
READY_S = 60.0


@dataclass(frozen=True)
class RunningTrivet:
    """A Trivet that runs on this machine, with a client of it and the controls of its simulator."""

    client: "Client"
    simulator: "Control"
    """Faults, limits, latency and the log of calls; see `trivet_simulator.Control`."""
    settings: "Settings"
    local: "LocalTrivet" = field(repr=False)
    """The processes: their ids, logs, and how to stop one."""

    def reset(self) -> None:
        """Take back every fault and limit, and make every route healthy again."""
        from trivet_scheduler.limits import Limits
        from trivet_tasks.shared_state import connect
        from trivet_tasks.store import health

        self.simulator.reset()
        shared = connect(self.settings.redis_url)
        limits = Limits(shared, self.settings.health)
        for name in self.settings.routes:
            limits.forget(name)
        store = self.client._connections.store
        with store.write() as connection:
            for name in self.settings.routes:
                health.forget(connection, name, store.now(connection))
        shared.close()


@contextlib.contextmanager
def running_trivet(
    folder: Path,
    *,
    store_url: str = "",
    broker_url: str = "",
    redis_url: str = "",
    workers: int = 1,
    simulator: tuple[str, ...] = ("--latency-median", "0.05", "--latency-p95", "0.15", "--seed", "1"),
    route_settings: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] = QUICK,
    ready_s: float = READY_S,
) -> Iterator[RunningTrivet]:
    """Start a Trivet over the simulator and stop it at the end.

    Args:
        folder: where it keeps its files, `.trivet/` in it.
        store_url: the database; SQLite in the folder when not given. PostgreSQL must be migrated.
        broker_url, redis_url: Celery's broker and the shared state; the embedded Valkey when not given.
        workers: how many, each with a process per lane.
        simulator: options of `trivet simulate`.
        route_settings: by route (`anthropic`, `bedrock-us-east-1`, `vertex-global`), settings to add.
        sections: further tables of the configuration.
        ready_s: how long its processes may take to start, in seconds.
    """
    from trivet.client import Client
    from trivet.local import LocalTrivet
    from trivet.local_simulator import Simulation
    from trivet_simulator import Control
    from trivet_tasks.settings import load_settings

    folder.mkdir(parents=True, exist_ok=True)
    start = folder / "trivet.toml"
    urls = {"store": store_url, "broker": broker_url, "redis": redis_url}
    start.write_text("".join(f'[{name}]\nurl = "{url}"\n' for name, url in urls.items() if url), encoding="utf-8")
    settings = load_settings(start)
    simulation = Simulation(simulator, route_settings or {}, sections)
    with LocalTrivet(settings, config_path=start, workers=workers, simulation=simulation) as local:
        local.wait_ready(ready_s)
        assert local.simulator is not None
        with Client(settings=local.settings) as client:
            yield RunningTrivet(client, Control(local.simulator.control), local.settings, local)


@pytest.fixture(scope="session")
def trivet_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """One running Trivet for the whole session."""
    with running_trivet(tmp_path_factory.mktemp("trivet")) as running:
        yield running


@pytest.fixture
def trivet_client(trivet_running: RunningTrivet) -> "Client":
    """A client of the session's Trivet, every simulated fault taken back."""
    trivet_running.reset()
    return trivet_running.client
