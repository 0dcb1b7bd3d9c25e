"""Reading a Google project: the real google-cloud-aiplatform and google-auth against the control planes on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.control_planes import Account, errors, planes, service_account

from trivet.live_check.report import Kind, Level, RouteReport
from trivet.live_check.run import check_routes
from trivet.live_check.vertex import base_models
from trivet_tasks.config.route_settings import RouteSettings

HAIKU, SONNET, OPUS = "claude-haiku-4-5", "claude-sonnet-5-5", "claude-opus-5-5"
ON_WIRE = {"claude-haiku-4-5@20251001", SONNET, OPUS}
TOKEN = "ya29.of-the-environment"


def quota(metric: str, base_model: str, value: int, **dimensions: str) -> dict[str, Any]:
    """A QuotaInfo of one value; numbers are strings, as in Google's JSON."""
    return {
        "metric": f"aiplatform.googleapis.com/{metric}",
        "refreshInterval": "minute",
        "dimensionsInfos": [
            {
                "dimensions": {"base_model": base_model, **dimensions},
                "details": {"value": str(value)},
                "applicableLocations": [dimensions.get("region", "global")],
            },
            {"dimensions": {}, "details": {"value": "7"}, "applicableLocations": ["global", "us-east5"]},
        ],
    }


REQUESTS, INPUT, OUTPUT = (
    f"online_prediction_{what}_per_base_model"
    for what in ("requests", "input_tokens_per_minute", "output_tokens_per_minute")
)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Account]:
    """A project with three models at us-east5, asked with an access token."""
    for name in (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_CLOUD_PROJECT",
        "ANTHROPIC_VERTEX_PROJECT_ID",
        "CLOUD_ML_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    made = Account(
        garden={"claude-haiku-4-5", SONNET, OPUS},  # Haiku without its version
        enabled=set(ON_WIRE),
        google_quotas=[
            quota(REQUESTS, "anthropic-claude-haiku-4-5", 60, region="us-east5"),
            quota(REQUESTS, "anthropic-claude-haiku-4-5", 9_999, region="europe-west1"),
            quota(INPUT, "anthropic-claude-haiku-4-5", 100_000, region="us-east5"),
            quota(OUTPUT, "anthropic-claude-haiku-4-5", 20_000, region="us-east5"),
            quota(f"global_{REQUESTS}", "anthropic-claude-haiku-4-5", 600),
            quota(f"global_{REQUESTS}", "anthropic-claude-opus", 300),
            quota(f"us_multi_region_{REQUESTS}", "anthropic-claude-opus", 30),
        ],
    )
    with planes(made) as url:
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", url)
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDQUOTAS", f"{url}/")
        yield made


def route(**settings: object) -> RouteSettings:
    usual = {"provider": "vertex", "region": "us-east5", "project": "my-project", "api_key": "env:MY_TOKEN"}
    return RouteSettings.model_validate({**usual, **settings})


def check(settings: RouteSettings, *models: str) -> RouteReport:
    (report,) = check_routes({"google": settings}, models=models or (HAIKU,), live=True, timeout_s=30)
    assert TOKEN not in repr(report)
    return report


def test_figures_within_the_project_are_fine(account: Account) -> None:
    report = check(route(requests_per_minute=60, input_tokens_per_minute=90_000, output_tokens_per_minute=20_000))
    assert report.account == "Google project my-project"
    assert report.worst in (Level.OK, Level.NOTE), "a note of its retirement at most"
    assert [(row.limit, row.account) for row in report.limits] == [
        (Kind.REQUESTS, 60), (Kind.INPUT, 100_000), (Kind.OUTPUT, 20_000),
    ]  # fmt: skip
    asked = account.calls("/v1/projects/my-project/locations/us-east5/publishers/anthropic/models/claude-haiku-4-5")
    assert asked[0][2]["authorization"] == f"Bearer {TOKEN}"


def test_a_figure_above_the_regions_quota_is_an_error(account: Account) -> None:
    (error,) = errors(check(route(requests_per_minute=300)))
    assert error.where == "[routes.google] requests_per_minute"
    assert "300 requests a minute are configured, the account allows 60" in error.what


def test_each_endpoint_has_quotas_of_its_own(account: Account) -> None:
    assert check(route(region="global"), OPUS).limits[0].account == 300
    assert check(route(region="us"), OPUS).limits[0].account == 30
    assert check(route(region="global")).limits[0].account == 600


def test_a_model_that_is_not_enabled_or_not_there_is_an_error(account: Account) -> None:
    account.enabled.discard(OPUS)
    account.garden.discard(SONNET)
    found = {finding.models: finding for finding in errors(check(route(), HAIKU, SONNET, OPUS))}
    assert found[(OPUS,)].what == f"The project does not see {OPUS} at us-east5."
    assert "Model Garden" in found[(OPUS,)].action
    assert found[(SONNET,)].what == f"Model Garden has no {SONNET} at us-east5."


def test_at_a_global_endpoint_not_seen_is_only_a_warning(account: Account) -> None:
    account.enabled.discard(OPUS)
    report = check(route(region="global", requests_per_minute=300), OPUS)
    assert errors(report) == []
    assert any(f.level is Level.WARNING and "not certain" in f.what for f in report.findings)


def test_models_that_share_a_quota_are_told_and_pasted_as_a_group(account: Account) -> None:
    import tomllib

    account.garden.add("claude-opus-5")
    account.enabled.add("claude-opus-5")
    report = check(route(region="global", requests_per_minute=1000), OPUS, "claude-opus-5")
    assert any(
        f.level is Level.WARNING and "share one quota (anthropic-claude-opus)" in f.what for f in report.findings
    )
    (group,) = tomllib.loads(report.paste)["routes"]["google"]["limits"]
    assert group == {"models": [OPUS, "claude-opus-5"], "requests_per_minute": 300}
    again = check(route(region="global", limits=[group]), OPUS, "claude-opus-5")
    assert errors(again) == []
    assert not any("share one quota" in f.what for f in again.findings)


def test_a_default_for_all_others_is_not_taken_for_a_models_quota(account: Account) -> None:
    report = check(route(requests_per_minute=300), HAIKU, SONNET)
    assert {model for row in report.limits for model in row.models} == {HAIKU}
    assert any(f.models == (SONNET,) and "no quota under these models' names" in f.what for f in report.findings)


def test_a_quota_by_the_day_or_without_end_is_left_out(account: Account) -> None:
    account.google_quotas[0]["refreshInterval"] = "day"
    account.google_quotas[2]["dimensionsInfos"][0]["details"]["value"] = "-1"
    report = check(route(requests_per_minute=300, input_tokens_per_minute=10**9))
    assert [row.limit for row in report.limits] == [Kind.OUTPUT]


def test_without_the_quotas_api_the_models_are_still_checked(account: Account) -> None:
    message = "Cloud Quotas API has not been used in project my-project before or it is disabled."
    account.refuse["quotaInfos"] = 403, {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}}
    report = check(route(requests_per_minute=300))
    assert errors(report) == []
    (warning,) = [f for f in report.findings if f.level is Level.WARNING]
    assert message in warning.what
    assert "cloudquotas.googleapis.com" in warning.action


def test_a_persons_credentials_name_the_project_when_google_asks_for_it(account: Account) -> None:
    message = "The cloudquotas.googleapis.com API requires a quota project, which is not set by default."
    account.refuse["quotaInfos"] = 403, {"error": {"code": 403, "message": message}}
    check(route())
    assert [call[2].get("x-goog-user-project") for call in account.calls("quotaInfos")] == [None, "my-project"]


def test_a_refused_token_is_one_error(account: Account) -> None:
    said = {"error": {"code": 401, "message": f"{TOKEN} is an invalid credential", "status": "UNAUTHENTICATED"}}
    account.refuse["/v1/"] = 401, said
    (error,) = errors(check(route(), HAIKU, OPUS))
    assert error.what.startswith("Google refused the credentials: ")


def test_a_service_account_brings_its_own_project(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    url = os.environ["CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"]
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(tmp_path, url)))
    report = check(route(api_key="", project=None, requests_per_minute=60))
    assert report.account == "Google project its-own-project"
    assert errors(report) == []
    assert "of-the-fake" not in repr(report)


def test_no_credentials_at_all(account: Account) -> None:
    (error,) = errors(check(route(api_key="")))
    assert error.what.startswith("No Google credentials: ")
    assert account.asked == []


@pytest.mark.parametrize(
    ("model", "location", "first"),
    [
        ("claude-haiku-4-5", "us-east5", "anthropic-claude-haiku-4-5"),
        ("claude-haiku-4-5", "global", "anthropic-claude-haiku-4-5"),
        ("claude-opus-4-7", "global", "anthropic-claude-opus-4-7"),
        ("claude-opus-4-8", "global", "anthropic-claude-opus"),
        ("claude-opus-4-8", "us-east5", "anthropic-claude-opus-4-8"),
        ("claude-sonnet-5", "eu", "anthropic-claude-sonnet"),
        ("claude-fable-5-2", "us", "anthropic-claude-fable"),
    ],
)
def test_names_of_base_models(model: str, location: str, first: str) -> None:
    assert base_models(model, location)[0] == first
