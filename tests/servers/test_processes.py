"""The tests' own servers: started, killed, started again, ended."""

from pathlib import Path

import pytest
import redis
from tests.servers.redis_servers import RedisServer


def test_a_redis_server_starts_is_killed_and_starts_again(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        assert server.client().ping()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.client().ping()
        server.start()
        assert server.client().ping()
