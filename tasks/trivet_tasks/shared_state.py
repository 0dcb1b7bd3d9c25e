"""The Redis (or Valkey) that all processes share: limits, health and notices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from trivet_tasks.config.server_urls import ServerUrl, masked, read_server_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.server_errors import explain, is_refusal

if TYPE_CHECKING:
    import redis.asyncio

SOCKET_TIMEOUT_S = 5.0
_PATIENCE = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
PREFIX = "trivet:"

FINISHED_CHANNEL = PREFIX + "finished"
"""A JSON object {"jobs": [ids], "batches": [row ids]} for each group of jobs that has just ended."""
WORK_CHANNEL = PREFIX + "work"
"""An empty message when there may be something to dispatch."""
WRITABLE = PREFIX + "writable"
"""Written by every process once a second, to learn whether the server takes what is written."""
WRITABLE_S = 60


def connect(url: str) -> redis.Redis:
    """Return a client that gives up after 5 s instead of hanging; connections are made when first used.

    Raises:
        ValueError: the URL cannot be used.
    """
    server, options, tls = _options(url)
    # once, for a connection that the server closed while it was idle; a server that hangs is asked once
    options["retry"] = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    if server.scheme == "sentinel":
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            list(server.hosts), sentinel_kwargs={**_PATIENCE, **server.sentinel_options()}, **tls
        )
        return sentinel.master_for(server.master, **options)  # type: ignore[no-any-return,no-untyped-call]
    if server.scheme == "unix":
        return redis.Redis(unix_socket_path=server.path, **options)
    host, port = server.hosts[0]
    return redis.Redis(host=host, port=port, **tls, **options)


def connect_async(url: str) -> "redis.asyncio.Redis":
    """Return a client for asyncio, like `connect`; for one event loop.

    Raises:
        ValueError: the URL cannot be used.
    """
    import redis.asyncio as aio  # most processes need none
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.asyncio.sentinel import Sentinel as AsyncSentinel

    server, options, tls = _options(url)
    options["retry"] = AsyncRetry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    if server.scheme == "sentinel":
        sentinel = AsyncSentinel(  # type: ignore[no-untyped-call]
            list(server.hosts), sentinel_kwargs={**_PATIENCE, **server.sentinel_options()}, **tls
        )
        return sentinel.master_for(server.master, **options)  # type: ignore[no-any-return]
    if server.scheme == "unix":
        return aio.Redis(unix_socket_path=server.path, **options)
    host, port = server.hosts[0]
    return aio.Redis(host=host, port=port, **tls, **options)


def _options(url: str) -> tuple[ServerUrl, dict[str, Any], dict[str, Any]]:
    """Return the server of a URL, the options of a client of it, and those of TLS."""
    server = read_server_url(url)
    options: dict[str, Any] = {
        "db": server.database,
        "username": server.username,
        "password": server.password,
        "health_check_interval": 25,
        **_PATIENCE,
    }
    return server, options, {} if server.tls is None else {"ssl": True, **server.tls.for_redis()}


def check_writable(client: redis.Redis) -> None:
    """Write a small key: a server may answer and yet refuse to write.

    Raises:
        redis.RedisError: it is away, or it refuses.
    """
    client.set(WRITABLE, b"", ex=WRITABLE_S)


def publish_finished(client: redis.Redis, jobs: Sequence[str], batches: Sequence[int] = ()) -> None:
    """Wake those who wait for these jobs or batches (row ids), and the schedulers: capacity is free. Raises RedisError."""
    client.publish(FINISHED_CHANNEL, orjson.dumps({"jobs": list(jobs), "batches": list(batches)}))


def publish_work(client: redis.Redis) -> None:
    """Wake the schedulers: there may be something to dispatch. Raises RedisError."""
    client.publish(WORK_CHANNEL, b"")


def refuse_cluster(settings: Settings) -> None:
    """Check that neither server is a node of a Redis Cluster. One that does not answer, or does not say, passes.

    Raises:
        ConfigError: one is.
    """
    for section, url in (("redis", settings.redis_url), ("broker", settings.broker_url)):
        if not read_server_url(url).is_amqp and _is_cluster(url):
            raise ConfigError(
                f"{settings.source}: [{section}] url: {masked(url)} is a node of a Redis Cluster, which is not supported.",
                hint="Use a single server, or Sentinels with sentinel://.",
            )


def _is_cluster(url: str) -> bool:
    client = connect(url)
    try:
        found: Any = client.info("cluster")
    except redis.RedisError:
        return False
    finally:
        client.close()
    return bool(found.get("cluster_enabled"))


def is_away(error: redis.RedisError) -> bool:
    """Return whether the server is away, or refuses every such command for now (a full disk, no memory); else the fault is ours."""
    return isinstance(error, redis.ConnectionError | redis.TimeoutError) or is_refusal(error)


def unavailable_text(url: str, error: Exception) -> str:
    """Return what is wrong, for a person."""
    return f"The shared state {masked(url)} {explain(error)}"
