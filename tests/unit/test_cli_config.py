"""`trivet config`, `trivet db` and the messages on wrong configurations, through the real command."""

import json
import os
import re
import socket
import sqlite3
import tomllib
from pathlib import Path

import pytest
from tests.command_line import run_trivet

from trivet.config.template import NAMES, found_credentials, template
from trivet_tasks.config.finding import CONFIG_NAME
from trivet_tasks.config.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / "examples" / CONFIG_NAME
SECRETS = {
    "ANTHROPIC_API_KEY": "sk-ant-very-secret",
    "AWS_BEARER_TOKEN_BEDROCK": "bedrock-very-secret",
    "GOOGLE_APPLICATION_CREDENTIALS": "/very-secret.json",
}
_CREDENTIALS = ("TRIVET_", "ANTHROPIC_", "AWS_", "GOOGLE_", "CLOUD_ML_", "CLOUDSDK_")
UNREACHABLE = "127.0.0.1:1"  # port 1, tcpmux, is served nowhere


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith(_CREDENTIALS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def defaults(folder: Path) -> dict[str, object]:
    assert not (folder / CONFIG_NAME).exists()
    return load_settings().model_dump()


# --- config init


def test_init_without_credentials_proposes_nothing_and_changes_nothing(folder: Path) -> None:
    before = defaults(folder)
    done = run_trivet("config", "init")
    assert done.code == 0
    assert done.out.count("commented out") == 3
    assert load_settings().model_dump() == before


def test_what_init_shows_commented_out_are_the_defaults(folder: Path) -> None:
    before = defaults(folder)
    text = template(found_credentials({}, folder))
    head, _, tail = text.partition("# Routes:")
    tail = tail[tail.index("[classes.realtime]") :]
    lines = [re.sub(r"^# (?=[a-z_]+ = )", "", line) for line in (head + tail).splitlines()]
    (folder / CONFIG_NAME).write_text("\n".join(lines), encoding="utf-8")
    read = tomllib.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    assert set(read) == {"store", "broker", "redis", "cache", "classes", "health", "leases", "worker", "gateway"}
    assert all(read.values())
    after = load_settings().model_dump()
    store = after.pop("store")
    assert store.pop("url") == "sqlite:///.trivet/trivet.db"  # what the empty default stands for
    assert store == {"pool_size": 8, "max_overflow": 8, "prepared_statements": None}
    del before["store"]
    assert after == before


def test_init_proposes_routes_for_what_it_finds_and_writes_no_secret(folder: Path) -> None:
    places = {"AWS_REGION": "eu-central-1", "GOOGLE_CLOUD_PROJECT": "our-project"}
    done = run_trivet("config", "init", env={**SECRETS, **places})
    assert done.code == 0
    written = (folder / CONFIG_NAME).read_text(encoding="utf-8")
    assert not [secret for secret in SECRETS.values() if secret in written + done.out]
    settings = load_settings()
    assert {name: (r.provider, r.region, r.project) for name, r in settings.routes.items()} == {
        "bedrock-eu-central-1": ("bedrock", "eu-central-1", None),
        "vertex-us-east5": ("vertex", "us-east5", "our-project"),
        "anthropic": ("anthropic", None, None),
    }
    keys = {name: str(route.api_key) for name, route in settings.routes.items() if route.api_key}
    assert keys == {"bedrock-eu-central-1": "env:AWS_BEARER_TOKEN_BEDROCK", "anthropic": "env:ANTHROPIC_API_KEY"}


@pytest.mark.parametrize(
    ("variables", "file", "usable"),
    [
        ({"ANTHROPIC_API_KEY": "x"}, None, {"anthropic"}),
        ({"ANTHROPIC_API_KEY": ""}, None, set()),
        ({"AWS_PROFILE": "x"}, None, {"bedrock"}),
        ({}, ".aws/credentials", {"bedrock"}),
        ({}, ".config/gcloud/application_default_credentials.json", set()),
        ({"GOOGLE_CLOUD_PROJECT": "p"}, ".config/gcloud/application_default_credentials.json", {"vertex"}),
        ({"GOOGLE_CLOUD_PROJECT": "p"}, None, set()),
    ],
)
def test_a_provider_is_proposed_only_with_credentials(
    tmp_path: Path, variables: dict[str, str], file: str | None, usable: set[str]
) -> None:
    if file:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    proposals = found_credentials(variables, tmp_path)
    assert {p.settings["provider"] for p in proposals if p.usable} == usable
    assert set(tomllib.loads(template(proposals)).get("routes", {})) == {p.name for p in proposals if p.usable}


def test_a_strange_region_cannot_break_the_file(tmp_path: Path) -> None:
    region = 'a"]\n[store]\nurl = "x'
    text = template(found_credentials({"AWS_PROFILE": "x", "AWS_REGION": region}, tmp_path))
    assert tomllib.loads(text)["routes"] == {f"bedrock-{region}": {"provider": "bedrock", "region": region}}


@pytest.mark.parametrize("options", [(), ("--scenario", "sydney")])
def test_init_replaces_a_file_only_when_forced(folder: Path, options: tuple[str, ...]) -> None:
    (folder / CONFIG_NAME).write_text("# mine\n", encoding="utf-8")
    done = run_trivet("config", "init", *options)
    assert done.code == 2
    assert "--force" in done.err
    assert (folder / CONFIG_NAME).read_text(encoding="utf-8") == "# mine\n"
    assert run_trivet("config", "init", "--force", *options).code == 0
    assert "[store]" in (folder / CONFIG_NAME).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_init_with_a_scenario_writes_all_its_routes_and_says_what_is_missing(folder: Path, name: str) -> None:
    done = run_trivet("config", "init", "--scenario", name)
    assert done.code == 0
    routes = load_settings().routes
    assert len(routes) == 3
    lines = done.out.splitlines()
    for route in routes:
        assert [line for line in lines if f"[routes.{route}] not ready: " in line], route
        assert [line for line in lines if line.startswith("Still missing") and route in line], route
    assert "no job can run" in done.out
    checked = run_trivet("config", "check")
    # credentials of a provider's own chain cannot be looked up: `config check` judges what the file names
    named = '\napi_key = "env:' in (folder / CONFIG_NAME).read_text(encoding="utf-8")
    assert (checked.code, "Not set here" in checked.err) == ((1, True) if named else (0, False))
    assert not [route for route in routes if route not in checked.out]


def test_init_with_a_scenario_says_what_it_found_and_writes_no_secret(folder: Path) -> None:
    done = run_trivet(
        "config", "init", "--scenario", "multi-cloud", env={**SECRETS, "GOOGLE_CLOUD_PROJECT": "our-project"}
    )
    written = (folder / CONFIG_NAME).read_text(encoding="utf-8")
    assert not [secret for secret in SECRETS.values() if secret in written + done.out]
    for variable in SECRETS:
        assert f"# {variable} is set" in written, variable
        assert f"ready: {variable} is set" in done.out, variable
    assert "missing" not in done.out
    routes = load_settings().routes
    assert str(routes["bedrock-us-east-1"].api_key) == "env:AWS_BEARER_TOKEN_BEDROCK"
    assert str(routes["anthropic"].api_key) == "env:ANTHROPIC_API_KEY"
    assert routes["vertex-us-central1"].project == "our-project"


def test_init_tells_which_scenarios_there_are_and_writes_nothing(folder: Path) -> None:
    done = run_trivet("config", "init", "--scenario", "multicloud")
    assert done.code == 2
    assert "Did you mean multi-cloud?" in done.err
    assert not [name for name in NAMES if name not in done.err]
    assert list(folder.iterdir()) == []


# --- config check and show


def test_check_shows_what_was_read_and_masks_passwords(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text(
        '[routes.one]\nprovider = "anthropic"\napi_key = "env:MY_KEY"\nrequests_per_minute = 1234\n', encoding="utf-8"
    )
    urls = {
        "TRIVET_STORE__URL": "postgresql://u:sekret@db.example.com/t",
        "TRIVET_BROKER__URL": "redis://u:sekret@cache.example.com:6379/0",
        "TRIVET_SECURITY__KEY": "env:MY_SIGNING_KEY",
    }
    done = run_trivet("config", "check", env=urls)
    assert done.code == 1  # a key is not set here
    assert "sekret" not in done.out + done.err
    assert "Not set here: the credentials of one." in done.err
    assert "Not set here: [security] key." in done.err
    for expected in (
        CONFIG_NAME,
        "db.example.com",
        "cache.example.com",
        "one",
        "anthropic",
        "1,234",
        "env:MY_KEY (not set here)",
        "env:MY_SIGNING_KEY (not set here)",
    ):
        assert expected in done.out, expected
    whole = run_trivet("config", "check", env={"MY_KEY": "k-very-secret"})
    assert whole.code == 0
    assert "not set here" not in whole.out


def test_check_demands_a_key_where_cached_answers_are_on_another_machine(folder: Path) -> None:
    away = {"TRIVET_BROKER__URL": "redis://u:sekret@cache.example.com:6379/0"}
    off = run_trivet("config", "check", env=away)
    assert (off.code, "security key   none; workers cache no answers" in off.out) == (0, True)
    away["TRIVET_CACHE__ENABLED"] = "true"
    done = run_trivet("config", "check", env=away)
    assert done.code == 2
    assert "[security] key: is needed" in done.err
    assert "sekret" not in done.err
    weak = run_trivet("config", "check", env={**away, "TRIVET_SECURITY__KEY": "env:WEAK", "WEAK": "very-secret"})
    assert weak.code == 2
    assert "env:WEAK holds 11 characters; a key has 32 or more" in weak.err
    assert "very-secret" not in weak.out + weak.err
    named = {**away, "TRIVET_SECURITY__KEY": "env:STRONG", "STRONG": "s" * 32}
    assert run_trivet("config", "check", env=named).code == 0
    worker = run_trivet("worker", env=away | {"TRIVET_CONFIG": str(EXAMPLE)})
    assert worker.code == 2
    assert "[security] key: is needed" in worker.err


def test_init_makes_the_key_that_signs_answers_once(folder: Path) -> None:
    done = run_trivet("config", "init")
    path = folder / ".trivet" / "security.key"
    key = path.read_text(encoding="ascii")
    assert f"{path} written: the key that signs cached answers." in done.out
    assert key.strip() not in done.out + (folder / CONFIG_NAME).read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "security.key" not in run_trivet("config", "init", "--force").out
    assert path.read_text(encoding="ascii") == key
    checked = run_trivet("config", "check")
    assert f"security key   {path}" in checked.out


def test_check_names_every_mistake_and_exits_with_2(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text(
        '[brokr]\nurl = ""\n[routes.a]\nprovider = "bedrock"\nrequest_per_minute = 3\napi_key = "sk-ant-secret"\n',
        encoding="utf-8",
    )
    done = run_trivet("config", "check")
    assert done.code == 2
    assert "brokr: unknown key. Did you mean broker?" in done.err
    assert "request_per_minute: unknown key. Did you mean requests_per_minute?" in done.err
    assert str(folder / CONFIG_NAME) in done.err
    assert "sk-ant-secret" not in done.err


def test_show_prints_the_effective_settings_that_load_again(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    before = load_settings()
    done = run_trivet("config", "show")
    assert done.code == 0
    (folder / CONFIG_NAME).write_text(done.out, encoding="utf-8")
    after = load_settings()
    assert _without_urls(after) == _without_urls(before)
    assert (after.store_url, after.broker_url, after.redis_url) == (
        before.store_url,
        before.broker_url,
        before.redis_url,
    )


def test_show_has_the_hidden_costs_of_a_route_and_loads_again(folder: Path) -> None:
    costs = "costs = { per_request_usd = 0.00002, per_month_usd = 21.90 }"
    (folder / CONFIG_NAME).write_text(f'[routes.one]\nprovider = "anthropic"\n{costs}\n', encoding="utf-8")
    before = load_settings()
    shown = run_trivet("config", "show").out
    assert '"per_request_usd" = "0.00002"' in shown
    (folder / CONFIG_NAME).write_text(shown, encoding="utf-8")
    assert load_settings().routes == before.routes


def test_show_has_windows_and_the_one_in_force_and_loads_again(folder: Path) -> None:
    windows = "windows = [{ hours = '00-24', cost_factor = 0.5 }, { hours = '22-06', days = ['sat'], weight = 2 }]"
    (folder / CONFIG_NAME).write_text(f'[routes.one]\nprovider = "anthropic"\n{windows}\n', encoding="utf-8")
    before = load_settings()
    shown = run_trivet("config", "show").out
    assert "# window now: 00-24 UTC: cost x0.5" in shown
    (folder / CONFIG_NAME).write_text(shown, encoding="utf-8")
    assert load_settings().routes == before.routes
    (found,) = json.loads(run_trivet("config", "show", "--json").out)["routes"].values()
    assert (found["window_now"], len(found["windows"])) == ("00-24 UTC: cost x0.5", 2)


def test_show_as_json_has_references_and_masked_passwords(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text(
        '[routes.one]\nprovider = "anthropic"\napi_key = "env:MY_KEY"\n', encoding="utf-8"
    )
    env = {"MY_KEY": "very-secret", "TRIVET_BROKER__URL": "redis://u:sekret@h:6379/0", "TRIVET_WORKER__SLOTS": "7"}
    done = run_trivet("config", "show", "--json", env=env)
    shown = json.loads(done.out)
    assert shown["routes"]["one"]["api_key"] == "env:MY_KEY"
    assert shown["broker"]["url"] == shown["redis"]["url"] == "redis://u:***@h:6379/0"
    assert shown["worker"]["slots"] == 7
    assert shown["classes"]["batch"]["budget_s"] == 30
    assert "very-secret" not in done.out


def test_show_has_every_section_and_loads_again(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text(
        '[cache]\nenabled = false\n[flower]\nhosts = ["flower.example.org"]\n', encoding="utf-8"
    )
    before = load_settings()
    sections = json.loads(run_trivet("config", "show", "--json").out).keys()
    assert set(Settings.model_fields) - sections == {"budgets", "celery_apps", "schedules"}  # without elements
    shown = run_trivet("config", "show").out
    assert "enabled = false" in shown
    (folder / CONFIG_NAME).write_text(shown, encoding="utf-8")
    assert _without_urls(load_settings()) == _without_urls(before)


def test_show_quotes_the_name_of_a_route_that_has_a_dot(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text('[routes."eu.one"]\nprovider = "anthropic"\n', encoding="utf-8")
    before = load_settings()
    shown = run_trivet("config", "show").out
    assert '[routes."eu.one"]' in shown
    (folder / CONFIG_NAME).write_text(shown, encoding="utf-8")
    assert load_settings().routes == before.routes


def _without_urls(settings: Settings) -> dict[str, object]:
    return settings.model_dump(exclude={"store", "broker", "redis"})


def test_the_example_loads_and_has_the_three_real_routes() -> None:
    settings = load_settings(EXAMPLE)
    assert {name: route.provider for name, route in settings.routes.items()} == {
        "bedrock-us-east-1": "bedrock",
        "vertex-us-east5": "vertex",
        "anthropic": "anthropic",
    }
    assert not [route for route in settings.routes.values() if route.base_url]
    text = EXAMPLE.read_text(encoding="utf-8")
    assert not [variable for variable in SECRETS if f"Needs {variable}" not in text]


# --- db


def test_db_upgrade_creates_and_says_from_where_to_where(folder: Path) -> None:
    (folder / CONFIG_NAME).touch()
    assert json.loads(run_trivet("db", "version", "--json").out)["version"] is None
    assert not (folder / ".trivet" / "trivet.db").exists()
    first = run_trivet("db", "upgrade")
    assert first.code == 0
    newest = json.loads(run_trivet("db", "version", "--json").out)["newest"]
    assert f"no schema → {newest}" in first.out
    assert f"already at {newest}" in run_trivet("db", "upgrade").out
    assert json.loads(run_trivet("db", "version", "--json").out)["version"] == newest


@pytest.mark.parametrize("command", [("db", "upgrade"), ("up", "--simulate")])
def test_a_database_from_a_newer_version_is_refused(folder: Path, command: tuple[str, ...]) -> None:
    (folder / CONFIG_NAME).touch()
    run_trivet("db", "upgrade")
    with sqlite3.connect(folder / ".trivet" / "trivet.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    done = run_trivet(*command)
    assert done.code == 2
    assert "9999" in done.err
    assert "newer" in done.err


# --- what is not there


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        (("db", "upgrade"), {"TRIVET_STORE__URL": f"postgresql://u:sekret@{UNREACHABLE}/t"}),
        (("up", "--simulate"), {"TRIVET_STORE__URL": f"postgresql://u:sekret@{UNREACHABLE}/t"}),
        (("up", "--simulate"), {"TRIVET_BROKER__URL": f"redis://u:sekret@{UNREACHABLE}/0"}),
    ],
)
def test_what_does_not_answer_is_named_without_its_password(
    folder: Path, command: tuple[str, ...], variables: dict[str, str]
) -> None:
    done = run_trivet(*command, env=variables)
    assert done.code == 2
    assert f"u:***@{UNREACHABLE}" in done.err
    assert "Is the server running and the URL right?" in done.err
    assert "sekret" not in done.err


def test_a_file_that_is_no_database_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("not a database at all\n" * 10, encoding="utf-8")
    done = run_trivet("db", "upgrade", env={"TRIVET_STORE__URL": "sqlite:///notes.txt"})
    assert done.code == 2
    assert "notes.txt" in done.err


def test_simulate_names_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_trivet("simulate", "--bedrock-port", str(port))
    assert done.code == 2
    assert f"port {port} for bedrock" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_up_names_a_flower_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_trivet("up", "--simulate", "--flower", "--flower-port", str(port))
    assert done.code == 2
    assert f"--flower-port: {port}" in done.err


def test_up_without_routes_says_what_to_do(folder: Path) -> None:
    done = run_trivet("up")
    assert done.code == 2
    assert "trivet config init" in done.err
    assert "--simulate" in done.err
    assert not (folder / ".trivet").exists()


def test_up_does_not_mix_simulated_with_real_routes(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text('[routes.real]\nprovider = "anthropic"\n', encoding="utf-8")
    done = run_trivet("up", "--simulate")
    assert done.code == 2
    assert "empty folder" in done.err
