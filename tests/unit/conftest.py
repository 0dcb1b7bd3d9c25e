"""Fixtures of the tests of permits and breakers: one Valkey a session, and a clock that only the test moves."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.unit.breakers_world import ClockedRedis, World
from tests.wires import KEY, KEY_VARIABLE

from trivet.local.embedded import EmbeddedValkey
from trivet_simulator import SimulatorProcess
from trivet_store.database.engine import Store
from trivet_tasks.config.server_urls import redis_url
from trivet_worker.adapters.credentials import process_credentials, process_token


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
def client(valkey: ClockedRedis) -> Iterator[redis.Redis]:
    """A client on the server's own clock, and nothing in the server."""
    plain = redis.Redis(connection_pool=valkey.connection_pool)
    plain.flushdb()
    yield plain
    plain.flushdb()


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    """A new SQLite database with the schema in it."""
    with contextlib.closing(Store(sqlite_url)) as store:
        yield store


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies and anyone's credentials, but for the key of `tests.wires`."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "ANTHROPIC_", "CLOUDSDK_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    process_credentials.cache_clear()
    process_token.cache_clear()


@pytest.fixture(scope="module")
def simulators() -> Iterator[SimulatorProcess]:
    """The three wires on loopback, one simulator a module."""
    with SimulatorProcess() as running:
        yield running


@pytest.fixture
def simulator(simulators: SimulatorProcess, no_credentials: None) -> SimulatorProcess:
    """The simulator without faults, and an environment without anyone's credentials."""
    simulators.control.reset()
    return simulators


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes come when they are due and not a fifth earlier or later."""
    monkeypatch.setattr("trivet_routing.limits.JITTER", 0.0)


@pytest.fixture
def world(valkey: ClockedRedis, no_jitter: None) -> World:
    return World(valkey)
