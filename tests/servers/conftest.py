"""Tests with real servers as Debian ships them: Redis with TLS, Sentinel, RabbitMQ, PgBouncer.

`packages.program(name)` installs what is missing and skips where it cannot; `tests.processes.ServerProcess` runs it.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.databases import migrated
from tests.postgres import PostgresServer
from tests.servers.packages import program
from tests.servers.pgbouncer import PgBouncer

HERE = Path(__file__).parent
TIMEOUT_S = 600


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole systems start here, and the machine may be busy."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
