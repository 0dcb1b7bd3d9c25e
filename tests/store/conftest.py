"""Each test of the store runs on SQLite and on PostgreSQL, in a database of its own with the schema in it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.command_line import Said, commands
from tests.databases import migrated
from tests.postgres import PostgresServer
from tests.store.world import OTHER_ROUTE, ROUTE, World, route_settings

from trivet_store.cluster import registry
from trivet_store.database.engine import Store


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """A migrated database to clone."""
    migrated(postgres_server.create_database("store_template"))
    return "store_template"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """A new database with the schema in it, on either."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


def _world(url: str) -> Iterator[World]:
    store = Store(url)
    yield World(store)
    store.close()


@pytest.fixture
def world(store_url: str) -> Iterator[World]:
    """The store on either database."""
    yield from _world(store_url)


@pytest.fixture
def sqlite_world(sqlite_url: str) -> Iterator[World]:
    """The store on SQLite only."""
    yield from _world(sqlite_url)


@pytest.fixture
def postgres_world(postgres_url: str) -> Iterator[World]:
    """The store on PostgreSQL only, for what only there can happen: two writers at a time."""
    yield from _world(postgres_url)


@pytest.fixture
def trivet(
    world: World, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Runs the command line in this process, over the world's database."""
    config = tmp_path / "trivet.toml"
    config.write_text(f'[store]\nurl = "{store_url}"\n[redis]\nurl = "redis://127.0.0.1:1/0"\n')
    with commands(str(config), monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def routes(world: World) -> World:
    """Two routes, one with a group of limits."""
    group = {"models": ["claude-haiku-*", "claude-3-*"], "requests_per_minute": 50}
    with world.store.write() as connection:
        given = {
            ROUTE: route_settings(requests_per_minute=500, limits=[group]),
            OTHER_ROUTE: route_settings(residency=["us"]),
        }
        registry.register(world.store, connection, given, by="w from a.toml")
    return world
