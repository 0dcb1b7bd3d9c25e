"""The schema and its versions, and what a person reads when the database cannot be used."""

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from tests.postgres import PostgresServer
from tests.store.world import World, specs, together

from trivet_store.database.engine import Store
from trivet_store.migrations import schema_version
from trivet_store.schema import metadata
from trivet_tasks.errors import ConfigError, SchemaMismatch, StoreUnavailable


@pytest.fixture
def unused_tcp_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _at_version(world: World, version: str) -> None:
    world.sql("UPDATE alembic_version SET version_num = :version", version=version)


def test_an_empty_sqlite_database_is_migrated_when_it_is_opened(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/new/.trivet/trivet.db")
    assert schema_version.version(store) is None
    schema_version.ensure(store)
    assert schema_version.version(store) == schema_version.NEWEST
    assert World(store).add(*specs(1))
    store.close()


def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = Store(f"sqlite:///{tmp_path}/.trivet/trivet.db")
        schema_version.ensure(store)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / ".trivet").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".trivet/trivet.db").stat().st_mode) == 0o600
    store.close()


def test_a_second_upgrade_does_nothing(world: World) -> None:
    newest = schema_version.NEWEST
    assert schema_version.upgrade(world.store) == (newest, newest)
    schema_version.ensure(world.store)
    assert world.add(*specs(1))


def test_an_upgrade_says_from_where_to_where(postgres_server: PostgresServer) -> None:
    store = Store(postgres_server.create_database("to_upgrade"))
    assert schema_version.upgrade(store) == (None, schema_version.NEWEST)
    store.close()
    postgres_server.drop_database("to_upgrade")


UPGRADE = """
import sys
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
upgrade(Store(sys.argv[1]))
"""


def test_many_upgrades_at_once_are_one(tmp_path: Path, postgres_server: PostgresServer) -> None:
    for url in (f"sqlite:///{tmp_path}/trivet.db", postgres_server.create_database("upgraded_at_once")):
        processes = [subprocess.Popen([sys.executable, "-c", UPGRADE, url]) for _ in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        store = Store(url)
        assert schema_version.version(store) == schema_version.NEWEST
        store.close()
    postgres_server.drop_database("upgraded_at_once")


def test_the_migrations_make_what_the_tables_say(world: World) -> None:
    with world.store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        indexes = _indexes(world)
    for table in metadata.tables.values():
        for index in table.indexes:
            assert index.name in indexes, f"{index.name} is missing"
            dialect = "sqlite" if world.store.sqlite else "postgresql"
            where = index.dialect_options[dialect]["where"]
            assert (where is None) == (" WHERE " not in indexes[index.name]), (
                f"{index.name} is partial on one side only"
            )


def _indexes(world: World) -> dict[str, str]:
    if world.store.sqlite:
        rows = world.sql("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    else:
        rows = world.sql("SELECT indexname AS name, indexdef AS sql FROM pg_indexes WHERE schemaname = 'public'")
    return {row.name: row.sql for row in rows}


def test_a_newer_database_is_refused(world: World) -> None:
    _at_version(world, "9999")
    for open_it in (schema_version.ensure, schema_version.upgrade):
        with pytest.raises(SchemaMismatch) as caught:
            open_it(world.store)
        assert "has schema 9999, which is newer" in str(caught.value)
        assert "Install the newer Trivet" in caught.value.hint
        assert "trivet:" not in str(caught.value).replace("trivet:***", "")
    _at_version(world, schema_version.NEWEST)


def test_postgresql_without_a_schema_is_refused(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database("empty")
    store = Store(url)
    with pytest.raises(SchemaMismatch) as caught:
        schema_version.ensure(store)
    store.close()
    postgres_server.drop_database("empty")
    assert "has no Trivet schema yet" in str(caught.value)
    assert "`trivet db upgrade`" in caught.value.hint
    assert url.split("@")[0].rsplit(":", 1)[1] not in str(caught.value), "the password is masked"


def test_a_postgresql_that_is_not_there(postgres_server: PostgresServer, unused_tcp_port: int) -> None:
    store = Store(f"postgresql+psycopg://me:s3cret@127.0.0.1:{unused_tcp_port}/trivet")
    with pytest.raises(StoreUnavailable) as caught:
        schema_version.ensure(store)
    said = str(caught.value)
    assert f"me:***@127.0.0.1:{unused_tcp_port}/trivet" in said
    assert "s3cret" not in said
    assert "Is the server running" in caught.value.hint
    wrong = Store(postgres_server.url("nowhere"))
    with pytest.raises(StoreUnavailable, match="nowhere"):
        schema_version.ensure(wrong)


def test_a_wrong_password_is_not_repeated(postgres_server: PostgresServer) -> None:
    store = Store(f"postgresql+psycopg://trivet:wr0ng@127.0.0.1:{postgres_server.port}/postgres")
    with pytest.raises(StoreUnavailable) as caught, store.read():
        pass
    assert "wr0ng" not in str(caught.value)
    assert "password authentication failed" in str(caught.value)


def test_a_connection_that_was_cut_is_replaced(postgres_world: World) -> None:
    world = postgres_world
    with pytest.raises(StoreUnavailable), world.store.write() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert world.add(*specs(1))


@pytest.mark.parametrize("url", ["no url", "mysql://localhost/x", "postgresql+nodriver://x"])
def test_what_is_no_url_of_ours(url: str) -> None:
    with pytest.raises(ConfigError, match=r"\[store\] url"):
        Store(url)


def test_a_sqlite_path_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreUnavailable) as caught:
        Store(f"sqlite:///{tmp_path}/file/trivet.db")
    assert str(tmp_path) in str(caught.value)
    assert "writable" in caught.value.hint
    (tmp_path / "folder.db").mkdir()
    store = Store(f"sqlite:///{tmp_path}/folder.db")
    with pytest.raises(StoreUnavailable, match="unable to open"):
        schema_version.ensure(store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_sqlite_folder_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        schema_version.ensure(Store(f"sqlite:///{tmp_path}/closed/deep/trivet.db"))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "trivet.db").write_text("dear diary, " * 1000)
    store = Store(f"sqlite:///{tmp_path}/trivet.db")
    with pytest.raises(StoreUnavailable, match="not a database") as caught:
        schema_version.ensure(store)
    assert "SQLite file" in caught.value.hint
    store.close()


def test_a_read_only_sqlite_file(sqlite_world: World) -> None:
    def write() -> None:
        with sqlite_world.store.write() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
            sqlite_world.insert(connection, specs(1))

    with pytest.raises(StoreUnavailable, match="readonly"):
        write()


def test_a_full_disk_loses_nothing_that_was_accepted(sqlite_world: World) -> None:
    world = sqlite_world
    accepted = world.add(*specs(5))
    with world.store.read() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def write() -> None:
        with world.store.write() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {used + 2}")
            try:
                world.insert(connection, specs(200))
            finally:
                # it is the connection's, which goes back into the pool
                connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")

    with pytest.raises(StoreUnavailable) as caught:
        write()
    assert "full" in str(caught.value)
    assert "disk" in caught.value.hint
    assert world.value("SELECT count(*) FROM jobs") == world.value("SELECT count(*) FROM job_requests") == 5
    assert len(world.add(*specs(3))) == 3
    assert [job.id for job in world.dispatch(5)] == [entry.id for entry in accepted]


def test_what_is_committed_survives_a_power_cut(sqlite_world: World) -> None:
    """The settings promise it: WAL with a sync at each commit."""
    with sqlite_world.store.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1


def test_a_reader_does_not_block_a_writer(sqlite_world: World) -> None:
    world = sqlite_world
    world.add(*specs(1))
    with world.store.read() as connection:
        before = connection.execute(text("SELECT count(*) FROM jobs")).scalar_one()
        together(lambda: world.add(*specs(2)))
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == before == 1
    assert world.value("SELECT count(*) FROM jobs") == 3


def test_a_block_that_raises_writes_nothing(world: World) -> None:
    def write() -> None:
        with world.store.write() as connection:
            world.insert(connection, specs(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert world.value("SELECT count(*) FROM jobs") == 0


def test_the_clock_is_the_time(world: World) -> None:
    assert abs(world.now() - time.time()) < 5


def test_the_password_of_a_url_is_never_shown() -> None:
    store = Store("postgresql+psycopg://me:s3cret@127.0.0.1:1/trivet")
    assert "s3cret" not in repr(store)
    assert "s3cret" not in store.shown_url


def test_the_version_we_work_with_is_the_last_migration() -> None:
    assert schema_version.steps(None)[-1] == schema_version.NEWEST
