"""TLS: certificate and host name are verified at every door, before anything is sent."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.processes import START_S
from tests.servers.certificates import make_certificates
from tests.servers.doors import DOORS, go_through, settings_for
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis_servers import RedisServer
from tests.servers.running import UNHURRIED, requests

from trivet.testing import running_trivet
from trivet_tasks.errors import BrokerUnavailable
from trivet_tasks.server_errors import explain

PASSWORD = "s3cret-of-the-tests"
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis whose certificate no authority of this machine has signed."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "--requirepass", PASSWORD, tls=certificates) as running:
        yield running


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    client = server.client(password=PASSWORD)
    client.config_resetstat()
    yield client
    client.close()


def commands_met(admin: redis.Redis) -> set[str]:
    """Return the commands that the server received since the test began, except the test's own."""
    return {name.removeprefix("cmdstat_") for name in admin.info("commandstats")} - {"config|resetstat", "info"}


def with_password(url: str) -> str:
    return url.replace("://", f"://:{PASSWORD}@")


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_sent_to_a_server_that_does_not_prove_who_it_is(
    server: RedisServer, admin: redis.Redis, tmp_path: Path, door: str
) -> None:
    settings = settings_for(tmp_path, broker=with_password(server.url))
    with pytest.raises((redis.ConnectionError, BrokerUnavailable)) as refused:
        go_through(door, settings)
    said = explain(refused.value) if isinstance(refused.value, redis.RedisError) else str(refused.value)
    assert "does not prove who it is" in said
    assert "ssl_ca_certs" in said
    assert PASSWORD not in said
    assert commands_met(admin) == set()


@pytest.mark.parametrize("door", DOORS)
def test_a_certificate_for_another_host_is_refused(
    server: RedisServer, admin: redis.Redis, certificates: Path, tmp_path: Path, door: str
) -> None:
    other = make_certificates(tmp_path / "other", names="DNS:redis.example")
    with RedisServer(tmp_path, "--requirepass", PASSWORD, tls=other, name="elsewhere") as elsewhere:
        url = with_password(elsewhere.url)
        named = settings_for(tmp_path, broker=f"{url}?ssl_ca_certs={other / 'ca.crt'}")
        with pytest.raises((redis.ConnectionError, BrokerUnavailable)):
            go_through(door, named)
        unnamed = f"{url}?ssl_ca_certs={other / 'ca.crt'}&ssl_check_hostname=false"
        go_through(door, settings_for(tmp_path, broker=unnamed))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("parameters", ["ssl_ca_certs=ca.crt", "ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE"])
def test_the_url_names_the_authority_or_asks_for_none(
    server: RedisServer, certificates: Path, tmp_path: Path, door: str, parameters: str
) -> None:
    """A relative path counts from the configuration file."""
    shutil.copy(certificates / "ca.crt", tmp_path)
    go_through(door, settings_for(tmp_path, broker=f"{with_password(server.url)}?{parameters}"))


@pytest.mark.parametrize("door", DOORS)
def test_a_server_that_asks_for_our_certificate_gets_it(certificates: Path, tmp_path: Path, door: str) -> None:
    ca = f"ssl_ca_certs={certificates / 'ca.crt'}"
    ours = f"ssl_certfile={certificates / 'server.crt'}&ssl_keyfile={certificates / 'server.key'}"
    with RedisServer(tmp_path, "--tls-auth-clients", "yes", tls=certificates, name="mutual", answers=False) as strict:
        go_through(door, settings_for(tmp_path, broker=f"{strict.url}?{ca}&{ours}"))
        with pytest.raises((redis.RedisError, BrokerUnavailable)):
            go_through(door, settings_for(tmp_path, broker=f"{strict.url}?{ca}"))


def test_a_server_without_tls_is_named_as_such(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as plain:
        settings = settings_for(tmp_path, broker=plain.url.replace("redis://", "rediss://"))
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)) as refused:
            go_through("shared state", settings)
    assert "does not speak TLS" in explain(refused.value)


def test_a_whole_trivet_runs_over_tls(server: RedisServer, certificates: Path, tmp_path: Path) -> None:
    url = f"{with_password(server.url)}/1?ssl_ca_certs={certificates / 'ca.crt'}"
    with running_trivet(tmp_path, broker_url=url, sections=UNHURRIED, ready_s=START_S) as running:
        batch = running.client.submit_many(requests(40, "tls"), latency="batch", name="tls")
        assert {result.status for result in batch.results()} == {"succeeded"}


@pytest.mark.xdist_group("rabbitmq")
def test_rabbitmq_is_verified_alike(certificates: Path, tmp_path: Path) -> None:
    with RabbitServer(tmp_path, tls=certificates) as rabbit:
        ca = f"ssl_ca_certs={certificates / 'ca.crt'}"
        nowhere = "redis://127.0.0.1:1"
        for door in ("celery", "flower"):
            with pytest.raises(BrokerUnavailable, match="does not prove who it is"):
                go_through(door, settings_for(tmp_path, broker=rabbit.url, redis=nowhere))
        assert "authenticated and granted access" not in rabbit.process.log
        for door in ("celery", "flower"):
            go_through(door, settings_for(tmp_path, broker=f"{rabbit.url}?{ca}", redis=nowhere))
            go_through(door, settings_for(tmp_path, broker=f"{rabbit.url}?ssl_cert_reqs=none", redis=nowhere))
