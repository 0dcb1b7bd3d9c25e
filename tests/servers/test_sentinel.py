"""Redis behind Sentinels, for broker and shared state: a failover loses no job."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from tests.processes import START_S, ServerProcess, free_port
from tests.servers.doors import DOORS, go_through, settings_for
from tests.servers.packages import program
from tests.servers.redis_servers import RedisServer
from tests.servers.running import UNHURRIED, requests
from tests.timing import until

from trivet.testing import running_trivet
from trivet_tasks.server_errors import explain

pytestmark = pytest.mark.timeout(400)
MASTER = "trivet-master"


class Watched:
    """A primary, a replica, and two Sentinels that watch them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.primary = stack.enter_context(RedisServer(folder, "--repl-diskless-sync-delay", "0", name="primary"))
        self.replica = stack.enter_context(
            RedisServer(folder, "--replicaof", f"127.0.0.1 {self.primary.port}", name="replica")
        )
        self.ports = [self._sentinel(folder, stack) for _ in range(2)]
        for port in self.ports:
            client = redis.Redis(host="127.0.0.1", port=port)
            until(lambda client=client: self._knows_all(client), "the Sentinels to know each other and the replica")  # type: ignore[misc]
            client.close()

    @property
    def url(self) -> str:
        hosts = ";".join(f"sentinel://127.0.0.1:{port}" for port in self.ports)
        return f"{hosts}/0?master_name={MASTER}"

    def _sentinel(self, folder: Path, stack: ExitStack) -> int:
        port = free_port()
        place = folder / f"sentinel-{port}"
        place.mkdir()
        (place / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {place}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 2000\nsentinel failover-timeout {MASTER} 10000\n",
            encoding="ascii",
        )
        process = ServerProcess([program("redis-sentinel"), str(place / "sentinel.conf")], place)
        stack.callback(process.stop)
        process.start(lambda: _answers(port))
        return port

    @staticmethod
    def _knows_all(client: redis.Redis) -> bool:
        masters = cast("dict[str, dict[str, Any]]", client.sentinel_masters())  # redis-py types it as a list
        facts = masters[MASTER]
        return int(facts["num-slaves"]) >= 1 and int(facts["num-other-sentinels"]) >= 1


def _answers(port: int) -> bool:
    client = redis.Redis(host="127.0.0.1", port=port)
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        yield Watched(tmp_path, stack)


def test_a_failover_loses_no_job(watched: Watched, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, broker=watched.url)
    for door in DOORS:
        go_through(door, settings)
    done: list[str] = []
    with running_trivet(tmp_path / "trivet", broker_url=watched.url, sections=UNHURRIED, ready_s=START_S) as running:
        batch = running.client.submit_many(requests(200, "failover"), latency="batch", name="failover")
        reader = threading.Thread(target=lambda: done.extend(result.status for result in batch.results()))
        reader.start()
        until(lambda: done, "the first job to end")
        watched.primary.kill()
        reader.join(150)
        assert done == ["succeeded"] * 200
        assert watched.replica.client().info("replication")["role"] == "master"
        job = running.client.submit(**requests(1, "after")[0], latency="realtime")
        assert job.result(timeout=150).status == "succeeded"


def test_a_name_that_the_sentinels_do_not_know_is_said(watched: Watched, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, broker=watched.url.replace(MASTER, "another"))
    with pytest.raises(redis.RedisError) as refused:
        go_through("shared state", settings)
    assert "another" in explain(refused.value)
