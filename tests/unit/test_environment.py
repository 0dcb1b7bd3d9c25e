"""Variables that the environment may set, and the errors of a broken one."""

import os
import sys
from pathlib import Path

import pytest

from trivet_tasks.celery_app import make_app
from trivet_tasks.config.addresses import effective_host
from trivet_tasks.config.environment import ignored, sdk_base_url, set_aside, without_secrets
from trivet_tasks.config.environment_faults import environment_faults, proxy_of
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import ConfigError

HOSTILE = (
    "ANTHROPIC_BASE_URL", "ANTHROPIC_BEDROCK_BASE_URL", "ANTHROPIC_VERTEX_BASE_URL", "ANTHROPIC_FOUNDRY_BASE_URL",
    "ANTHROPIC_BEDROCK_MANTLE_BASE_URL", "ANTHROPIC_GOOGLE_CLOUD_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_LOG",
    "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_CONFIG_MODULE", "CELERY_LOADER",
    "CELERY_RESULT_BACKEND", "CELERY_CUSTOM_WORKER_POOL", "KOMBU_LOG_DEBUG", "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_DATA_PATH", "BOTOCORE_EXPERIMENTAL__PLUGINS",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT", "GCE_METADATA_HOST", "FLOWER_BROKER_API", "FLOWER_CONF", "PGHOST", "PGHOSTADDR",
    "PGSERVICE", "PGOPTIONS", "PGSSLMODE", "SSLKEYLOGFILE",
)  # fmt: skip
HONOURED = (
    "TRIVET_STORE__URL", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "ANTHROPIC_API_KEY", "AWS_PROFILE", "AWS_REGION",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "GOOGLE_APPLICATION_CREDENTIALS", "PGPASSWORD", "PGPASSFILE", "PGUSER",
    "FLOWER_BASIC_AUTH", "FLOWER_URL_PREFIX", "PATH", "HOME",
)  # fmt: skip


def test_what_leads_elsewhere_is_set_aside_and_named() -> None:
    environment = dict.fromkeys((*HOSTILE, *HONOURED), "x")
    set_aside(environment)
    assert set(environment) & set(HOSTILE) == set()
    assert set(HONOURED) <= set(environment)
    assert set(ignored(environment)) == set(HOSTILE)
    again = dict(environment)
    set_aside(again)
    assert again == environment


def test_a_part_that_makes_no_calls_gets_no_keys() -> None:
    keys = (
        "ANTHROPIC_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_BEARER_TOKEN_BEDROCK",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "OUR_KEY",
    )
    environment = dict.fromkeys((*keys, "PATH", "TRIVET_STORE__URL", "PGPASSWORD"), "x")
    left = without_secrets(environment, frozenset({"OUR_KEY"}))
    assert set(left) == {"PATH", "TRIVET_STORE__URL", "PGPASSWORD"}


def test_a_route_may_follow_its_sdks_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://gateway.example:8080")
    config = tmp_path / "trivet.toml"
    config.write_text(
        '[routes.ours]\nprovider = "anthropic"\n'
        '[routes.theirs]\nprovider = "anthropic"\nenvironment = true\n'
        '[routes.named]\nprovider = "anthropic"\nenvironment = true\nbase_url = "http://named.example"\n'
    )
    for _ in range(2):  # as it is set, and as a process of ours sets it aside
        routes = load_settings(config).routes
        assert {name: effective_host(route) for name, route in routes.items()} == {
            "ours": "api.anthropic.com", "theirs": "gateway.example:8080", "named": "named.example",
        }  # fmt: skip
        monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
        monkeypatch.setenv("TRIVET_SET_ASIDE_ANTHROPIC_BASE_URL", "http://gateway.example:8080")
    assert sdk_base_url("bedrock") == os.environ.get("ANTHROPIC_BEDROCK_BASE_URL", "")


@pytest.mark.parametrize(
    ("provider", "region", "host"),
    [
        ("anthropic", "", "api.anthropic.com"),
        ("bedrock", "eu-west-1", "bedrock-runtime.eu-west-1.amazonaws.com"),
        ("vertex", "global", "aiplatform.googleapis.com"),
        ("vertex", "eu", "aiplatform.eu.rep.googleapis.com"),
        ("vertex", "us-east5", "us-east5-aiplatform.googleapis.com"),
    ],
)
def test_the_host_comes_from_provider_and_region(provider: str, region: str, host: str) -> None:
    route = RouteSettings.model_validate({"provider": provider, "region": region or None})
    assert effective_host(Settings(routes={"a": route}).routes["a"]) == host


def test_messages_go_to_the_broker_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://evil.example:6379/0")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "a_module_that_is_not_there")
    monkeypatch.setenv("CELERY_LOADER", "a_loader_that_is_not_there")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "settings_that_are_not_there")
    app = make_app(Settings(broker={"url": "redis://ours.example:6379/0"}))  # type: ignore[arg-type]
    assert app.conf.task_ignore_result
    for connection in (app.connection_for_read(), app.connection_for_write(), app.connection()):
        assert connection.hostname == "ours.example"
    with app.producer_pool.acquire(block=False) as producer:
        assert producer.connection.hostname == "ours.example"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HTTPS_PROXY", "socks://127.0.0.1:1080", "socks5://"),
        ("all_proxy", "socks4://127.0.0.1:1080", "socks5://"),
        ("HTTPS_PROXY", " http://proxy:3128", "spaces"),
        ("HTTPS_PROXY", "http://proxy:3128 ", "spaces"),
        ("http_proxy", "http://proxy:3128\n", "line breaks"),
        ("HTTPS_PROXY", "ftp://proxy", "ftp://"),
        ("HTTPS_PROXY", "http://", "http://HOST:PORT"),
        ("HTTPS_PROXY", "http://proxy:port", "http://HOST:PORT"),
        ("HTTPS_PROXY", "http://a proxy:1", "http://HOST:PORT"),
        ("SSL_CERT_FILE", "/gone/ca.pem", "cannot be read"),
        ("SSL_CERT_FILE", os.devnull, "holds no certificate"),
        ("SSL_CERT_DIR", "/gone/certs", "no folder"),
        ("REQUESTS_CA_BUNDLE", "/gone/ca.pem", "cannot be read"),
        ("CURL_CA_BUNDLE", "/gone/ca.pem", "cannot be read"),
        ("AWS_CA_BUNDLE", os.devnull, "holds no certificate"),
        ("ANTHROPIC_API_KEY", "sk-ant-s3cret\nmore", "line break"),
        ("ANTHROPIC_AUTH_TOKEN", "s3crét", "not ASCII"),
        ("OUR_KEY", "s3cret\r\nX-Evil: 1", "line break"),
        ("OUR_KEY", "s3cret\u200b", "not ASCII"),
        ("OUR_KEY", "s3cret\x07", "control character"),
    ],
)
def test_a_broken_environment_is_said_in_one_sentence(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    routes = {"a": {"provider": "anthropic"}, "b": {"provider": "bedrock", "api_key": "env:OUR_KEY"}}
    faults = list(environment_faults(Settings(routes=routes)))  # type: ignore[arg-type]
    assert len(faults) == 1
    assert variable in faults[0]
    assert words in faults[0]
    assert "s3cr" not in faults[0]
    assert "\n" not in faults[0]


@pytest.mark.parametrize("value", ["proxy:3128", "http://me:pw@proxy:3128", "https://proxy", "HTTP://proxy:1", ""])
def test_a_proxy_that_works_is_no_fault(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(environment_faults(Settings(), {"HTTPS_PROXY": value, "SSL_CERT_FILE": ""}))


def test_the_proxy_in_force_is_known() -> None:
    assert proxy_of("https", {"HTTPS_PROXY": "upper:1", "https_proxy": "lower:1"}) == ("https_proxy", "http://lower:1")
    assert proxy_of("http", {"ALL_PROXY": "socks5://one:2"}) == ("ALL_PROXY", "socks5://one:2")
    assert proxy_of("http", {"HTTPS_PROXY": "one:1"}) is None


def test_an_output_that_cannot_write_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    (fault,) = environment_faults(Settings(), {"PYTHONIOENCODING": "ascii"})
    assert "PYTHONIOENCODING=ascii" in fault
    assert not list(environment_faults(Settings(), {}))


def test_a_key_file_that_is_no_text_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xff\xfe")
    routes = {"a": {"provider": "anthropic", "api_key": f"file:{file}"}}
    settings = Settings(routes=routes)  # type: ignore[arg-type]
    (fault,) = environment_faults(settings)
    assert "is not text" in fault
    with pytest.raises(ConfigError):
        settings.routes["a"].api_key.resolve()  # type: ignore[union-attr]
