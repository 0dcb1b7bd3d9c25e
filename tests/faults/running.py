"""The one system that serves the suite: a simulator, a scheduler, and four workers: three bulk, one realtime."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.ledger import HAIKU
from tests.faults.pool import Names, Shape, simulator_arguments, write_config

from trivet import Client
from trivet.local.local_trivet import LocalTrivet
from trivet_simulator.client import Control
from trivet_simulator.process import SimulatorProcess
from trivet_store.database.engine import Store
from trivet_tasks.config.settings import Settings, load_settings

BULK_WORKERS = 3
READY_S = 90.0
WARM = Names("warm", Shape())
"""Routes for the first jobs of all."""


@dataclass(frozen=True)
class System:
    """A Trivet over a pool of routes, with a client of it, its database, and the controls of its simulator."""

    client: Client
    simulator: Control
    settings: Settings
    store: Store
    config: Path


@contextlib.contextmanager
def running_system(folder: Path, store_url: str, pool: Sequence[Names]) -> Iterator[System]:
    """Start it, and stop it at the end.

    Args:
        store_url: a migrated database; empty for SQLite in the folder.
    """
    pool = [WARM, *pool]
    with SimulatorProcess(*simulator_arguments(pool)) as simulator:
        config = write_config(folder / "trivet.toml", store_url, pool, simulator.endpoints.providers)
        settings = load_settings(config)
        with LocalTrivet(settings, config_path=config, workers=1) as local:
            for number in range(2, BULK_WORKERS + 1):
                local.start_part(f"worker-{number}-bulk", "worker", "--lane", "bulk")
            local.wait_ready(READY_S)
            with Client(settings=settings) as client:
                _warm_up(client)
                store = Store(settings.store_url)
                try:
                    yield System(client, simulator.control, settings, store, config)
                finally:
                    store.close()


def _warm_up(client: Client) -> None:
    """Do what is slow once, such as loading Celery in this process, before anybody measures a realtime job's time."""
    for latency in ("batch", "realtime"):
        terms: dict[str, Any] = {"model": HAIKU, "max_tokens": 10, "compliance": [WARM.tag], "latency": latency}
        client.submit("Warm up.", **terms).result(timeout=READY_S)
