"""The store through PgBouncer in transaction mode: each transaction may be served by another server connection."""

import contextlib
import threading
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import text
from tests.postgres import PostgresServer
from tests.servers.pgbouncer import PgBouncer
from tests.timing import until

from trivet_store.database.engine import Store
from trivet_tasks.errors import StoreUnavailable

THREADS = 6
OFTEN = 40
"""More often than the five times after which psycopg prepares a statement."""


def ask(store: Store) -> None:
    with store.write() as connection:
        connection.execute(text("SELECT count(*) FROM jobs WHERE rank > :rank"), {"rank": 1}).one()


def at_once(work: Callable[[], None], threads: int = THREADS) -> list[BaseException]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(OFTEN):
                work()
        except BaseException as error:
            raised.append(error)

    started = [threading.Thread(target=run) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return raised


def test_frequent_statements_are_answered_by_any_server_process(pgbouncer: PgBouncer) -> None:
    with contextlib.closing(Store(pgbouncer.url)) as store:
        assert not at_once(lambda: ask(store))
        assert store.pooled


def test_without_a_pooler_statements_are_prepared(postgres_server: PostgresServer) -> None:
    with contextlib.closing(Store(postgres_server.url())) as store:
        with store.read() as connection:
            for _ in range(OFTEN):
                connection.execute(text("SELECT 1 + :one"), {"one": 1}).one()
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one() > 0
        assert not store.pooled


@pytest.mark.parametrize("url", ["?prepare_threshold=none", "?prepare_threshold=0"])
def test_a_url_turns_preparing_off(postgres_server: PostgresServer, url: str) -> None:
    with contextlib.closing(Store(postgres_server.url() + url)) as store, store.read() as connection:
        for _ in range(OFTEN):
            connection.execute(text("SELECT 1 + :one"), {"one": 1}).one()
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one() == 0


def test_settings_hold_in_our_transactions_and_in_nobody_elses(pgbouncer: PgBouncer) -> None:
    with contextlib.closing(Store(pgbouncer.url)) as store:
        at_once(lambda: ask(store))
        with store.read() as connection:
            assert connection.exec_driver_sql("SHOW enable_seqscan").scalar_one() == "off"
    for _ in range(10):
        with psycopg.connect(pgbouncer.url.replace("+psycopg", "")) as other:
            assert other.execute("SHOW enable_seqscan").fetchone() == ("on",)


@pytest.mark.parametrize("parameter", ["", "?prepare_threshold=5"])
def test_preparing_against_a_pooler_is_an_outage_that_names_the_setting(pgbouncer: PgBouncer, parameter: str) -> None:
    forced = None if parameter else True
    with contextlib.closing(Store(pgbouncer.url + parameter, prepared_statements=forced)) as store:
        # their transactions must meet, which a busy machine may put off
        raised = until(lambda: at_once(lambda: ask(store)), "two transactions to meet")
    for error in raised:
        assert isinstance(error, StoreUnavailable), error
        assert "prepared_statements = false" in str(error)


def test_a_pooler_that_went_away_is_an_outage(pgbouncer: PgBouncer) -> None:
    with contextlib.closing(Store(pgbouncer.url)) as store:
        ask(store)
        pgbouncer.kill()
        with pytest.raises(StoreUnavailable):
            ask(store)
        pgbouncer.start()
        ask(store)
