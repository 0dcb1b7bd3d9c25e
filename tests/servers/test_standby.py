"""A primary that becomes read-only is an outage: connections to it are dropped, work goes on at the one that was promoted."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from tests.chaos.outages import Outages
from tests.postgres import PostgresServer
from tests.servers.standby import Standby, read_only, wait_until_quiet
from tests.timing import until

from trivet.testing import running_trivet
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
from trivet_tasks.errors import StoreUnavailable

JOBS = 200
CALL_S = 1.5


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, Standby]]:
    """A primary and its standby, both running."""
    with PostgresServer() as primary, Standby(primary) as standby:
        yield primary, standby


def both(primary: PostgresServer, standby: Standby, database: str) -> str:
    """The URL of a database of both, as libpq writes it."""
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    given = make_url(primary.url(database))
    return f"postgresql://{given.username}:{given.password}@{hosts}/{database}?target_session_attrs=read-write"


def opened(url: str) -> Store:
    from trivet_tasks.config.database_url import database_url

    return Store(database_url(url, Path.cwd()))


def write(store: Store) -> int:
    """Write one row, and say which server took it."""
    with store.write() as connection:
        connection.execute(
            text("INSERT INTO seen VALUES (:value)"),
            {"value": secrets.token_hex(4)},
        )
        return int(connection.exec_driver_sql("SHOW port").scalar_one())


def test_pooled_connections_to_a_demoted_primary_are_dropped(pair: tuple[PostgresServer, Standby]) -> None:
    primary, standby = pair
    primary.create_database("failover")
    with contextlib.closing(opened(both(primary, standby, "failover"))) as store:
        with store.write() as connection:
            connection.exec_driver_sql("CREATE TABLE seen (value text)")
        with store.read(), store.read(), store.read():
            pass  # three connections lie in the pool
        assert write(store) == primary.port
        read_only(primary, True)
        until(lambda: _refused(store), "the primary to refuse writes")
        with pytest.raises(StoreUnavailable):
            write(store)
        standby.wait_replayed()
        standby.promote()
        assert [write(store) for _ in range(8)] == [standby.port] * 8


def test_readers_leave_a_demoted_primary_too(pair: tuple[PostgresServer, Standby]) -> None:
    primary, standby = pair
    primary.create_database("failover")
    with contextlib.closing(opened(both(primary, standby, "failover"))) as store:
        assert reads_from(store) == primary.port
        standby.wait_replayed()
        read_only(primary, True)
        standby.promote()
        until(lambda: reads_from(store) == standby.port, "reads from the new primary")


def reads_from(store: Store) -> int:
    with contextlib.suppress(StoreUnavailable), store.read() as connection:
        return int(connection.exec_driver_sql("SHOW port").scalar_one())
    return 0


def test_the_same_server_is_used_again_once_it_takes_writes(postgres_server: PostgresServer, postgres_url: str) -> None:
    with contextlib.closing(Store(postgres_url)) as store:
        with store.write() as connection:
            connection.exec_driver_sql("CREATE TABLE seen (value text)")
        read_only(postgres_server, True)
        try:
            until(lambda: _refused(store), "the server to refuse writes")
            with pytest.raises(StoreUnavailable) as caught:
                write(store)
            assert "read-only" in str(caught.value)
            assert "target_session_attrs=read-write" in str(caught.value)
            with store.read() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM seen")
        finally:
            read_only(postgres_server, False)
        until(lambda: not _refused(store), "the server to take writes")


def test_paid_answers_outlive_a_failover(pair: tuple[PostgresServer, Standby], tmp_path: Path) -> None:
    primary, standby = pair
    primary.create_database("system")
    url = both(primary, standby, "system")
    with contextlib.closing(opened(url)) as store:
        upgrade(store)
    latency = ("--latency-median", str(CALL_S), "--seed", "1")
    terms: dict[str, dict[str, float]] = {
        "classes.batch": {"budget_s": 240, "attempt_timeout_s": 120},
        "health": {"probe_interval_s": 1.0},
    }
    with running_trivet(tmp_path, store_url=url, workers=1, simulator=latency, sections=terms) as trivet:
        outages = Outages(trivet, tmp_path, primary)
        batch = trivet.client.submit_many(
            [{"prompt": f"Page {number}"} for number in range(JOBS)], name="failover", model="claude-haiku-4-5", max_tokens=40,
            latency="batch", cache=False,
        )  # fmt: skip
        until(outages.under_way, "calls at the providers")
        read_only(primary, True)
        wait_until_quiet(primary)
        standby.wait_replayed()
        standby.promote()
        until(lambda: outages.states("failover")["succeeded"] == JOBS, "the end of all jobs", 240)
        assert batch.progress().succeeded == JOBS
        outages.audit()
        calls = [call for call in trivet.simulator.calls() if call.attempt]
        assert len(calls) == JOBS, "answers that were paid for were called for again"
        port = outages.rows("SELECT current_setting('port')::int AS port")[0].port
        assert port == standby.port


def _refused(store: Store) -> bool:
    try:
        write(store)
    except StoreUnavailable:
        return True
    return False
