"""`trivet routes check`: its findings without a request to a provider, and the command as a whole."""

import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from tests.command_line import Said, run_trivet
from tests.unit.control_planes import Account, planes

from trivet.live_check.offline import check_offline
from trivet.live_check.report import Finding, Level
from trivet.live_check.subject import Mask, subject_of
from trivet_tasks.config.route_settings import RouteSettings

_CREDENTIALS = ("TRIVET_", "ANTHROPIC_", "AWS_", "GOOGLE_", "CLOUD_ML_", "CLOUDSDK_")
TODAY = date(2026, 11, 1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith(_CREDENTIALS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offline(*models: str, **settings: object) -> list[Finding]:
    route = RouteSettings.model_validate(settings)
    return [f for f in check_offline(subject_of("it", route, models), TODAY) if f.level is not Level.OK]


def test_a_good_route_has_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "a-key")
    assert offline(provider="anthropic", api_key="env:MY_KEY", requests_per_minute=5) == []
    assert offline(provider="bedrock", region="eu-west-1", api_key="env:MY_KEY", requests_per_minute=5) == []
    assert offline(provider="vertex", region="eu", project="p", api_key="env:MY_KEY", requests_per_minute=5) == []


@pytest.mark.parametrize(
    ("settings", "level", "said", "where"),
    [
        ({"provider": "anthropic", "api_key": "env:NOT_SET"}, Level.ERROR, "NOT_SET is empty", "api_key"),
        ({"provider": "anthropic", "api_key": "file:/nowhere"}, Level.ERROR, "/nowhere cannot be read", "api_key"),
        ({"provider": "anthropic"}, Level.WARNING, "no credentials", "api_key"),
        ({"provider": "bedrock"}, Level.ERROR, "No region", "region"),
        ({"provider": "bedrock", "region": "us east"}, Level.ERROR, "is no AWS region", "region"),
        ({"provider": "bedrock", "region": "us-esat-1"}, Level.WARNING, "knows no Bedrock", "region"),
        ({"provider": "vertex", "region": "us-east-5"}, Level.ERROR, "no region of Google", "region"),
        ({"provider": "vertex", "region": "us-east5"}, Level.NOTE, "No project", "project"),
        ({"provider": "anthropic", "models": {"claude-hiaku-5-5": "x"}}, Level.WARNING, "not in the catalogue", "models"),
        ({"provider": "anthropic"}, Level.NOTE, "No limits are set", "[routes.it]"),
        (
            {"provider": "anthropic", "limits": [{"models": ["gpt-*"], "requests_per_minute": 1}]},
            Level.WARNING, "No model of the route fits 'gpt-*'", "models",
        ),
        (
            {"provider": "bedrock", "region": "us-east-1", "output_tokens_per_minute": 9},
            Level.WARNING, "five tokens of quota", "output_token_factor",
        ),
        (
            {"provider": "bedrock", "region": "eu-west-2", "residency": ["uk"]},
            Level.ERROR, "can serve no model", "models",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place_and_what_to_do(
    settings: dict[str, object], level: Level, said: str, where: str
) -> None:
    (finding,) = [finding for finding in offline(**settings) if said in finding.what]
    assert finding.level is level
    assert finding.where.endswith(where)
    assert finding.action


def test_a_wrong_region_names_the_near_one() -> None:
    (finding,) = [f for f in offline(provider="bedrock", region="ap-souhteast-2") if f.where.endswith("region")]
    assert "Did you mean ap-southeast-2?" in finding.action


def test_a_named_model_the_route_cannot_serve_or_that_retires() -> None:
    (finding,) = [f for f in offline("claude-mythos-5-2", provider="vertex", region="us-east5") if f.models]
    assert finding.level is Level.ERROR
    (finding,) = [f for f in offline("claude-sonet-5-5", provider="anthropic") if f.models]
    assert "Did you mean claude-sonnet-5-5" in finding.action
    (finding,) = [f for f in offline("claude-sonnet-4-5-20250929", provider="anthropic") if f.models]
    assert finding.what == "claude-sonnet-4-5 retires on 2026-11-30."


@pytest.mark.parametrize(
    "secret",
    ["of-the-route", "sk-ant-api03-x_y-z", "ABSKQmVkcm9ja0FQSUtleQ==", "ya29.a0Af", "postgres-pw"],
)
def test_secrets_are_struck_out_of_what_sdks_say(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "of-the-route")
    mask = Mask(RouteSettings.model_validate({"provider": "anthropic", "api_key": "env:MY_KEY"}))
    mask.add("postgres-pw", None)
    assert mask.words(ValueError(f"bad {secret} here\n\nsigned {secret}")) == "bad [secret] here"
    assert mask.words(ValueError("http://user:pw@proxy refused")) == "http://user:***@proxy refused"
    assert len(mask.words("long " * 200)) == 300


# the command


@pytest.fixture
def account(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    made = Account(
        anthropic_models=["claude-haiku-5-5"],
        headers={"claude-haiku-5-5": {"anthropic-ratelimit-requests-limit": "50"}},
    )
    monkeypatch.setenv("MY_KEY", "sk-ant-very-secret")
    with planes(made) as url:
        (folder / "trivet.toml").write_text(
            f"""
            [routes.direct]
            provider = "anthropic"
            base_url = "{url}"
            api_key = "env:MY_KEY"
            requests_per_minute = 40
            [routes.other]
            provider = "anthropic"
            base_url = "{url}/hanging"
            api_key = "env:NOT_SET"
            """
        )
        yield made


def trivet(*arguments: str, columns: int = 200) -> Said:
    done = run_trivet(*arguments, env={"COLUMNS": str(columns)})
    assert "very-secret" not in done.out + done.err
    return done


def test_without_live_nobody_is_asked(account: Account) -> None:
    done = trivet("routes", "check", "direct")
    assert done.code == 0, done.out
    assert "No account was asked" in done.out
    assert account.asked == []
    assert trivet("routes", "check").code == 1  # the key of the other is not set


def test_live_asks_and_compares(account: Account) -> None:
    done = trivet("routes", "check", "direct", "--live", "--json")
    assert done.code == 0, done.out + done.err
    said = json.loads(done.out)
    (route,) = said["routes"]
    assert said["live"] is True
    assert route["limits"][0] == {
        "models": ["claude-haiku-5-5"], "limit": "requests_per_minute", "configured": 40, "account": 50, "level": "ok",
        "source": "header anthropic-ratelimit-requests-limit",
    }  # fmt: skip
    account.headers["claude-haiku-5-5"]["anthropic-ratelimit-requests-limit"] = "30"
    done = trivet("routes", "check", "direct", "--live", columns=80)
    assert done.code == 1
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert "40 requests a minute are configured, the account allows 30: it would throttle." in " ".join(
        done.out.split()
    )


def test_a_hanging_account_ends_neither_the_command_nor_the_others(account: Account) -> None:
    account.hang = "/hanging"
    path = Path("trivet.toml")
    path.write_text(path.read_text().replace("env:NOT_SET", "env:MY_KEY"))
    done = trivet("routes", "check", "--live", "--timeout", "10", "--json")
    assert done.code == 1
    direct, other = json.loads(done.out)["routes"]
    assert direct["result"] != "error"
    assert any("did not answer" in finding["what"] for finding in other["findings"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dierct",), "no route is called 'dierct'. Did you mean direct?"),
        (("--timeout", "0"), "--timeout"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_wrong_usage_exits_with_2(account: Account, arguments: tuple[str, ...], said: str) -> None:
    done = trivet("routes", "check", *arguments)
    assert done.code == 2
    assert said in done.err


def test_without_a_route_there_is_nothing_to_check(folder: Path) -> None:
    (folder / "trivet.toml").touch()
    done = trivet("routes", "check")
    assert done.code == 2
    assert "no route is configured" in done.err


def test_routes_alone_is_still_the_table(account: Account) -> None:
    done = trivet("routes", "--json")
    assert [route["route"] for route in done.json["routes"]] == ["direct", "other"]
    assert trivet("routes", "--json", "check").code == 2
