"""Fixtures of databases as people run them: PostgreSQL behind PgBouncer, and with a standby."""

import secrets
from collections.abc import Iterator

import pytest
from tests.databases import migrated
from tests.postgres import PostgresServer
from tests.servers.packages import program
from tests.servers.pgbouncer import PgBouncer


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer before a new database with the schema in it, migrated through it."""
    installed = program("pgbouncer")
    name = f"pooled_{secrets.token_hex(6)}"
    postgres_server.create_database(name)
    with PgBouncer(installed, postgres_server, name) as bouncer:
        migrated(bouncer.url)
        yield bouncer
    postgres_server.drop_database(name)
