"""A Redis that answers and yet refuses: each refusal by its name, shown where impairments are shown, over by itself."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from tests.command_line import run_trivet
from tests.processes import START_S, free_port
from tests.servers.doors import go_through, settings_for
from tests.servers.redis_servers import RedisServer
from tests.servers.running import UNHURRIED, log_of, requests, routes, said_of_batch
from tests.timing import until

from trivet.testing import running_trivet
from trivet_tasks.errors import BrokerUnavailable, ConfigError
from trivet_tasks.shared_state import refuse_cluster, unavailable_text

pytestmark = pytest.mark.timeout(400)


def full(server: RedisServer, folder: Path) -> None:
    server.client().config_set("maxmemory", "1")


def replica(server: RedisServer, folder: Path) -> None:
    server.client().replicaof("127.0.0.1", "1")


def replica_without_primary(server: RedisServer, folder: Path) -> None:
    server.client().config_set("replica-serve-stale-data", "no")
    replica(server, folder)


def disk_gone(server: RedisServer, folder: Path) -> None:
    client = server.client()
    client.config_set("save", "3600 1")
    shutil.rmtree(folder / "redis-data")
    client.bgsave()
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")


def too_few_replicas(server: RedisServer, folder: Path) -> None:
    server.client().config_set("min-replicas-to-write", "1")


def asks_for_a_password(server: RedisServer, folder: Path) -> None:
    server.client().config_set("requirepass", "s3cret")


def lacks_permissions(server: RedisServer, folder: Path) -> None:
    server.client().acl_setuser("default", enabled=True, nopass=True, commands=["-set", "-lpush"])


REFUSALS: dict[Callable[[RedisServer, Path], None], str] = {
    full: "has no memory left: it is at its maxmemory",
    replica: "is a read-only replica",
    replica_without_primary: "is a replica that has lost its primary",
    disk_gone: "cannot save to its disk",
    too_few_replicas: "has fewer replicas than its min-replicas-to-write",
    asks_for_a_password: "asks for a password",
    lacks_permissions: "does not let its user do that",
}


@pytest.mark.parametrize("refuse", REFUSALS, ids=lambda refuse: refuse.__name__)
def test_a_refusal_is_named(tmp_path: Path, refuse: Callable[[RedisServer, Path], None]) -> None:
    (tmp_path / "redis-data").mkdir()
    with RedisServer(tmp_path, "--dir", str(tmp_path / "redis-data")) as server:
        settings = settings_for(tmp_path, broker=server.url)
        go_through("shared state", settings)
        refuse(server, tmp_path)
        with pytest.raises(redis.RedisError) as refused:
            go_through("shared state", settings)
        assert REFUSALS[refuse] in unavailable_text(settings.redis_url, refused.value)
        with pytest.raises(BrokerUnavailable) as unsent:
            go_through("celery", settings)
        assert REFUSALS[refuse] in str(unsent.value)


@pytest.mark.parametrize("url", ["redis://:wr0ng@127.0.0.1:{}", "redis://me:wr0ng@127.0.0.1:{}"])
def test_a_wrong_password_is_named_and_not_shown(tmp_path: Path, url: str) -> None:
    with RedisServer(tmp_path, "--requirepass", "s3cret") as server:
        settings = settings_for(tmp_path, broker=url.format(server.port))
        with pytest.raises(redis.RedisError) as refused:
            go_through("shared state", settings)
    said = unavailable_text(settings.redis_url, refused.value)
    assert "refuses the user or the password (WRONGPASS)" in said
    assert "wr0ng" not in said


def test_a_node_of_a_cluster_is_refused(tmp_path: Path) -> None:
    # by itself it takes its port plus 10,000, which may be no port
    with RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as node:
        settings = settings_for(tmp_path, broker=node.url)
        with pytest.raises(ConfigError, match=r"\[redis\] url: .* is a node of a Redis Cluster"):
            refuse_cluster(settings)
        started = run_trivet("--config", str(tmp_path / "doors.toml"), "scheduler")
        assert (started.code, "is a node of a Redis Cluster" in started.err) == (2, True)
        with pytest.raises(redis.RedisError) as refused:
            go_through("shared state", settings)
        assert "is a Redis Cluster, which is not supported" in unavailable_text(node.url, refused.value)


def test_a_full_redis_is_shown_everywhere_and_work_goes_on_by_itself(tmp_path: Path) -> None:
    said = "has no memory left: it is at its maxmemory"
    with (
        RedisServer(tmp_path) as server,
        running_trivet(tmp_path / "trivet", broker_url=server.url, sections=UNHURRIED, ready_s=START_S) as running,
    ):
        job = running.client.submit(**requests(1, "before")[0], latency="batch")
        assert job.result(timeout=150).status == "succeeded"
        server.client().config_set("maxmemory", "1")
        for part in ("worker-1-bulk", "worker-1-realtime", "scheduler"):
            until(lambda part=part: said in log_of(running, part), f"the log of {part} says so")  # type: ignore[misc]
        batch = running.client.submit_many(requests(20, "full"), latency="batch", name="full")
        code, shown = routes(running)
        assert code == 3
        assert said in shown["impairment"]
        assert said in said_of_batch(running, "full")
        server.client().config_set("maxmemory", "0")
        assert {result.status for result in batch.results()} == {"succeeded"}
        assert "going on" in log_of(running, "worker-1-bulk")
        until(lambda: routes(running)[0] == 0, "nothing to be wrong any more")
        assert routes(running)[1]["impairment"] is None


def test_a_full_broker_beside_a_shared_state_that_works(tmp_path: Path) -> None:
    """The scheduler and the workers name the broker; `batch status` repeats what the scheduler says."""
    said = "has no memory left: it is at its maxmemory"
    with (
        RedisServer(tmp_path, name="broker") as broker,
        RedisServer(tmp_path, name="shared") as shared,
        running_trivet(
            tmp_path / "trivet", broker_url=broker.url, redis_url=shared.url, sections=UNHURRIED, ready_s=START_S
        ) as running,
    ):
        broker.client().config_set("maxmemory", "1")
        for part in ("worker-1-bulk", "scheduler"):
            until(lambda part=part: f"{broker.port} {said}" in log_of(running, part).replace("/0 ", " "), part)  # type: ignore[misc]
        batch = running.client.submit_many(requests(20, "full"), latency="batch", name="full")
        assert said in said_of_batch(running, "full")
        broker.client().config_set("maxmemory", "0")
        assert {result.status for result in batch.results()} == {"succeeded"}


def test_a_user_with_the_documented_permissions_and_no_others(tmp_path: Path) -> None:
    """The rule of docs/how-to/use-redis.md, as it is there."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "use-redis.md").read_text(encoding="utf-8")
    (rule,) = (line for line in page.splitlines() if line.startswith("user trivet on >PASSWORD "))
    with RedisServer(tmp_path) as server:
        admin = server.client()
        words = rule.removeprefix("user ").replace("PASSWORD", "s3cret").split()
        admin.execute_command("ACL", "SETUSER", *words)  # type: ignore[no-untyped-call]  # redis-py has no types for it
        admin.acl_log_reset()
        url = server.url.replace("://", "://trivet:s3cret@")
        with running_trivet(tmp_path / "trivet", broker_url=url, sections=UNHURRIED, ready_s=START_S) as running:
            running.local.start_part("flower", "flower", "--port", "0")
            running.local.wait_ready(START_S)
            batch = running.client.submit_many(requests(40, "acl"), latency="batch", name="acl")
            assert {result.status for result in batch.results()} == {"succeeded"}
            assert routes(running)[0] == 0
        assert admin.acl_log() == []
