"""Impairments of a process: logged once, all shown to whoever asks, until they are over."""

import logging
from collections.abc import Iterator

import pytest
import redis

from trivet.local.embedded import EmbeddedValkey
from trivet_routing.liveness.process_impairments import (
    ANNOUNCED_S,
    DATABASE,
    SHARED_STATE,
    STOPPING,
    Announced,
    ProcessImpairments,
    announce,
    announced,
    withdraw,
)
from trivet_tasks.config.server_urls import redis_url
from trivet_tasks.shared_state import connect, is_away


@pytest.fixture
def process_impairments(caplog: pytest.LogCaptureFixture) -> ProcessImpairments:
    caplog.set_level(logging.INFO)
    return ProcessImpairments(logging.getLogger("trivet.test"), "no work is taken")


def test_an_impairment_seen_from_several_places_is_said_once_and_over_once(
    process_impairments: ProcessImpairments, caplog: pytest.LogCaptureFixture
) -> None:
    at_first = process_impairments.text
    assert at_first is None
    for place in ("lease", "recorder", "lease"):
        process_impairments.note(DATABASE, place, f"The database is full, says the {place}.")
    process_impairments.note(SHARED_STATE, "watch", "The shared state is away.")
    assert process_impairments.text == "The database is full, says the lease. The shared state is away."
    assert (process_impairments.seen(DATABASE, "recorder"), process_impairments.seen(SHARED_STATE, "recorder")) == (
        True,
        False,
    )
    process_impairments.over(DATABASE, "lease")
    assert process_impairments.of(DATABASE) == "The database is full, says the recorder."
    process_impairments.over(DATABASE, "recorder")
    process_impairments.over(DATABASE, "recorder")
    assert process_impairments.text == "The shared state is away."
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == [
        "no work is taken: The database is full, says the lease.",
        "no work is taken: The shared state is away.",
    ]
    assert said[2].startswith("going on: the impairment with the database is over, after 0 s")
    assert len(said) == 3


def test_one_that_nobody_sees_again_is_over_in_time(process_impairments: ProcessImpairments) -> None:
    process_impairments.note(DATABASE, "claim", "It is away.", -1.0)
    process_impairments.note(DATABASE, "lease", "It is away.", 60.0)
    process_impairments.forget_old()
    assert (process_impairments.seen(DATABASE, "claim"), process_impairments.seen(DATABASE, "lease")) == (False, True)


def test_stopping_is_no_error(process_impairments: ProcessImpairments, caplog: pytest.LogCaptureFixture) -> None:
    process_impairments.note(STOPPING, "signal", "It is stopping.")
    assert process_impairments.text == "It is stopping."
    assert caplog.records == []


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    folder = tmp_path_factory.mktemp("impairments") / ".trivet"
    folder.mkdir()
    with EmbeddedValkey(folder):
        client = connect(redis_url(folder))
        yield client
        client.close()


def test_what_is_announced_is_read_until_it_is_withdrawn_or_forgotten(client: redis.Redis) -> None:
    assert announced(client) == []
    announce(client, "w2@host", "worker", "The database is full.", 7.0)
    announce(client, "s1@host", "scheduler", "The database is away.", 5.0)
    assert announced(client) == [
        Announced("s1@host", "scheduler", "The database is away.", 5.0),
        Announced("w2@host", "worker", "The database is full.", 7.0),
    ]
    (key, *_) = client.scan_iter(match="*w2@host")
    assert 0 < client.ttl(key) <= ANNOUNCED_S
    withdraw(client, "w2@host")
    assert [one.process for one in announced(client)] == ["s1@host"]


@pytest.mark.parametrize(
    "said",
    [
        b"\xff",
        b"[1]",
        b'"text"',
        b"{}",
        b'{"part": "worker"}',
        b'{"part": "admin", "impairment": "Stop.", "since": 1}',
        b'{"part": "worker", "impairment": 7, "since": 1}',
        b'{"part": "worker", "impairment": "Stop.", "since": "now"}',
    ],
)
def test_what_somebody_else_announces_is_passed_over(client: redis.Redis, said: bytes) -> None:
    client.flushdb()
    client.set("trivet:impairment:forged", said)
    announce(client, "w1", "worker", "The database is away.", 5.0)
    assert [one.process for one in announced(client)] == ["w1"]


def test_announced_words_steer_no_terminal(client: redis.Redis) -> None:
    client.flushdb()
    announce(client, "w\x1b[2J1", "worker", "Run\x1b]0;title\x07 this\n", 5.0)
    assert announced(client) == [Announced("w1", "worker", "Run this", 5.0)]


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (redis.ConnectionError("refused"), True),
        (redis.TimeoutError("no answer"), True),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), True),
        (redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), True),
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), True),
        (redis.ResponseError("user_script:12: attempt to index a nil value"), False),
    ],
)
def test_a_server_that_refuses_everything_for_now_is_away(error: redis.RedisError, away: bool) -> None:
    assert is_away(error) is away
