"""One running system per database serves the suite; every test gets fresh routes of it.

A test says what it needs of its routes by the marker `legs(first=…, stream=…, legs=…)` or by parameters of these names
(`pool.Shape`).
"""

from collections.abc import Iterator
from dataclasses import fields

import pytest
from tests.databases import migrated
from tests.faults.legs import Legs
from tests.faults.pool import Names, Shape
from tests.faults.running import System, running_system
from tests.postgres import PostgresServer

DATABASES = ("sqlite", "postgres")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "legs(first, stream, legs): the routes a fault test asks for")
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one running system stay in one process of xdist, so that there is one system per database."""
    for item in items:
        if database := _database(item):
            item.add_marker(pytest.mark.xdist_group(f"faults-{database}"))


def _database(item: pytest.Item) -> str | None:
    """The database of a test of this suite; None for any other test."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("fault_database") if callspec else None


def _shape(item: pytest.Item) -> Shape:
    marker = item.get_closest_marker("legs")
    asked = {**(marker.kwargs if marker else {}), **item.callspec.params}  # type: ignore[attr-defined]
    return Shape(**{field.name: asked[field.name] for field in fields(Shape) if field.name in asked})


@pytest.fixture(scope="session", params=DATABASES)
def fault_database(request: pytest.FixtureRequest) -> str:
    """The kind of database."""
    return str(request.param)


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest, fault_database: str) -> dict[str, Names]:
    """By test, its routes: for all tests that were selected on this database."""
    mine = [item for item in request.session.items if _database(item) == fault_database]
    return {item.nodeid: Names(f"r{number:02d}", _shape(item)) for number, item in enumerate(mine, start=1)}


@pytest.fixture(scope="session")
def system(
    request: pytest.FixtureRequest,
    fault_database: str,
    pool: dict[str, Names],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """A Trivet on each database, started once."""
    folder, url = tmp_path_factory.mktemp("faults"), ""
    if fault_database == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = migrated(server.create_database("faults"))
    with running_system(folder, url, list(pool.values())) as running:
        yield running


@pytest.fixture
def legs(request: pytest.FixtureRequest, system: System, pool: dict[str, Names]) -> Iterator[Legs]:
    """Fresh routes. Afterwards their faults are taken back, and their ledger is audited."""
    mine = Legs(system, pool[request.node.nodeid])
    try:
        yield mine
    finally:
        mine.close()
