"""Errors of Redis and RabbitMQ in words, whichever way they come: by class, by text, out of a script, out of a pipeline."""

from pathlib import Path

import pytest
import redis
from amqp.exceptions import AccessRefused
from redis import exceptions

from trivet_tasks.messages import broker_text
from trivet_tasks.server_errors import explain, is_refusal, reason_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "no memory left"),
        (redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'."), "no memory left"),
        (redis.ResponseError("ERR Error running script: OOM command not allowed"), "no memory left"),
        (
            redis.ResponseError("Command # 1 (SET trivet:answer my prompt) of pipeline caused error: OOM command not allowed"),
            "no memory left",
        ),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but"), "cannot save to its disk"),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "read-only replica"),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "loading its data"),
        (exceptions.AuthenticationError("Authentication required."), "asks for a password"),
        (exceptions.AuthenticationError("invalid username-password pair or user is disabled."), "WRONGPASS"),
        (exceptions.NoPermissionError("this user has no permissions to run the 'set' command"), "NOPERM"),
        (exceptions.MovedError("5798 127.0.0.1:7001"), "Redis Cluster"),
        (redis.ConnectionError("max number of clients reached"), "maxclients"),
        (redis.ConnectionError("Error 111 connecting to one:1. Connection refused."), "does not answer"),
    ],
)  # fmt: skip
def test_what_is_said(error: redis.RedisError, said: str) -> None:
    assert said in explain(error)
    assert "prompt" not in explain(error)


def test_a_fault_of_ours_is_no_refusal() -> None:
    error = redis.ResponseError(
        "Command # 1 (SET key my prompt) of pipeline caused error: WRONGTYPE Operation against a key"
    )
    assert not is_refusal(error)
    assert reason_of(error) == "WRONGTYPE Operation against a key"


@pytest.mark.parametrize(
    ("said", "page", "permission"),
    [
        (explain(exceptions.NoPermissionError("this user has no permissions")), "docs/how-to/use-redis.md", "NOPERM"),
        (
            broker_text("amqp://u:secret@host//", AccessRefused("ACCESS_REFUSED")),
            "docs/how-to/run-on-rabbitmq.md",
            "configure, write and read",
        ),
    ],
)
def test_a_refused_user_is_led_to_the_permissions_of_that_server(said: str, page: str, permission: str) -> None:
    assert page in said
    assert permission in (ROOT / page).read_text(encoding="utf-8")
    assert "secret" not in said
