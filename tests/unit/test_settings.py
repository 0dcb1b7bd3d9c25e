"""Settings: file, variables, defaults, and what is said of a mistake."""

import json
import os
from pathlib import Path

import pytest

from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without any variable of ours."""
    for name in list(os.environ):
        if name.startswith("TRIVET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, words: str) -> Path:
    path = folder / "trivet.toml"
    path.write_text(words, encoding="utf-8")
    return path


def refused(named: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(named)
    return str(caught.value)


# defaults and where they come from


def test_nothing_set_is_sqlite_and_the_embedded_broker_beside_us(folder: Path) -> None:
    settings = load_settings()
    assert settings.source == "the built-in defaults"
    assert settings.store_url == f"sqlite:///{folder}/.trivet/trivet.db"
    assert settings.embedded
    assert settings.broker_url.startswith("redis+socket:///")
    assert settings.redis_url.startswith("unix:///")
    assert settings.routes == {}, "no route is ever assumed"
    assert settings.classes == DEFAULTS
    assert settings.data_dir == folder / ".trivet"


def test_the_file_in_the_working_directory_is_read(folder: Path) -> None:
    path = write(folder, "[leases]\nttl_s = 7")
    settings = load_settings()
    assert (settings.leases.ttl_s, settings.source) == (7, str(path))
    assert settings.leases.heartbeat_s == 1, "what a section does not say keeps its default"


def test_the_file_named_by_the_variable_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "[leases]\nttl_s = 7")
    (folder / "etc").mkdir()
    other = write(folder / "etc", "[leases]\nttl_s = 8")
    monkeypatch.setenv("TRIVET_CONFIG", str(other))
    assert load_settings().leases.ttl_s == 8
    assert load_settings(folder / "trivet.toml").leases.ttl_s == 7


def test_an_empty_file_is_the_defaults(folder: Path) -> None:
    write(folder, "")
    assert load_settings().classes == DEFAULTS


def test_variables_win_over_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, '[store]\nurl = "sqlite:///a.db"\n[leases]\nttl_s = 7\nheartbeat_s = 2')
    monkeypatch.setenv("TRIVET_STORE__URL", "postgresql://me@db/trivet")
    monkeypatch.setenv("TRIVET_LEASES__TTL_S", "9")
    settings = load_settings()
    assert settings.store_url == "postgresql+psycopg://me@db/trivet"
    assert (settings.leases.ttl_s, settings.leases.heartbeat_s) == (9, 2)


def test_a_variable_sets_one_key_of_a_route(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, '[routes.direct]\nprovider = "anthropic"\nmax_concurrency = 5')
    monkeypatch.setenv("TRIVET_ROUTES__DIRECT__MAX_CONCURRENCY", "9")
    route = load_settings().routes["direct"]
    assert (route.provider, route.max_concurrency) == ("anthropic", 9)


# latency classes


def test_a_class_set_in_part_keeps_its_other_defaults(folder: Path) -> None:
    write(folder, "[classes.batch]\nmax_rounds = 3")
    settings = load_settings()
    assert settings.of_class(Latency.BATCH) == DEFAULTS[Latency.BATCH].model_copy(update={"max_rounds": 3})
    assert settings.of_class(Latency.REALTIME) == DEFAULTS[Latency.REALTIME]


@pytest.mark.parametrize("words", ["", "[classes.batch]\nbudget_s = 20", "[classes.realtime]\nbudget_s = 2"])
def test_a_variable_sets_one_key_of_a_class(folder: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    write(folder, words)
    monkeypatch.setenv("TRIVET_CLASSES__BATCH__MAX_ROUNDS", "2")
    settings = load_settings()
    assert settings.of_class(Latency.BATCH).max_rounds == 2
    assert settings.of_class(Latency.BATCH).budget_s == (20 if "batch" in words else 30)
    assert set(settings.classes) == set(Latency)


def test_a_variable_sets_one_key_of_a_class_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_CLASSES__ASYNC__BUDGET_S", "100")
    assert load_settings().of_class(Latency.ASYNC).budget_s == 100


# paths


def test_relative_paths_count_from_the_file(folder: Path) -> None:
    (folder / "etc").mkdir()
    path = write(
        folder / "etc",
        '[store]\nurl = "sqlite:///data/t.db"\n[routes.r]\nprovider = "anthropic"\napi_key = "file:keys/a"',
    )
    settings = load_settings(path)
    assert settings.store_url == f"sqlite:///{folder}/etc/data/t.db"
    assert settings.data_dir == folder / "etc" / ".trivet"
    key = settings.routes["r"].api_key
    assert key is not None
    assert (key.scheme, key.target) == ("file", f"{folder}/etc/keys/a")
    relative = load_settings(Path("etc/trivet.toml"))
    assert relative.store_url == settings.store_url


def test_absolute_paths_stay(folder: Path) -> None:
    write(folder, '[store]\nurl = "sqlite:////data/t.db"')
    assert load_settings().store_url == "sqlite:////data/t.db"


# secrets


def test_secrets_are_in_no_repr(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        folder,
        '[store]\nurl = "postgresql://me:s3cret1@db/x"\n[broker]\nurl = "redis://:s3cret2@mq/0"\n'
        '[redis]\nurl = "redis://:s3cret3@mq/1"\n[routes.r]\nprovider = "anthropic"\napi_key = "env:THE_KEY"',
    )
    monkeypatch.setenv("THE_KEY", "s3cret4")
    settings = load_settings()
    for shown in (repr(settings), str(settings), repr(settings.store), repr(settings.broker), f"{settings.redis}"):
        assert "s3cret" not in shown
    assert settings.redis_url == "redis://:s3cret3@mq/1"
    assert "s3cret" not in json.dumps(settings.routes["r"].definition())


@pytest.mark.parametrize("key", ["sk-ant-s3cret", "s3cret", "vault:s3cret", "env:", "file:"])
def test_a_secret_in_place_of_a_reference_is_refused_without_repeating_it(folder: Path, key: str) -> None:
    write(folder, f'[routes.r]\nprovider = "anthropic"\napi_key = "{key}"')
    said = refused()
    assert "[routes.r] api_key" in said
    assert "env:NAME" in said
    assert "s3cret" not in said


# mistakes


@pytest.mark.parametrize(
    ("words", "place", "near"),
    [
        ("[stor]\nurl = 'x'", "stor", "store"),
        ("[store]\nurll = 'x'", "[store] urll", "url"),
        ("[leases]\nttl = 3", "[leases] ttl", "ttl_s"),
        ("[routes.r]\nprovider = 'bedrock'\nregoin = 'x'", "[routes.r] regoin", "region"),
        ("[classes.batch]\nmax_round = 3", "[classes.batch] max_round", "max_rounds"),
    ],
)
def test_an_unknown_key_names_file_key_and_near_match(folder: Path, words: str, place: str, near: str) -> None:
    path = write(folder, words)
    said = refused()
    assert said.startswith(f"{path}: ")
    assert f"{place}: unknown key. Did you mean {near}?" in said


def test_a_key_like_no_other_is_unknown_without_a_guess(folder: Path) -> None:
    write(folder, "[store]\nzzz = 1")
    assert refused().endswith("[store] zzz: unknown key.")


def test_an_unknown_class_names_it(folder: Path) -> None:
    path = write(folder, "[classes.bacth]\nmax_rounds = 3")
    said = refused()
    assert str(path) in said
    assert "bacth" in said


def test_every_mistake_is_told(folder: Path) -> None:
    write(folder, "[leases]\nttl_s = -1\n[worker]\nslots = 'many'\n[store]\nurll = 'x'")
    lines = refused().splitlines()
    assert len(lines) == 3
    assert {
        part for line in lines for part in ("[leases] ttl_s", "[worker] slots", "[store] urll") if part in line
    } == {
        "[leases] ttl_s",
        "[worker] slots",
        "[store] urll",
    }


@pytest.mark.parametrize(
    "words",
    [
        "provider = 'openai'", "", "provider = 'bedrock'\nmax_concurrency = 0", "provider = 'bedrock'\nweight = -1",
        "provider = 'bedrock'\nrequests_per_minute = 0", "provider = 'bedrock'\npriority = 0",
        "provider = 'bedrock'\noutput_token_factor = 0.5", "provider = 'bedrock'\nmodels = 3",
        "provider = 'bedrock'\nlimits = [{ models = [] }]", "provider = 'bedrock'\nweight = nan",
        "provider = 'bedrock'\napi_key = 5",
    ],
)  # fmt: skip
def test_a_bad_route_names_itself(folder: Path, words: str) -> None:
    write(folder, f"[routes.r]\n{words}")
    assert "[routes.r" in refused()


def test_a_bad_variable_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_LEASES__TTL_S", "soon")
    assert refused().startswith("the variable TRIVET_LEASES__TTL_S: [leases] ttl_s: ")
    monkeypatch.delenv("TRIVET_LEASES__TTL_S")
    monkeypatch.setenv("TRIVET_STORE__URLL", "x")
    said = refused()
    assert "TRIVET_STORE__URLL" in said
    assert "Did you mean url?" in said


@pytest.mark.parametrize(
    ("section", "url"),
    [
        ("store", "mysql://me:s3cret@db/x"),
        ("store", "oracle+oracledb://me:s3cret@db"),
        ("store", "trivet.db"),
        ("store", "sqlite://"),
        ("store", "sqlite:///"),
        ("store", "sqlite:///:memory:"),
        ("store", "sqlite:trivet.db"),
        ("broker", "sqs://me:s3cret@x"),
        ("broker", "localhost:6379"),
        ("redis", "amqp://me:s3cret@mq"),
        ("redis", "memcached://x"),
    ],
)
def test_a_url_of_a_kind_we_do_not_know_is_refused(folder: Path, section: str, url: str) -> None:
    path = write(folder, f'[{section}]\nurl = "{url}"')
    said = refused()
    assert said.startswith(f"{path}: [{section}] url: ")
    assert "s3cret" not in said


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+socket", "amqp", "amqps"])
def test_every_broker_that_we_know_is_taken(folder: Path, scheme: str) -> None:
    write(folder, f'[broker]\nurl = "{scheme}://mq/0"\n[redis]\nurl = "redis://cache/0"')
    settings = load_settings()
    assert (settings.broker_url, settings.redis_url) == (f"{scheme}://mq/0", "redis://cache/0")
    assert not settings.embedded


def test_the_shared_state_is_the_broker_where_that_is_redis(folder: Path) -> None:
    write(folder, '[broker]\nurl = "redis://mq/3"')
    assert load_settings().redis_url == "redis://mq/3"
    write(folder, '[broker]\nurl = "redis+socket:///run/v.sock"')
    assert load_settings().redis_url == "unix:///run/v.sock"


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_rabbitmq_needs_a_redis_beside_it(folder: Path, scheme: str) -> None:
    write(folder, f'[broker]\nurl = "{scheme}://me:s3cret@mq//"')
    said = refused()
    assert "[redis] url: is needed" in said
    assert "s3cret" not in said


def test_a_file_that_is_not_there_or_no_toml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such configuration file" in refused(folder / "other.toml")
    monkeypatch.setenv("TRIVET_CONFIG", str(folder / "gone.toml"))
    assert str(folder / "gone.toml") in refused()
    monkeypatch.delenv("TRIVET_CONFIG")
    path = write(folder, "[store\nurl = 1")
    said = refused()
    assert said.startswith(f"{path}: is not valid TOML")
    assert "line 1" in said
    path.write_bytes(b"# \xff\xfe")
    assert "is not UTF-8 text (byte 2)" in refused()
    assert "cannot be read" in refused(folder)


def test_settings_do_not_change(folder: Path) -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.store = settings.store  # type: ignore[misc]
    assert isinstance(settings, Settings)
