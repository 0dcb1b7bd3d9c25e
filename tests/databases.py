"""Databases with the schema in them, and a way to read what running processes wrote there."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, text
from tests.postgres import PostgresServer

from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
from trivet_tasks.config.settings import Settings


def migrated(url: str) -> str:
    """Create the schema in a database; returns its URL."""
    with contextlib.closing(Store(url)) as store:
        upgrade(store)
    return url


def new_database(request: pytest.FixtureRequest, name: str) -> str:
    """Return the URL of a new PostgreSQL database where the fixture's parameter is `postgres`; for SQLite an empty one."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return migrated(server.create_database(name))


@contextlib.contextmanager
def database_of(settings: Settings) -> Iterator[Store]:
    """The database of a running Trivet, over connections of the test's own."""
    with contextlib.closing(Store.of(settings)) as store:
        yield store


def rows(settings: Settings, statement: str, **parameters: object) -> list[Row[Any]]:
    """Return the rows of a query in the database of a running Trivet."""
    with database_of(settings) as store, store.read() as connection:
        return list(connection.execute(text(statement), parameters))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy."""
    path = tmp_path_factory.mktemp("template") / "trivet.db"
    migrated(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A new SQLite database with the schema in it."""
    path = tmp_path / "trivet.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


# no foreign key keeps the rows of a job together; the transactions that write them do
_REFERENCES = (
    ("jobs", "flow_id", "flows"),
    ("jobs", "batch_id", "batches"),
    ("job_requests", "job_id", "jobs"),
    ("job_results", "job_id", "jobs"),
    ("attempts", "job_id", "jobs"),
    ("retries", "job_id", "jobs"),
)


def orphans(store: Store) -> list[str]:
    """Return the rows that refer to nothing, each as `attempts: job_id 01a2… is not in jobs`."""
    found = []
    with store.read() as connection:
        for table, column, other in _REFERENCES:
            missing = connection.execute(
                text(
                    f"""
                    SELECT DISTINCT r.{column} FROM {table} r
                     WHERE r.{column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {other} o WHERE o.id = r.{column})
                    """
                )
            ).scalars()
            found += [f"{table}: {column} {value} is not in {other}" for value in missing]
    return found
