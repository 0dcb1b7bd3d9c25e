"""`routes check --live` sets the catalogue, and the route's limits, against what the account's provider lists."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.control_planes import Account, planes

from trivet.live_check.report import Finding, Kind, Level, RouteReport
from trivet.live_check.run import check_routes
from trivet_simulator import SimulatorProcess
from trivet_tasks.config.route_settings import RouteSettings

KEY, ADMIN_KEY = "sk-ant-very-secret", "sk-ant-admin-very-secret"
HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"


def group(name: str, models: list[str], **limits: int) -> dict[str, Any]:
    """An entry as API version 2026-10-21 sends it."""
    values = [{"type": kind, "value": value} for kind, value in limits.items()]
    kind = {"id": f"rlg_{name}", "type": "model_group", "display_name": name}
    return {"id": f"rl_{name}", "type": "rate_limit", "group": kind, "models": models, "limits": values}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Account, RouteSettings]]:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("MY_ADMIN_KEY", ADMIN_KEY)
    made = Account(anthropic_models=[HAIKU, SONNET], page_size=1)
    with planes(made) as url:
        given = {"provider": "anthropic", "base_url": url, "api_key": "env:MY_KEY"}
        yield made, RouteSettings.model_validate(given)


def check(settings: RouteSettings, *models: str, **more: Any) -> RouteReport:
    route = RouteSettings.model_validate({**dict(settings), **more})
    (report,) = check_routes({"direct": route}, models=models, live=True, timeout_s=60)
    assert "very-secret" not in repr(report)
    return report


def about(report: RouteReport, words: str) -> Finding:
    (finding,) = [finding for finding in report.findings if words in finding.what]
    return finding


# --- the Admin API's limits


def test_limits_come_from_the_admin_api_in_place_of_a_paid_message(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    fake.rate_limits = [
        group("Claude Haiku 5.x", [HAIKU, f"{HAIKU}-latest"], requests_per_minute=4_000,
              input_tokens_per_minute_cache_aware=400_000, output_tokens_per_minute=80_000),
        {"type": "rate_limit", "group": {"type": "batch", "id": "b"}, "models": None,
         "limits": [{"type": "requests_per_minute", "value": 5}]},
        # as versions of the API before 2026-10-21 have it
        {"type": "rate_limit", "group_type": "model_group", "models": [SONNET, OPUS],
         "limits": [{"type": "requests_per_minute", "value": 1_000}, {"type": "new_limiter", "value": 1}]},
    ]  # fmt: skip
    report = check(
        settings, admin_api_key="env:MY_ADMIN_KEY", requests_per_minute=2_000, output_tokens_per_minute=80_000
    )
    assert fake.calls("/v1/messages") == []
    asked = fake.calls("/v1/organizations/rate_limits")
    assert len(asked) == 3  # a page each
    assert {call[2]["authorization"] for call in asked} == {f"Bearer {ADMIN_KEY}"}
    assert all("group_type=model_group" in call[1] for call in asked)
    assert {call[2]["authorization"] for call in fake.calls("/v1/models")} == {f"Bearer {KEY}"}
    found = {(row.models, row.limit): (row.configured, row.account, row.level) for row in report.limits}
    assert found == {
        ((SONNET,), Kind.REQUESTS): (2_000, 1_000, Level.ERROR),
        ((HAIKU,), Kind.REQUESTS): (2_000, 4_000, Level.OK),
        ((HAIKU,), Kind.INPUT): (None, 400_000, Level.NOTE),
        ((HAIKU,), Kind.OUTPUT): (80_000, 80_000, Level.OK),
    }
    assert about(report, "no message was sent").level is Level.OK


def test_a_refused_admin_key_is_told_and_the_message_is_sent(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    error = {"type": "authentication_error", "message": f"invalid x-api-key {ADMIN_KEY}"}
    fake.refuse["/v1/organizations"] = 401, {"type": "error", "error": error}
    report = check(settings, admin_api_key="env:MY_ADMIN_KEY")
    assert about(report, "The Admin API did not return the limits: invalid x-api-key [secret]").level is Level.WARNING
    assert len(fake.calls("/v1/messages")) == 1


@pytest.mark.parametrize("answer", [["a gateway's"], "a gateway's", {"data": [3]}], ids=str)
def test_another_answer_than_the_admin_api_s_has_no_limits(
    account: tuple[Account, RouteSettings], answer: object
) -> None:
    fake, settings = account
    fake.refuse["/v1/organizations"] = 200, answer
    report = check(settings, admin_api_key="env:MY_ADMIN_KEY")
    assert about(report, "names no limits for these models").level is Level.NOTE
    assert len(fake.calls("/v1/messages")) == 1


def test_a_list_without_an_end_is_read_for_some_pages_only(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    entry: dict[str, object] = {"type": "rate_limit", "group_type": "batch", "models": None, "limits": []}
    fake.refuse["/v1/organizations"] = 200, {"data": [entry], "next_page": "again"}
    report = check(settings, admin_api_key="env:MY_ADMIN_KEY")
    assert about(report, "names no limits for these models").level is Level.NOTE
    assert len(fake.calls("/v1/organizations")) == 100


def test_an_admin_key_that_is_not_there_is_told(account: tuple[Account, RouteSettings]) -> None:
    _, settings = account
    assert about(check(settings, admin_api_key="env:NOT_SET_ANYWHERE"), "No admin key").level is Level.WARNING


def test_only_a_route_of_anthropic_has_an_admin_key() -> None:
    with pytest.raises(ValueError, match="only a route of provider anthropic"):
        RouteSettings.model_validate({"provider": "bedrock", "admin_api_key": "env:X"})
    given = {"provider": "anthropic", "admin_api_key": "env:X"}
    route = RouteSettings.model_validate(given)
    assert "admin_api_key" not in route.place() | route.operational()


# --- the catalogue


def test_models_days_and_sizes_that_differ(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    fake.anthropic_models = [
        HAIKU,
        SONNET,
        OPUS,
        "claude-next-6",
        "claude-sonnet-4-5-20250929",
        "claude-opus-4-5-20251101",
    ]
    active = {"lifecycle": "active", "retires_at": None, "max_tokens": 128_000, "max_input_tokens": 1_000_000}
    fake.model_infos = {
        HAIKU: active,
        SONNET: {**active, "max_tokens": 64_000, "lifecycle": "deprecated", "retires_at": "2027-03-01T00:00:00Z"},
        OPUS: {"lifecycle": "retired", "retires_at": "2026-11-01T00:00:00Z"},
        "claude-opus-4-5-20251101": {"lifecycle": "deprecated", "retires_at": "2027-02-10T00:00:00Z"},
    }
    report = check(settings, HAIKU, SONNET, OPUS)
    assert "claude-next-6" in about(report, "the catalogue does not know").what
    assert about(report, f"{SONNET} retires on 2027-03-01; the catalogue has no day").level is Level.NOTE
    assert about(report, "claude-opus-4-5-20251101 retires on 2027-02-10; the catalogue says 2027-01-22")
    assert about(report, "allows a max_tokens of 64,000, the catalogue says 128,000").level is Level.WARNING
    assert about(report, f"The provider has retired {OPUS}.").level is Level.ERROR
    assert about(report, f"The account's list of models has no {OPUS}.").level is Level.ERROR
    assert not any(HAIKU in finding.what and finding.level is not Level.OK for finding in report.findings)


def test_bedrock_s_models_profiles_and_ends_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "a-very-secret-key")):
        monkeypatch.setenv(name, value)
    haiku, fable = "anthropic.claude-haiku-5-5", "anthropic.claude-fable-5-2"
    sonnet = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    end = {"modelLifecycle": {"status": "LEGACY", "endOfLifeTime": "2027-05-01T00:00:00Z"}}
    arn = "arn:aws:bedrock:us-east-1::foundation-model/"
    fake = Account(
        foundation={haiku: {}, fable: {}, sonnet: end, "anthropic.claude-next-6": {}},
        profiles={f"{prefix}.{base}": [f"{arn}{base}"] for prefix, base in (
            ("global", haiku), ("us", haiku), ("ca", haiku), ("us-gov", fable), ("us", fable), ("global", sonnet),
        )},
    )  # fmt: skip
    with planes(fake) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", url)
        route = RouteSettings.model_validate({"provider": "bedrock", "region": "us-east-1"})
        (report,) = check_routes({"b": route}, live=True, timeout_s=60)
    assert "anthropic.claude-next-6" in about(report, "the catalogue does not know: ").what
    told = [finding.what for finding in report.findings if "these inference profiles" in finding.what]
    assert told == [
        f"The catalogue does not know these inference profiles of claude-haiku-5-5: ca.{haiku}.",
        f"The catalogue does not know these inference profiles of claude-fable-5-2: us-gov.{fable}.",
    ]
    assert about(report, f"{sonnet} retires on 2027-05-01; the catalogue says 2027-04-08").level is Level.WARNING


def test_the_garden_s_models_that_the_catalogue_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "ya29.very-secret")
    names = {"claude-haiku-5-5", "claude-haiku-4-5", "claude-next-6"}
    fake = Account(garden=names, enabled=names)
    with planes(fake) as url:
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", url)
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDQUOTAS", url)
        given = {"provider": "vertex", "region": "us-east5", "project": "p", "api_key": "env:MY_TOKEN"}
        (report,) = check_routes({"v": RouteSettings.model_validate(given)}, live=True, timeout_s=60)
    assert "not know: claude-next-6." in about(report, "the catalogue does not know").what


def test_the_simulator_serves_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-very-secret-key",
                        "MY_KEY": KEY, "MY_ADMIN_KEY": ADMIN_KEY}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with SimulatorProcess() as simulator:
        at = simulator.endpoints.providers
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", at["bedrock"])
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", at["bedrock"])
        given: dict[str, dict[str, Any]] = {
            "direct": {"provider": "anthropic", "base_url": at["anthropic"], "api_key": "env:MY_KEY",
                       "admin_api_key": "env:MY_ADMIN_KEY", "requests_per_minute": 3_000},
            "aws": {"provider": "bedrock", "region": "us-east-1"},
        }  # fmt: skip
        routes = {name: RouteSettings.model_validate(route) for name, route in given.items()}
        direct, aws = check_routes(routes, live=True, timeout_s=60)
        assert simulator.control.calls(0) == []
    found = {(row.models, row.limit): row.account for row in direct.limits}
    assert found[("claude-haiku-5-5", "claude-haiku-4-5"), Kind.REQUESTS] == 4_000
    assert found[("claude-opus-5-5",), Kind.REQUESTS] == 2_000
    assert not any(
        "the catalogue does not know" in finding.what for report in (direct, aws) for finding in report.findings
    )
    assert about(aws, "The account has 4 of")
