"""A database of an earlier version, with work in it, brought to the newest."""

import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from importlib import resources
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text
from tests.postgres import PostgresServer
from tests.store.counted import check_spend
from tests.store.world import DEADLINE_S, MODEL, OTHER_ROUTE, ROUTE, InThread, World, spec

from trivet_store.database.engine import Store
from trivet_store.fleet import health, registry
from trivet_store.jobs.enqueue import BatchRef
from trivet_store.migrations import schema_version, upgrading
from trivet_store.schema import metadata
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import KeyConflict, SchemaMismatch, StoreUnavailable
from trivet_tasks.jobs import Claimed
from trivet_tasks.states import RouteState

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


@pytest.mark.filterwarnings("ignore:.*expression-based index '?ix_jobs_key:Warning")
def test_an_upgraded_database_is_as_a_new_one(old: World) -> None:
    schema_version.upgrade(old.store)
    with old.store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_a_key_of_the_first_version_is_its_tenant_s(old: World) -> None:
    old.sql(f"UPDATE jobs SET key = 'k1' WHERE id = '{DONE}'")
    schema_version.upgrade(old.store)
    (theirs,) = old.add(spec("another", key="k1", tenant="acme"))
    assert not theirs.existed
    with pytest.raises(KeyConflict, match=DONE):
        old.add(spec("another", key="k1"))


def test_pauses_of_the_first_version_are_no_health_any_more(old: World) -> None:
    """They were noted by model and would never be taken back; what is still true of them a provider says again."""
    schema_version.upgrade(old.store)
    with old.store.write() as connection:
        noted = {(row.route, row.model): row.state for row in health.noted(connection)}
        assert noted == {(ROUTE, MODEL): "open", (OTHER_ROUTE, "*"): "healthy"}
        assert health.closed(connection, 0) == []
        health.note(connection, ROUTE, "claude-haiku-*", RouteState.LIMITED, "429", 2000, 60)
        assert [row.models for row in health.closed(connection, 2001)] == ["claude-haiku-*"]


def test_what_was_spent_this_month_is_counted(old: World) -> None:
    """Calls in flight are counted when they end."""
    amount = 250_000_000_000 if old.store.sqlite else "0.25"
    now = time.time()
    old.sql("UPDATE attempts SET started_at = :now, cost_usd = :cost", now=now, cost=amount)
    schema_version.upgrade(old.store)
    counted = check_spend(old)
    assert {place[1:] for place in counted} == {(ROUTE, None, "{}"), (ROUTE, 1, "{}")}
    assert set(counted.values()) == {(Decimal("0.25"), Decimal(0), 1, 0)}
    assert old.rescue() == {LEASE: 1}
    assert set(check_spend(old).values()) == {(Decimal("0.25"), Decimal("0.25"), 2, 0)}


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


@pytest.fixture
def old_postgres(postgres_server: PostgresServer) -> Iterator[World]:
    """A PostgreSQL database at the first version, with work in it."""
    world = _at_first(postgres_server.create_database("online"))
    yield world
    world.store.close()
    postgres_server.drop_database("online")


class Writers:
    """Workers of the first version that go on writing, by its statements."""

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self._stopping = threading.Event()
        self._commits = [0] * count
        self._works = [InThread(partial(self._run, number)) for number in range(count)]

    @property
    def commits(self) -> int:
        return sum(self._commits)

    def _run(self, number: int) -> None:
        while not self._stopping.is_set():
            job_id = f"{number:08d}{self._commits[number]:024d}"
            self._world.sql(
                """INSERT INTO jobs (id, batch_id, flow_id, fingerprint, state, rank, created_at, input_estimate, max_tokens)
                   VALUES (:id, 1, 1, 'f', 'waiting', 1, 1000, 5, 100)""",
                id=job_id,
            )
            self._world.sql("UPDATE flows SET active = true WHERE id = 1")
            self._world.sql("UPDATE jobs SET state = 'dispatched', take_up = take_up + 1 WHERE id = :id", id=job_id)
            self._commits[number] += 1

    def wait_for(self, more: int) -> None:
        aim, deadline = self.commits + more, time.monotonic() + DEADLINE_S
        while self.commits < aim:
            assert time.monotonic() < deadline, "the workers are held up"
            time.sleep(0.005)

    def stop(self) -> None:
        self._stopping.set()
        for work in self._works:
            work.result()


def until_a_table_is_waited_for(world: World) -> None:
    waiting = """SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'relation'"""
    deadline = time.monotonic() + DEADLINE_S
    while world.value(waiting) == 0:
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.005)


def test_an_upgrade_does_not_hold_up_workers_behind_a_long_transaction(
    old_postgres: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = old_postgres
    monkeypatch.setattr(upgrading, "PAUSE_S", (0.05, 0.1))
    other = Store(world.store.url)
    writers = Writers(world, 2)
    try:
        with world.store.write() as connection:  # a backup, say: it reads, and does not come to its end
            connection.execute(text("SELECT count(*) FROM jobs"))
            upgrade = InThread(lambda: schema_version.upgrade(other))
            for _ in range(3):
                until_a_table_is_waited_for(world)
                writers.wait_for(20)
            assert not upgrade.over
            assert schema_version.version(world.store) == "0002", "what needs no lock of its is done"
        assert upgrade.result() == (FIRST, schema_version.NEWEST)
        writers.wait_for(20)  # who knows nothing of the new columns goes on
    finally:
        writers.stop()
        other.close()
    assert schema_version.version(world.store) == schema_version.NEWEST
    assert world.value("SELECT count(*) FROM jobs WHERE died_alone = 0") == writers.commits + 3


def test_an_upgrade_that_never_gets_its_locks_names_who_holds_them(
    old_postgres: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = old_postgres
    monkeypatch.setattr(upgrading, "PAUSE_S", (0.01, 0.01))
    monkeypatch.setattr(upgrading, "GIVE_UP_S", 0.0)
    with world.store.write() as connection:
        connection.execute(text("SET LOCAL application_name = 'nightly backup'"))
        connection.execute(text("SELECT count(*) FROM jobs"))
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with pytest.raises(StoreUnavailable) as caught:
            schema_version.upgrade(world.store)
    assert f"process {pid} (nightly backup)" in str(caught.value)
    assert "could not be brought to 0003" in str(caught.value)
    assert "`trivet db upgrade` again" in caught.value.hint
    assert schema_version.upgrade(world.store) == ("0002", schema_version.NEWEST)


def test_numbers_of_a_batch_do_not_come_twice_while_older_workers_run(old: World) -> None:
    """They number by `ended` and know nothing of `seq`."""
    schema_version.upgrade(old.store)
    lease = old.lease()
    old.rescue()
    jobs = old.take(lease, old.dispatch())
    assert old.end(lease, jobs[:1]).refused == ()
    # what a worker of the version before does when a job ends
    seq = old.value("UPDATE batches SET ended = ended + 1, succeeded = succeeded + 1 WHERE id = 1 RETURNING ended")
    old.sql(f"UPDATE jobs SET state = 'succeeded', batch_seq = {seq}, ended_at = 2 WHERE id = :id", id=jobs[1].id)
    reference = BatchRef(1, "contracts")
    old.add(spec("one more"), batch=reference)
    old.open(reference)
    last = old.take(lease, old.dispatch())
    assert old.end(lease, last).refused == ()
    numbers = [row.batch_seq for row in old.sql("SELECT batch_seq FROM jobs ORDER BY batch_seq")]
    assert numbers == [1, 2, 3, 4]


def test_operational_figures_leave_the_definitions(old: World) -> None:
    definition = (
        '{"provider":"bedrock","region":"us-east-1","max_concurrency":7,"requests_per_minute":null,"limits":[]}'
    )
    old.sql("UPDATE routes SET definition = :definition WHERE name = :route", definition=definition, route=ROUTE)
    schema_version.upgrade(old.store)
    assert old.value("SELECT definition FROM routes") == '{"provider":"bedrock","region":"us-east-1"}'
    given = RouteSettings.model_validate({"provider": "bedrock", "region": "us-east-1", "max_concurrency": 7})
    with old.store.write() as connection:
        assert registry.registered(old.store, connection)[ROUTE].settings == given
        assert registry.register(old.store, connection, {ROUTE: given}) == []
        (found,) = registry.register(old.store, connection, {ROUTE: given.model_copy(update={"max_concurrency": 9})})
    assert "max_concurrency 7 -> 9" in found.text
