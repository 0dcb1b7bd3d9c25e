"""One doomed system per database serves the suite. `CHAOS_SEED` repeats the random parts of a run."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.running import Chaos, chaos_system
from tests.databases import migrated
from tests.faults.pool import Names, Shape
from tests.postgres import PostgresServer

HERE = Path(__file__).parent
TIMEOUT_S = 300
DATABASES = ("sqlite", "postgres")
MAIN = Names("main", Shape(legs=3))
LIMITED = Names("limited", Shape(legs=1))
PAUSED = Names("paused", Shape(legs=1))
FAILOVER = Names("failover", Shape(legs=2))
CONCURRENCY = 8
REQUESTS_PER_MINUTE = 1200


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one system stay in one process of xdist."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
        callspec = getattr(item, "callspec", None)
        if callspec and (database := callspec.params.get("chaos_database")):
            item.add_marker(pytest.mark.xdist_group(f"chaos-{database}"))


@pytest.fixture(scope="session", params=DATABASES)
def chaos_database(request: pytest.FixtureRequest) -> str:
    """The kind of database."""
    return str(request.param)


@pytest.fixture(scope="session")
def chaos_postgres(chaos_database: str) -> Iterator[PostgresServer | None]:
    """A PostgreSQL of the suite's own, which keeps what it committed when it is killed; None on SQLite."""
    if chaos_database != "postgres":
        yield None
        return
    with PostgresServer(durable=True) as server:
        yield server


@pytest.fixture(scope="session")
def system(chaos_postgres: PostgresServer | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """The system, started once."""
    url = ""
    if chaos_postgres is not None:
        url = migrated(chaos_postgres.create_database("chaos"))
    folder: Path = tmp_path_factory.mktemp("chaos")
    limits = {"limited-anthropic": {"max_concurrency": CONCURRENCY, "requests_per_minute": REQUESTS_PER_MINUTE}}
    with chaos_system(folder, url, [MAIN, LIMITED, PAUSED, FAILOVER], route_settings=limits) as running:
        yield running


@pytest.fixture
def chaos(system: Chaos) -> Chaos:
    """The system with every part running, and a clean slate."""
    system.local.wait_ready()
    system.begin()
    return system


@pytest.fixture
def seed() -> int:
    """Seed of random choices; shown when a test fails."""
    chosen = int(os.environ.get("CHAOS_SEED", "") or random.randrange(1_000_000))
    print(f"CHAOS_SEED={chosen}")  # noqa: T201
    return chosen
