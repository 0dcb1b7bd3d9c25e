"""The database's URL: forms accepted as they are, forms corrected, and forms refused in one sentence."""

import getpass
from pathlib import Path

import pytest

from trivet_tasks.config.database_url import connect_arguments, database_url, prepare_in
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import ConfigError

BASE = Path("/srv/app")


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        ("postgres://me:pw@db/x", "postgresql+psycopg://me:pw@db/x"),
        ("postgresql://me@db:6432/x", "postgresql+psycopg://me@db:6432/x"),
        ("POSTGRESQL://me@db/x", "postgresql+psycopg://me@db/x"),
        (" postgresql+psycopg://me@db/x ", "postgresql+psycopg://me@db/x"),
        ("postgresql://me@[::1]:5433/x", "postgresql+psycopg://me@[::1]:5433/x"),
        ("postgresql://db/x?sslmode=verify-full", "postgresql+psycopg://db/x?sslmode=verify-full"),
        ("postgresql://db/x?prepare_threshold=none", "postgresql+psycopg://db/x?prepare_threshold=none"),
        ("postgresql+psycopg://me@db/postgresql://", "postgresql+psycopg://me@db/postgresql%3A//"),
        ("sqlite:///.trivet/trivet.db", "sqlite:////srv/app/.trivet/trivet.db"),
        ("sqlite+pysqlite:////data/x.db", "sqlite:////data/x.db"),
    ],
)
def test_what_is_meant_is_opened(given: str, opened: str) -> None:
    assert database_url(given, BASE) == opened


@pytest.mark.parametrize(
    ("given", "hosts", "ports"),
    [
        ("postgresql://me:a%40b@one:5432,two:5433/x?target_session_attrs=read-write", "one,two", "5432,5433"),
        ("postgres://me@one,two/x", "one,two", "5432,5432"),
        ("postgresql://me@one:6000,two/x", "one,two", "6000,5432"),
        ("postgresql+psycopg://me@/x?host=one:1,two:2", "one,two", "1,2"),
        ("postgresql+psycopg://me@/x?host=one:1&host=two:2", "one,two", "1,2"),
        ("postgresql+psycopg://me@/x?host=one,two&port=1,2", "one,two", "1,2"),
        ("postgresql://me@[::1]:1,[::2]:2/x", "::1,::2", "1,2"),
        ("postgresql://me@/x?host=/run/pg", "/run/pg", None),
    ],
)
def test_several_hosts_are_read_as_libpq_writes_them(given: str, hosts: str, ports: str | None) -> None:
    from sqlalchemy.engine import make_url

    url = make_url(database_url(given, BASE))
    _, arguments = url.get_dialect()().create_connect_args(url)
    assert (arguments["host"], arguments.get("port")) == (hosts, ports)
    assert arguments["user"] == "me"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("postgresql+psycopg2://me:s3cret@db/x", "psycopg2"),
        ("postgresql+asyncpg://me:s3cret@db/x", "asyncpg"),
        ("sqlite+aiosqlite:///x.db", "aiosqlite"),
        ("mysql://me:s3cret@db/x", "mysql://"),
        ("mysql+pymysql://me:s3cret@db/x", "must begin with"),
        ("jdbc:postgresql://db/x", "must begin with"),
        ("host=db dbname=x password=s3cret", "must begin with"),
        ("db/x", "must begin with"),
        ("postgresql://me:s3cret@db/x?schema=trivet", "csearch_path"),
        ("postgresql://me:s3cret@db/x?pgbouncer=true", "noticed by itself"),
        ("postgresql://me:s3cret@db/x?sslmode=bogus", "sslmode"),
        ("postgresql://me:s3cret@db/x?sslmod=require", "did you mean sslmode?"),
        ("postgresql://me:s3cret@db/x?ssl=true", "sslmode=require"),
        ("postgresql://me:s3cret@db/x?pool_size=5", "[store] pool_size"),
        ("postgresql://me:s3cret@db/x?target_session_attrs=rw", "target_session_attrs"),
        ("postgresql://me:s3cret@db/x?connect_timeout=soon", "connect_timeout"),
        ("postgresql://me:s3cret@db/x?replication=database", "replication"),
        ("postgresql://me:s3cret@db/x?client_encoding=latin1", "always UTF8"),
        ("postgresql://me:s3cret@db/x?prepare_threshold=soon", "prepare_threshold"),
        ("postgresql://me:s3cret@db/x?sslmode=require&sslmode=disable", "twice"),
        ("postgresql://me:s3cret@db:port/x", "port is not a number"),
        ("postgresql://me:s3cret@one:1,two:2/x?port=3", "ports twice"),
        ("postgresql://me:s3cret@one,two/x?host=three", "hosts twice"),
        ("postgresql://me:s3cret@one,two/x?port=1,2,3", "3 port numbers"),
        ("postgresql://me:s3cret@db/x?service=nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    given: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIVET_STORE__URL", raising=False)
    config = tmp_path / "trivet.toml"
    config.write_text(f'[store]\nurl = "{given}"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    said = str(caught.value)
    assert words in said
    assert said.startswith(f"{config}: [store] url: ")
    assert "s3cret" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(("value", "threshold"), [("none", None), ("OFF", None), ("0", None), ("5", 5)])
def test_the_threshold_is_taken_out_of_the_url(value: str, threshold: int | None) -> None:
    url, prepare = prepare_in(f"postgresql+psycopg://me:s3cret@db/x?prepare_threshold={value}&sslmode=require")
    assert url == "postgresql+psycopg://me:s3cret@db/x?sslmode=require"
    assert prepare is not None
    assert prepare.threshold == threshold


def test_the_environment_says_who_but_not_where(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {
        "PGHOST": "evil", "PGHOSTADDR": "192.0.2.1", "PGPORT": "6666", "PGDATABASE": "evil", "PGSSLMODE": "disable",
        "PGOPTIONS": "-csearch_path=evil", "PGTARGETSESSIONATTRS": "read-only", "PGCLIENTENCODING": "latin1",
        "PGSSLCERTMODE": "require", "PGMINPROTOCOLVERSION": "3.2", "PGCONNECT_TIMEOUT": "9999",
    }  # fmt: skip
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSWORD", "pw")
    monkeypatch.setenv("PGUSER", getpass.getuser())
    arguments = connect_arguments("postgresql+psycopg:///")
    for key, expected in {
        "host": "", "hostaddr": "", "port": "5432", "dbname": "", "sslmode": "prefer", "options": "",
        "target_session_attrs": "any", "client_encoding": "utf8", "connect_timeout": 5,
    }.items():  # fmt: skip
        assert arguments[key] == expected
    assert not {"user", "password", "passfile"} & set(arguments)
    kept = connect_arguments("postgresql+psycopg://db:1/x?sslmode=require&connect_timeout=1")
    assert not {"host", "port", "dbname", "sslmode", "connect_timeout"} & set(kept)
