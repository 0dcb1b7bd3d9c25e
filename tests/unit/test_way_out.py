"""Ways of calls out of this machine, for a person; and the worker processes that are one witness."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from trivet_tasks.config.addresses import way_out
from trivet_tasks.config.settings import Settings, load_settings
from trivet_worker.run.context import origin_of

URL = "https://api.anthropic.com"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "directly"),
        ({"HTTP_PROXY": "http://proxy:1"}, "directly"),
        ({"HTTPS_PROXY": "proxy:3128"}, "through the proxy http://proxy:3128 (HTTPS_PROXY)"),
        ({"ALL_PROXY": "socks5://u:p@x:p@proxy:1080"}, "through the proxy socks5://proxy:1080 (ALL_PROXY)"),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "localhost, .anthropic.com"}, "directly"),
        ({"HTTPS_PROXY": "http://proxy:1", "no_proxy": "*"}, "directly"),
        (
            {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "thropic.com,"},
            "through the proxy http://proxy:1 (HTTPS_PROXY)",
        ),
    ],
)
def test_the_way_out_names_the_proxy_and_its_variable(environment: Mapping[str, str], words: str) -> None:
    assert way_out(URL, environment) == words


def test_an_address_that_is_none_goes_nowhere_else() -> None:
    assert way_out("", {"HTTPS_PROXY": "http://proxy:1"}) == "directly"


@pytest.fixture(autouse=True)
def no_network_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT"):
            monkeypatch.delenv(name)


@pytest.fixture
def settings_with(tmp_path: Path) -> Callable[..., Settings]:
    def load(api_key: str = "env:A_KEY", source: str = "trivet.toml") -> Settings:
        file = tmp_path / source
        file.write_text(f'[routes.anthropic]\nprovider = "anthropic"\napi_key = "{api_key}"\n')
        return load_settings(file)

    return load


def test_what_a_worker_is_started_with_makes_its_origin(
    settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = origin_of(settings_with())
    assert usual == origin_of(settings_with())
    assert usual != origin_of(settings_with(source="other.toml"))
    assert usual != origin_of(settings_with("file:/keys/anthropic"))
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy:1")
    proxied = origin_of(settings_with())
    assert proxied != usual
    monkeypatch.setenv("HTTPS_PROXY", "http://me:another@proxy:1")
    assert origin_of(settings_with()) == proxied, "passwords are no part of it"


def test_processes_of_one_machine_have_one_origin_and_keys_are_no_part_of_it(
    settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["trivet_worker.run.context"]
    one = origin_of(settings_with())
    for name in ("getpid", "getppid"):
        monkeypatch.setattr(module.os, name, lambda: 1)
    monkeypatch.setenv("A_KEY", "another")
    assert origin_of(settings_with()) == one
    monkeypatch.setattr(module.socket, "gethostname", lambda: "another-machine")
    assert origin_of(settings_with()) != one
