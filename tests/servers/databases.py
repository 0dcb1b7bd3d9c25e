"""Fixtures of databases as people run them: PostgreSQL behind PgBouncer, and with a standby."""

import contextlib
import secrets
from collections.abc import Iterator

import pytest
from tests.postgres import PostgresServer
from tests.servers.packages import program
from tests.servers.pgbouncer import PgBouncer

from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer before a new database with the schema in it, migrated through it."""
    installed = program("pgbouncer")
    name = f"pooled_{secrets.token_hex(6)}"
    postgres_server.create_database(name)
    with PgBouncer(installed, postgres_server, name) as bouncer:
        with contextlib.closing(Store(bouncer.url)) as store:
            upgrade(store)
        yield bouncer
    postgres_server.drop_database(name)
