"""Dependencies that are full, slow or gone: no work is taken, finished work is kept, and work resumes by itself."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.pool import Pool
from tests.chaos.outages import SLOTS, TERMS, Outages, Worker, outages
from tests.databases import database_of, migrated
from tests.postgres import PostgresServer
from tests.timing import until

from trivet import Client, StoreUnavailable
from trivet.client.submitting import GROUP_ROWS
from trivet_tasks.config.settings import Settings

JOBS = 400
GROUP = GROUP_ROWS["postgresql"]
DISK = f"""
import os, sqlite3

opened = sqlite3.connect

class OnADisk(sqlite3.Connection):
    full = False

    def cursor(self, *args):
        if os.path.exists(os.environ["FULL_DISK"]) != self.full:
            self.full = not self.full
            sqlite3.Connection.cursor(self).execute(f"PRAGMA max_page_count = {{1 if self.full else {2**30}}}")
        return super().cursor(*args)

sqlite3.connect = sqlite3.dbapi2.connect = lambda *args, **options: opened(*args, **options, factory=OnADisk)
"""
"""For the processes of the system: while a file is there, the disk is full. SQLite has the limit by connection."""
PAGES_TOO_MANY = 2**30


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outages]:
    folder = tmp_path_factory.mktemp("backpressure")
    (folder / "sitecustomize.py").write_text(DISK, encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(folder))
        environment.setenv("FULL_DISK", str(folder / "full"))
        with outages(folder / "trivet", request.param) as system:
            yield system


@contextlib.contextmanager
def hanging_database(system: Outages, _: Worker) -> Iterator[None]:
    with system.locked_database():
        yield


@contextlib.contextmanager
def absent_database(system: Outages, _: Worker) -> Iterator[None]:
    assert system.postgres is not None
    system.postgres.stop()
    try:
        yield
    finally:
        system.postgres.start()


@contextlib.contextmanager
def full_disk(system: Outages, _: Worker) -> Iterator[None]:
    """No process gets a further page of the database."""
    full = system.folder.with_name("full")
    full.touch()
    try:
        yield
    finally:
        full.unlink()


@contextlib.contextmanager
def hanging_broker(system: Outages, _: Worker) -> Iterator[None]:
    broker = system.broker
    broker.suspend()
    try:
        yield
    finally:
        broker.resume()


@contextlib.contextmanager
def killed_broker(system: Outages, _: Worker) -> Iterator[None]:
    """A broker that comes back empty."""
    broker = system.broker
    broker.kill()
    broker.wait(30)
    try:
        yield
    finally:
        for kept in (system.trivet.local.data_dir / "valkey").rglob("*"):
            if kept.is_file():
                kept.unlink()
        system.trivet.local.keep_broker()


DATABASE = {absent_database, hanging_database, full_disk}


@pytest.mark.parametrize("outage", [absent_database, hanging_database, full_disk, hanging_broker, killed_broker])
def test_it_stops_taking_work_says_so_once_and_goes_on(
    running: Outages, outage: Callable[[Outages, Worker], contextlib.AbstractContextManager[None]]
) -> None:
    system, name = running, outage.__name__
    # before any work is begun: a worker that is killed over it leaves quarantined jobs to those that come after
    if outage is absent_database and system.postgres is None:
        pytest.skip("SQLite has no server")
    if outage is full_disk and system.postgres is not None:
        pytest.skip("the disk is the server's")
    kind = "The database" if outage in DATABASE else "The shared state"
    system.slow(0.3)
    with system.worker(name) as worker:
        batch = system.trivet.client.submit_many([{"prompt": f"{name} {n}"} for n in range(JOBS)], name=name, **TERMS)
        until(lambda: system.states(name)["succeeded"] >= SLOTS, "work to be under way")
        with outage(system, worker):
            until(lambda: not system.under_way() and no_work(worker), "nothing to move")
            if outage in DATABASE:
                until(lambda: announced(system, worker), "the worker to announce it")
            until(lambda: kind in said(system), "`trivet routes` to name it")
            begun = len(system.trivet.simulator.calls(running=True))  # what was just being claimed has begun by now
            assert kind in said(system)
            assert len(system.trivet.simulator.calls(running=True)) == begun
        results = list(batch.results(timeout=90))
        until(lambda: worker.times("going on") >= 1, "the worker to say that it goes on")
    assert Counter(result.status for result in results) == {"succeeded": JOBS}
    assert len({result.id for result in results}) == JOBS
    assert worker.times(f"no work is taken: {kind}") == 1
    assert len(worker.said.splitlines()) < JOBS / 4
    system.audit()
    assert {len(result.attempts) for result in results} == {1}  # no call was made twice


def no_work(worker: Worker) -> bool:
    return worker.times("no work is taken") > 0


def announced(system: Outages, worker: Worker) -> bool:
    from trivet_routing.liveness.process_impairments import announced as read
    from trivet_tasks.shared_state import connect

    with contextlib.closing(connect(system.trivet.settings.redis_url)) as client:
        return any(f".{worker.process.pid}@" in one.process for one in read(client))


def said(system: Outages) -> str:
    """Return what `trivet routes` says of the worker, from either source; nothing where it has not heard of it yet."""
    routes = system.trivet_routes()
    assert routes.code == 3
    idle = {one["part"]: str(one["impairment"]) for one in routes.json["idle"]}
    return idle.get("worker", "")


@contextlib.contextmanager
def limited_pages(most: list[int]) -> Iterator[None]:
    """Let SQLite's files grow to as many pages as the list says at the time, over the connections of this process."""

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most[0]}")

    event.listen(Pool, "checkout", limit)
    try:
        yield
    finally:
        event.remove(Pool, "checkout", limit)


@contextlib.contextmanager
def producer(url: str) -> Iterator[Client]:
    settings: Mapping[str, Any] = {"store": {"url": url}}
    with Client(settings=Settings(**settings)) as client:
        yield client


def test_on_a_full_disk_a_producer_is_told_nothing_half_is_left_and_a_batch_is_resumed(tmp_path: Path) -> None:
    requests = [{"prompt": f"{n} " + "x" * 3_000} for n in range(900)]
    url, room = migrated(f"sqlite:///{tmp_path / 'trivet.db'}"), [PAGES_TOO_MANY]
    with limited_pages(room), producer(url) as client, database_of(client.settings) as store:
        with store.read() as connection:
            room[0] = connection.execute(text("PRAGMA page_count")).scalar_one() + 400
        with pytest.raises(StoreUnavailable, match=r"full.*submit the same under the name 'big'"):
            client.submit_many(requests, name="big", **TERMS)
        with pytest.raises(StoreUnavailable, match="database or disk is full"):
            client.submit("x" * 2_000_000, **TERMS)
        taken = client.batch("big").progress()
        assert 0 < taken.total < len(requests)
        assert taken.state == "loading"  # nothing of it runs
        with store.read() as connection:
            jobs = [
                connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
                for table in ("jobs", "job_requests")
            ]
        assert jobs == [taken.total, taken.total]
        room[0] = PAGES_TOO_MANY
        batch = client.submit_many(requests, name="big", **TERMS)
        assert (batch.progress().total, batch.progress().state) == (len(requests), "open")


def test_without_a_database_a_producer_is_told_and_a_batch_is_resumed(tmp_path: Path) -> None:
    with PostgresServer() as server:
        url = migrated(server.create_database("producer"))
        total = 4 * GROUP + 100
        with producer(url) as client:

            def requests(stop_at: int) -> Iterator[dict[str, str]]:
                for number in range(total):
                    if number == stop_at:
                        server.stop()
                    yield {"prompt": f"Document {number}"}

            with pytest.raises(StoreUnavailable, match="submit the same under the name 'cut'"):
                client.submit_many(requests(2 * GROUP + 100), name="cut", **TERMS)
            for latency in ("batch", "realtime"):
                with pytest.raises(StoreUnavailable, match="Is the server running"):
                    client.submit("Hello.", latency=latency, **TERMS)
            server.start()
            assert client.batch("cut").progress().total in (GROUP, 2 * GROUP), "whole groups; the second was on its way"
            batch = client.submit_many(requests(-1), name="cut", **TERMS)
            assert (batch.progress().total, batch.progress().state) == (total, "open")
            assert len(client.jobs(limit=2 * total)) == total
