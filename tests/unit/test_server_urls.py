"""URLs of Redis and RabbitMQ: accepted forms, refused forms, and the arguments for each library."""

import ssl
from pathlib import Path

import pytest

from trivet_tasks.config.server_urls import check_files, read_server_url, with_absolute_files


@pytest.mark.parametrize(
    ("url", "celery"),
    [
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://cache:6380/3", "redis://cache:6380/3"),
        ("redis://cache?db=2", "redis://cache:6379/2"),
        ("redis://me:p%40ss%2F@cache/1", "redis://me:p%40ss%2F@cache:6379/1"),
        ("redis://:pass@cache", "redis://:pass@cache:6379/0"),
        ("redis://[::1]:7/1", "redis://[::1]:7/1"),
        ("rediss://cache?ssl_ca_certs=/ca.pem", "rediss://cache:6379/0"),
        ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2"),
        ("redis+socket:///run/r.sock", "redis+socket:///run/r.sock"),
        ("amqp://mq", "amqp://mq:5672/%2F"),
        ("amqp://guest:guest@mq:5673//", "amqp://guest:guest@mq:5673/%2F"),
        ("amqps://mq/jobs", "amqps://mq:5671/jobs"),
        ("sentinel://one?master_name=m", "sentinel://one:26379/0"),
        ("sentinel://:pw@one:1;sentinel://two/2?master_name=m", "sentinel://:pw@one:1/2;sentinel://:pw@two:26379/2"),
        ("sentinel://one;two:7/0?master_name=m", "sentinel://one:26379/0;sentinel://two:7/0"),
    ],
)
def test_what_celery_is_given(url: str, celery: str) -> None:
    assert read_server_url(url).celery_url == celery


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://one:6379,two:6379", "names several hosts"),
        ("redis://one,redis://two", "names several hosts"),
        ("redis://one;redis://two", "names several hosts"),
        ("amqp://one,two", "names several hosts"),
        ("amqp://one;amqp://two", "names several hosts"),
        ("sentinel://one:26379,two:26379/0?master_name=m", "names several hosts by comma"),
        ("sentinel://one;sentinel://two", "master_name"),
        ("sentinel://one?master_name=m&ssl_ca_certs=ca.pem", "ssl=true"),
        ("rediscluster://one", "Redis Cluster is not supported"),
        ("reddis://one", "did you mean redis://?"),
        ("memcached://one", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("redis://", "names no host"),
        ("redis://one:port", "the port must be a number"),
        ("redis://one:99999", "the port must be a number"),
        ("redis://one/jobs", "the database must be a number"),
        ("redis://one?timeout=3", "unknown parameter 'timeout'"),
        ("rediss://one?ssl_ca_cert=x", "did you mean ssl_ca_certs?"),
        ("rediss://one?ssl_cert_reqs=maybe", "must be required or none"),
        ("rediss://one?ssl_check_hostname=maybe", "must be true or false"),
        ("rediss://one?ssl_keyfile=x", "ssl_certfile"),
        ("redis://one?ssl_ca_certs=x", "needs TLS: begin the URL with rediss://"),
        ("amqp://one?ssl_cert_reqs=none", "needs TLS: begin the URL with amqps://"),
        ("amqp://one?heartbeat=3", "unknown parameter 'heartbeat'; it takes none"),
        ("unix://", "absolute path"),
    ],
)
def test_what_is_refused_in_one_sentence(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read_server_url(url)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:1/s3cret@one",
        "redis://me:1?s3cret@one",
        "redis://me:1#s3cret@one",
        "redis://:a/s3cret@one",
        "amqp://me:1/s3cret@one",
        "sentinel://me:1/s3cret@one?master_name=m",
    ],
)
def test_a_password_that_breaks_the_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read_server_url(url)
    assert "s3cret" not in str(refused.value)


def test_a_password_is_in_no_repr() -> None:
    assert "s3cret" not in repr(read_server_url("redis://me:s3cret@one"))
    assert "s3cret" not in repr(read_server_url("sentinel://one?master_name=m&sentinel_password=s3cret"))


def test_tls_verifies_unless_the_url_says_otherwise() -> None:
    usual = read_server_url("rediss://one").celery_tls()
    assert usual is not None
    assert (usual["ssl_cert_reqs"], usual["ssl_check_hostname"]) == (ssl.CERT_REQUIRED, True)
    none = read_server_url("rediss://one?ssl_cert_reqs=none").celery_tls()
    assert none is not None
    assert (none["ssl_cert_reqs"], none["ssl_check_hostname"]) == (ssl.CERT_NONE, False)
    amqp = read_server_url("amqps://one").celery_tls()
    assert amqp is not None
    assert (amqp["cert_reqs"], amqp["server_hostname"]) == (ssl.CERT_REQUIRED, "one")
    assert read_server_url("redis://one").celery_tls() is None


def test_files_count_from_the_configuration_and_must_be_there(tmp_path: Path) -> None:
    url = with_absolute_files("rediss://:p%40@one/1?ssl_ca_certs=ca.pem&ssl_check_hostname=false", tmp_path)
    assert url == f"rediss://:p%40@one/1?ssl_ca_certs={tmp_path}/ca.pem&ssl_check_hostname=false"
    with pytest.raises(ValueError, match=r"ca\.pem: No such file"):
        check_files(url)
    (tmp_path / "ca.pem").touch()
    check_files(url)
    assert with_absolute_files("redis://one?db=1", tmp_path) == "redis://one?db=1"
