"""A database of an earlier version, with work in it, brought to the newest."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from tests.postgres import PostgresServer
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, spec

from trivet_tasks.errors import SchemaMismatch
from trivet_tasks.store import health, schema_version
from trivet_tasks.store.dispatching import Claimed
from trivet_tasks.store.engine import Store
from trivet_tasks.store.schema import metadata

FIRST = "0001"
LEASE = "e" * 32
WAITING, RUNNING, DONE = "1" * 32, "2" * 32, "3" * 32
ROWS = [
    "INSERT INTO batches (name, state, created_at, total, ended, succeeded) VALUES ('contracts', 'open', 1000, 3, 1, 1)",
    """INSERT INTO flows (signature, batch_id, latency, model, residency, compliance, features, held, active)
       VALUES ('aaaa', 1, 'batch', :model, '[]', '[]', '[]', false, true)""",
    f"""INSERT INTO jobs (id, batch_id, flow_id, fingerprint, state, rank, created_at, input_estimate, max_tokens, take_up,
                          lease_id, route, attempts, ended_at, batch_seq)
        VALUES ('{WAITING}', 1, 1, 'f1', 'waiting', 1, 1000, 5, 100, 0, NULL, NULL, 0, NULL, NULL),
               ('{RUNNING}', 1, 1, 'f2', 'running', 2, 1000, 5, 100, 1, '{LEASE}', :route, 1, NULL, NULL),
               ('{DONE}', 1, 1, 'f3', 'succeeded', 3, 1000, 5, 100, 1, NULL, :route, 1, 1010, 1)""",
    f"INSERT INTO job_requests (job_id, body) VALUES ('{WAITING}', :body), ('{RUNNING}', :body), ('{DONE}', :body)",
    f"INSERT INTO job_results (job_id, message, stop_reason, latency_s) VALUES ('{DONE}', :body, 'end_turn', 10)",
    f"""INSERT INTO attempts (id, job_id, take_up, round, lease_id, route, provider, model, wire_model, latency, started_at,
                              outcome, estimated)
        VALUES ('a1', '{RUNNING}', 1, 0, '{LEASE}', :route, 'bedrock', :model, 'wire', 'batch', 1001, NULL, true),
               ('a2', '{DONE}', 1, 0, '{LEASE}', :route, 'bedrock', :model, 'wire', 'batch', 1001, 'succeeded', false)""",
    f"""INSERT INTO leases (id, worker, lane, routes, slots, in_flight, started_at, expires_at)
        VALUES ('{LEASE}', 'w', 'bulk', '[]', 16, 1, 1000, 1)""",
    "INSERT INTO routes (name, provider, definition, registered_at) VALUES (:route, 'bedrock', '{\"provider\":\"bedrock\"}', 1000)",
    """INSERT INTO route_health (route, model, state, cause, since, closed_until)
       VALUES (:route, :model, 'open', 'timeout: silent', 1000, 1015), (:route, 'claude-haiku-4-5', 'limited', '429', 1000, 4e9),
              (:other, '*', 'healthy', 'recovered', 1000, NULL), (:other, :model, 'limited', '429', 1000, 1001)""",
    "INSERT INTO events (at, kind, route, model, text) VALUES (1000, 'route limited', :route, 'claude-haiku-4-5', '429')",
]  # fmt: skip


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("trivet_tasks.store") / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _at_first(url: str) -> World:
    """The database at the first version, with jobs in three states and routes in three."""
    world = World(Store(url))
    with world.store.write() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, FIRST)
    given = {"model": MODEL, "route": ROUTE, "other": OTHER_ROUTE, "body": b'{"messages":[]}'}
    for statement in ROWS:
        world.sql(statement, **{name: value for name, value in given.items() if f":{name}" in statement})
    return world


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A database at the first version, on either."""
    if request.param == "sqlite":
        world = _at_first(f"sqlite:///{tmp_path}/old.db")
        yield world
        world.store.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    world = _at_first(server.create_database("of_the_first_version"))
    yield world
    world.store.close()
    server.drop_database("of_the_first_version")


def test_the_rows_of_the_first_version_are_kept(old: World) -> None:
    tables = ["batches", "flows", "jobs", "job_requests", "job_results", "attempts", "leases", "routes", "events"]
    before = {table: old.sql(f"SELECT * FROM {table}") for table in tables}
    assert schema_version.upgrade(old.store) == (FIRST, schema_version.NEWEST)
    for table, rows in before.items():
        columns = ", ".join(rows[0]._fields)
        assert old.sql(f"SELECT {columns} FROM {table}") == rows, table
    assert [bool(row.probe) for row in old.sql("SELECT probe FROM flows")] == [False]
    assert [row.purpose for row in old.sql("SELECT purpose FROM attempts")] == ["job", "job"]


def test_an_upgraded_database_is_as_a_new_one(old: World) -> None:
    schema_version.upgrade(old.store)
    with old.store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_pauses_of_the_first_version_are_no_health_any_more(old: World) -> None:
    """They were noted by model and would never be taken back; what is still true of them a provider says again."""
    schema_version.upgrade(old.store)
    with old.store.write() as connection:
        noted = {(row.route, row.model): row.state for row in health.noted(connection)}
        assert noted == {(ROUTE, MODEL): "open", (OTHER_ROUTE, "*"): "healthy"}
        assert health.closed(connection, 0) == []
        health.note(connection, ROUTE, "claude-haiku-*", "limited", "429", 2000, 60)
        assert [row.models for row in health.closed(connection, 2001)] == ["claude-haiku-*"]


def test_work_goes_on_after_the_upgrade(old: World) -> None:
    schema_version.upgrade(old.store)
    assert old.rescue() == {LEASE: 1}
    lease = old.lease()
    claimed = old.dispatch()
    assert claimed == [Claimed(WAITING, 1, 5, 100), Claimed(RUNNING, 2, 5, 100)]
    probe = old.probe()
    jobs = old.take(lease, [*claimed, probe])
    assert {job.id: job.probe for job in jobs} == {WAITING: False, RUNNING: False, probe.id: True}
    assert old.end(lease, jobs).refused == ()
    progress = old.progress("contracts")
    assert (progress.succeeded, progress.ended, progress.done) == (3, 3, True)
    assert old.add(spec())


def test_sqlite_of_the_first_version_upgrades_itself_and_postgresql_is_asked_for(old: World) -> None:
    if old.store.sqlite:
        schema_version.ensure(old.store)
        assert schema_version.version(old.store) == schema_version.NEWEST
        return
    with pytest.raises(SchemaMismatch) as caught:
        schema_version.ensure(old.store)
    assert f"has schema {FIRST}; this Trivet works with {schema_version.NEWEST}" in str(caught.value)
    assert "`trivet db upgrade`" in caught.value.hint
    assert schema_version.version(old.store) == FIRST, "nothing of it was done"
