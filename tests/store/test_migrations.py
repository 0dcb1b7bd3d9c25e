"""A database with work in it, brought to a newer schema beside running workers.

The steps to it are the test's own: the first changes no table, the second adds a column to `jobs`.
"""

import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.store.world import MODEL, InThread, World, spec
from tests.timing import until

from trivet_store.database.engine import Store
from trivet_store.migrations import schema_version
from trivet_tasks.errors import SchemaMismatch, StoreUnavailable

NOW, BETWEEN, NEXT = schema_version.NEWEST, "9001", "9002"
STEPS = {
    BETWEEN: 'op.create_table("reminders", sa.Column("id", sa.Integer(), primary_key=True))',
    NEXT: 'op.add_column("jobs", sa.Column("colour", sa.Text(), nullable=False, server_default=sa.text("\'red\'")))',
}
STEP = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    {change}
"""


@pytest.fixture
def next_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Makes this process one of a newer Trivet, once the world's database has today's schema."""
    scripts = tmp_path / "migrations"
    shutil.copytree(schema_version.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    before = NOW
    for revision, change in STEPS.items():
        step = STEP.format(revision=revision, before=before, change=change)
        (scripts / "versions" / f"{revision}_next.py").write_text(step)
        before = revision
    monkeypatch.setattr(schema_version, "SCRIPTS", scripts)
    monkeypatch.setattr(schema_version, "NEWEST", NEXT)
    monkeypatch.setattr(schema_version, "PAUSE_S", (0.01, 0.05))


@pytest.mark.usefixtures("next_schema")
def test_work_goes_on_after_an_upgrade(world: World) -> None:
    done = world.batch("contracts", spec("one"), spec("two"))
    lease = world.lease()
    first = world.take(lease, world.dispatch(1))
    assert schema_version.upgrade(world.store) == (NOW, NEXT)
    assert world.end(lease, first).refused == ()
    assert world.end(lease, world.take(lease, world.dispatch())).refused == ()
    progress = world.progress(done.name)
    assert (progress.succeeded, progress.ended, progress.done) == (2, 2, True)
    assert world.add(spec("three"))
    assert [row.colour for row in world.sql("SELECT colour FROM jobs")] == ["red", "red", "red"]


@pytest.mark.usefixtures("next_schema")
def test_an_older_sqlite_upgrades_itself_and_postgresql_is_asked_for(world: World) -> None:
    if world.store.sqlite:
        schema_version.ensure(world.store)
        assert schema_version.version(world.store) == NEXT
        return
    with pytest.raises(SchemaMismatch) as caught:
        schema_version.ensure(world.store)
    assert f"has schema {NOW}; this Trivet works with {NEXT}" in str(caught.value)
    assert "`trivet db upgrade`" in caught.value.hint
    assert schema_version.version(world.store) == NOW, "nothing of it was done"


class Writers:
    """Workers of the version before that go on writing, by its statements."""

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self._stopping = threading.Event()
        self._commits = [0] * count
        world.sql(
            """INSERT INTO flows (id, signature, latency, model, residency, compliance, features, held, active)
               VALUES (1, 'aaaa', 'batch', :model, '[]', '[]', '[]', false, true)""",
            model=MODEL,
        )
        self._works = [InThread(partial(self._run, number)) for number in range(count)]

    @property
    def commits(self) -> int:
        return sum(self._commits)

    def _run(self, number: int) -> None:
        while not self._stopping.is_set():
            job_id = f"{number:08d}{self._commits[number]:024d}"
            self._world.sql(
                """INSERT INTO jobs (id, flow_id, fingerprint, state, rank, created_at, input_estimate, max_tokens)
                   VALUES (:id, 1, 'f', 'waiting', 1, 1000, 5, 100)""",
                id=job_id,
            )
            self._world.sql("UPDATE flows SET active = true WHERE id = 1")
            self._world.sql("UPDATE jobs SET state = 'dispatched', claim = claim + 1 WHERE id = :id", id=job_id)
            self._commits[number] += 1

    def wait_for(self, more: int) -> None:
        aim = self.commits + more
        until(lambda: self.commits >= aim, "the workers' commits")

    def stop(self) -> None:
        self._stopping.set()
        for work in self._works:
            work.result()


def until_a_table_is_waited_for(world: World) -> None:
    waiting = """SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'relation'"""
    until(lambda: world.value(waiting), "a lock that is waited for")


@pytest.mark.usefixtures("next_schema")
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_an_upgrade_does_not_hold_up_workers_behind_a_long_transaction(world: World) -> None:
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
            assert schema_version.version(world.store) == BETWEEN, "what needs no lock of its is done"
        assert upgrade.result() == (NOW, NEXT)
        writers.wait_for(20)  # who knows nothing of the new column goes on
    finally:
        writers.stop()
        other.close()
    assert schema_version.version(world.store) == NEXT
    assert world.value("SELECT count(*) FROM jobs WHERE colour = 'red'") == writers.commits


@pytest.mark.usefixtures("next_schema")
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_an_upgrade_that_never_gets_its_locks_names_who_holds_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_version, "GIVE_UP_S", 0.0)
    with world.store.write() as connection:
        connection.execute(text("SET LOCAL application_name = 'nightly backup'"))
        connection.execute(text("SELECT count(*) FROM jobs"))
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with pytest.raises(StoreUnavailable) as caught:
            schema_version.upgrade(world.store)
    assert f"process {pid} (nightly backup)" in str(caught.value)
    assert f"could not be brought to {NEXT}" in str(caught.value)
    assert "`trivet db upgrade` again" in caught.value.hint
    assert schema_version.upgrade(world.store) == (BETWEEN, NEXT)
