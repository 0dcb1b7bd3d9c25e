"""The PostgreSQL server that the other tests run on."""

import contextlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool
from tests.postgres import PostgresServer, postgres_server, postgres_template, postgres_url
from tests.timing import until

__all__ = ["postgres_server", "postgres_template", "postgres_url"]  # fixtures, used by their names

REPOSITORY = Path(__file__).parents[2]


def query(url: str, statement: str) -> object:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None


def test_each_test_gets_an_empty_unicode_database(postgres_url: str) -> None:
    assert postgres_url.startswith("postgresql+psycopg://")
    assert query(postgres_url, "SELECT upper('ä')") == "Ä"
    assert query(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


def test_a_template_is_copied_and_a_busy_database_dropped(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database("migrated")
    query(url, "CREATE TABLE jobs (id int)")
    copy = postgres_server.create_database("copy", template="migrated")
    engine = create_engine(copy)
    with contextlib.closing(engine.connect()) as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar() == 0
        postgres_server.drop_database("copy")
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
    engine.dispose()
    postgres_server.drop_database("migrated")
    with pytest.raises(OperationalError, match="does not exist"):
        query(copy, "SELECT 1")


def test_a_durable_server_survives_a_kill_on_the_same_port() -> None:
    with PostgresServer(durable=True) as server:
        url, first = server.create_database("jobs"), server.pid
        query(url, "CREATE TABLE jobs (id int)")
        query(url, "INSERT INTO jobs VALUES (1)")
        server.kill()
        assert server.pid is None
        with pytest.raises(OperationalError):
            query(url, "SELECT 1")
        server.start()
        assert query(url, "SELECT count(*) FROM jobs") == 1
        server.restart()
        assert query(url, "SELECT count(*) FROM jobs") == 1
        assert server.pid not in (None, first)


def test_a_server_whose_starter_was_killed_goes_too() -> None:
    code = (
        "from tests.postgres import PostgresServer; import sys\n"
        "with PostgresServer() as server:\n"
        "    print(server.pid, server.folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        process.kill()
    until(lambda: not (psutil.pid_exists(int(pid)) or Path(folder).exists()), "the server's end")
