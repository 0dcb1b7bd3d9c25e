"""Fixtures of the tests of permits and breakers: one Valkey a session, and a clock that only the test moves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.breakers_world import ClockedRedis, World

from trivet.local.embedded import EmbeddedValkey
from trivet_tasks.config.server_urls import redis_url


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClockedRedis]:
    """A real server; whatever a test wrote is gone before the next."""
    folder: Path = tmp_path_factory.mktemp("valkey") / ".trivet"
    with EmbeddedValkey(folder):
        client = ClockedRedis.from_url(redis_url(folder), socket_timeout=60)
        assert isinstance(client, ClockedRedis)
        yield client
        client.close()


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes come when they are due and not a fifth earlier or later."""
    monkeypatch.setattr("trivet_routing.limits.JITTER", 0.0)


@pytest.fixture
def world(valkey: ClockedRedis, no_jitter: None) -> World:
    return World(valkey)
