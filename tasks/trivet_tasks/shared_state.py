"""The Redis (or Valkey) that all processes share: limits, health and notices."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from trivet_tasks.urls import masked

SOCKET_TIMEOUT_S = 5.0
PREFIX = "trivet:"

FINISHED_CHANNEL = PREFIX + "finished"
"""A JSON object {"jobs": [ids], "batches": [row ids]} for each group of jobs that has just ended."""
WORK_CHANNEL = PREFIX + "work"
"""An empty message when there may be something to dispatch."""


def connect(url: str) -> redis.Redis:
    """A client that gives up after 5 s instead of hanging; connections are made when first used."""
    return redis.Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=25,
        # once, for a connection that the server closed while it was idle; a server that hangs is asked once
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


_AWAY = ("MISCONF", "OOM", "READONLY", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")


def is_away(error: redis.RedisError) -> bool:
    """Whether the server is away, or refuses every such command for now (a full disk, no memory); else the fault is ours."""
    if isinstance(
        error, redis.ConnectionError | redis.TimeoutError | redis.exceptions.ReadOnlyError | redis.OutOfMemoryError
    ):
        return True
    return str(error).startswith(_AWAY)


def unavailable_text(url: str, error: Exception) -> str:
    """What is wrong, for a person."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    does = "refused a command" if isinstance(error, redis.ResponseError) else "does not answer"
    return f"The shared state {masked(url)} {does}: {reason.rstrip('.')}."
