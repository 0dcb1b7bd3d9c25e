"""Fixtures of databases as people run them: PostgreSQL behind PgBouncer, and with a standby."""

import contextlib
import secrets
from collections.abc import Iterator

import pytest
from tests.postgres import PostgresServer
from tests.servers.pgbouncer import PROGRAM, PgBouncer

from trivet_tasks.store.engine import Store
from trivet_tasks.store.schema_version import upgrade


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer before a new database with the schema in it, migrated through it."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    name = f"pooled_{secrets.token_hex(6)}"
    postgres_server.create_database(name)
    with PgBouncer(postgres_server, name) as bouncer:
        with contextlib.closing(Store(bouncer.url)) as store:
            upgrade(store)
        yield bouncer
    postgres_server.drop_database(name)


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may take its time to start a whole system; these tests are not about that."""
    monkeypatch.setattr("trivet.testing.READY_S", 240.0)
    monkeypatch.setattr("trivet.local._SIMULATOR_READY_S", 120.0)
