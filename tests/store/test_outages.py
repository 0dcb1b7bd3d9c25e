"""Errors of PostgreSQL that are an outage, and databases that cannot hold every character."""

import contextlib
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import DataError
from tests.command_line import Said, commands
from tests.postgres import PostgresServer

from trivet_store.database.engine import Store
from trivet_store.database.postgres import outage_of
from trivet_store.migrations.schema_version import upgrade
from trivet_tasks.errors import StoreError, StoreUnavailable

OUTAGES = (
    "08000", "08006", "08P01", "25006", "25P02", "25P03", "28P01", "28000", "3D000", "3F000", "40001", "40P01", "42501",
    "42P01", "42703", "53000", "53100", "53200", "53300", "53400", "55006", "55P03", "57014", "57P01", "57P02", "57P03",
    "57P05", "58000", "58030", "58P01", "XX000", "XX001", "26000", "42P05",
)  # fmt: skip
FAULTS = ("22001", "22P05", "22021", "23505", "23503", "42601", "42883", "54000", "0A000")
DROPPED = ("08006", "25006", "25P02", "57P01", "58030", "XX000", "26000", "42P05")


@pytest.mark.parametrize("state", OUTAGES)
def test_what_the_server_cannot_now_is_an_outage(state: str) -> None:
    outage = outage_of(errors.lookup(state)("words"))
    assert outage is not None
    assert outage.hint
    assert outage.drop or state not in DROPPED


@pytest.mark.parametrize("state", FAULTS)
def test_what_a_statement_or_a_value_causes_is_none(state: str) -> None:
    assert outage_of(errors.lookup(state)("words")) is None


@pytest.mark.parametrize("state", ["25006", "57P03", "53300", "53100", "58030", "XX000", "40001", "42501", "26000"])
def test_the_store_says_so(postgres_url: str, state: str) -> None:
    with contextlib.closing(Store(postgres_url)) as store:
        with pytest.raises(StoreUnavailable) as caught, store.write() as connection:
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'the words' USING ERRCODE = '{state}'; END $$")
        assert "the words" in str(caught.value)
        with store.write() as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_a_value_that_does_not_fit_is_no_outage(postgres_url: str) -> None:
    with contextlib.closing(Store(postgres_url)) as store, pytest.raises(DataError), store.write() as connection:
        connection.exec_driver_sql("SELECT 'x'::int")


def test_too_many_connections_are_an_outage(postgres_server: PostgresServer, postgres_url: str) -> None:
    name = f"narrow_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server.url().replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw' CONNECTION LIMIT 1")
        url = postgres_url.replace(postgres_url.partition("://")[2].partition("@")[0], f"{name}:pw")
        refused = pytest.raises(StoreUnavailable, match="too many connections")
        with contextlib.closing(Store(url)) as store, store.read(), refused, store.read():
            pass
        admin.execute(f"DROP ROLE {name}")


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def other_encoding(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[tuple[str, str]]:
    name = f"encoded_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server.url().replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} ENCODING '{request.param}' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
        )
    yield str(request.param), postgres_server.url(name)
    postgres_server.drop_database(name)


def test_a_database_of_another_encoding_is_refused_in_one_sentence(
    other_encoding: tuple[str, str],
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoding, url = other_encoding
    with contextlib.closing(Store(url)) as store, pytest.raises(StoreError, match=f"the encoding {encoding}"):
        upgrade(store)
    config = f"{tmp_path}/trivet.toml"
    with open(config, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f'[store]\nurl = "{url}"\n')
    run: Callable[..., Said]
    with commands(config, monkeypatch, capsys) as run:
        for command in (("db", "upgrade"), ("config", "check")):
            said = run(*command)
            assert said.code == 2
            assert f"has the encoding {encoding}, and Trivet needs UTF8" in said.err
            assert len(said.err.splitlines()) == 1
