"""URLs as they are used and as they may be shown."""

from pathlib import Path

import pytest

from trivet_tasks.config.database_url import absolute_sqlite_url, sqlite_path
from trivet_tasks.config.server_urls import masked


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:s3cret@db.example:5432/trivet",
        "postgresql+psycopg://me:s3cret@/trivet?host=/run/pg",
        "postgresql+psycopg://db/trivet?user=me&password=s3cret&sslmode=require",
        "redis://:s3cret@cache.example:6379/0",
        "rediss://me:s3cret@cache.example/0",
        "amqp://me:s3cret@mq.example//",
        "amqps://me:s3cret@one;amqps://me:s3cret@other",
        "postgresql+psycopg://me:s3cret%2Fwith%40signs@db/trivet",
        "redis://me:s3cret:with:colons@cache/0",
        "postgresql+psycopg://me:s3cret/with-a-slash@db/trivet",
        "redis://me:s3cret@sign@cache/0",
        "redis://:pa/s3cret@cache/0",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    shown = masked(url)
    for part in ("s3cret", "slash", "colons", "signs", "sign@"):
        assert part not in shown
    assert "***" in shown
    assert shown.partition("://")[0] == url.partition("://")[0]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/trivet/trivet.db",
        "redis://cache.example:6379/0",
        "redis://me@cache.example:6379/0",
        "unix:///run/valkey.sock?db=0",
        "redis+socket:///run/valkey.sock",
        "postgresql+psycopg://me@db/trivet",
        "",
    ],
)
def test_what_has_no_password_is_shown_as_it_is(url: str) -> None:
    assert masked(url) == url


def test_the_rest_of_the_url_stays_readable() -> None:
    assert masked("postgresql+psycopg://me:s3cret@db:5432/trivet?sslmode=require") == (
        "postgresql+psycopg://me:***@db:5432/trivet?sslmode=require"
    )


def test_a_relative_sqlite_path_counts_from_a_folder() -> None:
    base = Path("/srv/app")
    assert absolute_sqlite_url("sqlite:///.trivet/trivet.db", base) == "sqlite:////srv/app/.trivet/trivet.db"
    assert absolute_sqlite_url("sqlite:////data/trivet.db", base) == "sqlite:////data/trivet.db"


def test_the_file_of_a_sqlite_url() -> None:
    assert sqlite_path("sqlite:////srv/trivet.db") == Path("/srv/trivet.db")
    assert sqlite_path("postgresql+psycopg://db/x") is None
