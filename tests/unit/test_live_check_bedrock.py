"""Reading an AWS account: the real boto3 against the control planes on loopback."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.control_planes import AWS_ACCOUNT, HAIKU, HAIKU_QUOTA, Account, certificate, errors, planes

from trivet.live_check.bedrock_quotas import Named, Unread, read_name
from trivet.live_check.report import Kind, Level, RouteReport
from trivet.live_check.run import check_routes
from trivet_tasks.config.route_settings import LimitGroup, RouteSettings

MODEL = "claude-haiku-4-5"
SECRET = "aws-very-secret-key-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """An account with Haiku 4.5 over two profiles."""
    made = Account(
        foundation={HAIKU: {}},
        profiles={
            f"global.{HAIKU}": ["arn:aws:bedrock:::foundation-model/" + HAIKU],
            f"us.{HAIKU}": [
                f"arn:aws:bedrock:{region}::foundation-model/{HAIKU}" for region in ("us-east-1", "us-west-2")
            ],
        },
        quotas={
            f"Global cross-region model inference requests per minute for {HAIKU_QUOTA}": 1000.0,
            f"Global cross-region model inference tokens per minute for {HAIKU_QUOTA}": 4_000_000.0,
            f"Cross-region model inference requests per minute for {HAIKU_QUOTA}": 50.0,
            f"Cross-region model inference tokens per minute for {HAIKU_QUOTA}": 100_000.0,
            "On-demand model inference requests per minute for Amazon Nova Lite": 7.0,
        },
    )
    with planes(made) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", url)
        yield made


def route(**settings: object) -> RouteSettings:
    return RouteSettings.model_validate({"provider": "bedrock", "region": "us-east-1", **settings})


def check(settings: RouteSettings, *models: str) -> RouteReport:
    (report,) = check_routes({"aws": settings}, models=models or (MODEL,), live=True, timeout_s=20)
    said = repr(report)
    assert SECRET not in said
    return report


def test_figures_within_the_account_are_fine(account: Account) -> None:
    settings = route(
        requests_per_minute=900,
        input_tokens_per_minute=3_000_000,
        output_tokens_per_minute=900_000,
        output_token_factor=5,
    )
    report = check(settings)
    assert report.account == f"AWS account {AWS_ACCOUNT}"
    assert report.worst is Level.OK
    assert [(row.limit, row.configured, row.account, row.level) for row in report.limits] == [
        (Kind.REQUESTS, 900, 1000, Level.OK),
        (Kind.TOKENS, 3_900_000, 4_000_000, Level.OK),
    ]
    assert report.paste == ""


def test_the_quota_is_that_of_the_profile_the_calls_go_through(account: Account) -> None:
    report = check(route(requests_per_minute=900, residency=["us"]))
    (error,) = errors(report)
    assert "900 requests a minute" in error.what
    assert "50" in error.what
    assert error.where == "[routes.aws] requests_per_minute"
    assert error.models == (MODEL,)


def test_what_is_far_below_the_account_is_a_note(account: Account) -> None:
    report = check(route(requests_per_minute=100, output_token_factor=5))
    assert errors(report) == []
    (note,) = [f for f in report.findings if f.level is Level.NOTE and "unused" in f.what]
    assert "100 requests a minute" in note.what
    assert "1,000" in note.what


def test_input_and_output_are_set_against_one_quota(account: Account) -> None:
    report = check(route(input_tokens_per_minute=3_500_000, output_tokens_per_minute=900_000, output_token_factor=5))
    (error,) = errors(report)
    assert "4,400,000 tokens a minute" in error.what
    assert "input and output together" in error.what


def test_a_quota_that_is_not_configured_comes_as_lines_that_load(account: Account) -> None:
    import tomllib

    figures = {"requests_per_minute": 1000, "input_tokens_per_minute": 3_000_000, "output_tokens_per_minute": 1_000_000}
    (report,) = check_routes({"aws": route()}, live=True)  # all models: the account has but the one
    pasted = tomllib.loads(report.paste)["routes"]["aws"]
    assert pasted == figures
    again = check(route(**pasted, output_token_factor=5))
    assert again.worst is Level.OK
    assert again.paste == ""


def test_lines_for_some_models_give_no_other_model_their_figures(account: Account) -> None:
    import tomllib

    pasted = tomllib.loads(check(route()).paste)["routes"]["aws"]
    assert set(pasted) == {"limits"}
    assert [group["models"] for group in pasted["limits"]] == [[MODEL]]
    assert check(route(**pasted, output_token_factor=5)).worst is Level.OK


def test_an_account_without_the_profile_names_those_it_has(account: Account) -> None:
    del account.profiles[f"global.{HAIKU}"]
    (error,) = errors(check(route()))
    assert error.what == f"The inference profile global.{HAIKU} does not exist in us-east-1."
    assert f"us.{HAIKU}" in error.action


def test_a_region_without_the_model_is_an_error_when_it_is_named_and_a_note_else(account: Account) -> None:
    (error,) = errors(check(route(), MODEL, "claude-opus-5-5"))
    assert error.models == ("claude-opus-5-5",)
    assert "us-east-1 has no" in error.what
    (report,) = check_routes({"aws": route(requests_per_minute=900)}, live=True)
    assert errors(report) == []
    (note,) = [f for f in report.findings if "not served there" in f.what]
    assert note.level is Level.NOTE
    assert "claude-opus-5-5" in note.models


def test_no_access_to_a_model_is_an_error(account: Account) -> None:
    account.availability[HAIKU] = {"entitlementAvailability": "NOT_AVAILABLE"}
    (error,) = errors(check(route()))
    assert "no access" in error.what
    assert "use-case form" in error.action


def test_an_agreement_to_come_and_a_legacy_model_are_warnings(account: Account) -> None:
    account.foundation[HAIKU] = {"modelLifecycle": {"status": "LEGACY", "endOfLifeTime": "2027-04-08T00:00:00Z"}}
    report = check(route(requests_per_minute=900))
    assert any(f.level is Level.WARNING and "ends on 2027-04-08" in f.what for f in report.findings)
    account.availability[HAIKU] = {"agreementAvailability": {"status": "NOT_AVAILABLE"}}
    report = check(route(requests_per_minute=900))
    assert any(f.level is Level.WARNING and "No agreement" in f.what for f in report.findings)
    assert errors(report) == []


def test_an_id_without_a_profile_needs_on_demand(account: Account) -> None:
    (error,) = errors(check(route(models={MODEL: HAIKU})))
    assert "inference profiles only" in error.what
    assert f"us.{HAIKU}" in error.action
    account.foundation[HAIKU] = {"inferenceTypesSupported": ["ON_DEMAND"]}
    account.quotas[f"On-demand model inference requests per minute for {HAIKU_QUOTA}"] = 3.0
    report = check(route(models={MODEL: HAIKU}, requests_per_minute=3))
    assert errors(report) == []
    assert report.limits[0].account == 3


def test_a_profile_of_the_accounts_own_counts_by_what_is_under_it(account: Account) -> None:
    account.profiles["my-haiku"] = account.profiles[f"us.{HAIKU}"]
    arn = f"arn:aws:bedrock:us-east-1:{AWS_ACCOUNT}:application-inference-profile/my-haiku"
    report = check(route(models={MODEL: arn}, requests_per_minute=900))
    (error,) = errors(report)
    assert "allows 50" in error.what


def test_a_quota_of_zero_and_a_day_that_is_too_short(account: Account) -> None:
    account.quotas[f"Global cross-region model inference requests per minute for {HAIKU_QUOTA}"] = 0.0
    account.quotas[f"Model invocation max tokens per day for {HAIKU_QUOTA}"] = 12_000_000.0
    report = check(
        route(
            input_tokens_per_minute=200_000,
            output_tokens_per_minute=100_000,
            requests_per_minute=5,
            output_token_factor=5,
        )
    )
    (error,) = errors(report)
    assert "quota is 0" in error.what
    assert any(f.level is Level.WARNING and "lasts 40 minutes" in f.what for f in report.findings)


def test_defaults_of_aws_stand_in_where_the_account_has_no_value(account: Account) -> None:
    name = f"Global cross-region model inference requests per minute for {HAIKU_QUOTA}"
    account.default_quotas = {name: 600.0, "A further one": 1.0, "And another": 1.0}
    assert check(route(requests_per_minute=500)).limits[0].account == 1000
    assert account.calls("ListAWSDefault") == []
    del account.quotas[name]
    row = check(route(requests_per_minute=700)).limits[0]
    assert (row.account, row.level) == (600, Level.ERROR)
    assert row.source == f"{name} (AWS's default)"


def test_a_group_is_set_against_each_of_its_models(account: Account) -> None:
    group = LimitGroup(models=("claude-haiku-*",), requests_per_minute=1200)
    (error,) = errors(check(route(requests_per_minute=10, limits=[group.model_dump()])))
    assert error.where.startswith("[[routes.aws.limits]] models = ['claude-haiku-*'] requests_per_minute")


def test_names_that_are_not_recognised_are_counted_and_not_guessed(account: Account) -> None:
    account.quotas["Turbo inference requests per minute for Anthropic Claude Haiku 4.5"] = 1.0
    report = check(route(requests_per_minute=900, output_token_factor=5))
    (note,) = [f for f in report.findings if "not recognised" in f.what]
    assert note.what.startswith("1 quotas")
    assert "Turbo inference" in note.action


def test_refused_credentials_say_so_without_the_secret(account: Account) -> None:
    message = f"The security token {SECRET} is invalid.\n\nThe string to sign was {SECRET}"
    account.refuse["/foundation-models"] = 403, {"__type": "UnrecognizedClientException", "message": message}
    report = check(route())
    (error,) = errors(report)
    assert (
        error.what
        == "AWS refused the credentials: UnrecognizedClientException: The security token [secret] is invalid."
    )
    assert report.limits == ()


def test_a_permission_that_is_missing_leaves_the_rest(account: Account) -> None:
    account.refuse["ListServiceQuotas"] = (
        400,
        {"__type": "AccessDeniedException", "message": "no servicequotas for you"},
    )
    report = check(route(requests_per_minute=10_000))
    assert errors(report) == []
    (warning,) = [f for f in report.findings if "quotas were not read" in f.what]
    assert "no servicequotas for you" in warning.what
    assert any(f.level is Level.OK and "1 of 1 models" in f.what for f in report.findings)


def test_no_credentials_at_all(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (error,) = errors(check(route()))
    assert error.what == "No AWS credentials were found."
    assert account.asked == []


def test_an_account_that_hangs_is_a_finding_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with planes(Account(foundation={HAIKU: {}}, hang="/inference-profiles")) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", url)
        (report,) = check_routes({"aws": route()}, models=[MODEL], live=True, timeout_s=1.5)
    (error,) = errors(report)
    assert error.what == "The account did not answer within 1.5 s."
    for thread in threading.enumerate():
        if thread.name == "check-aws":  # left behind; it must not reach into the next test
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def bearer(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """The same behind TLS: boto3 sends a Bedrock API key over nothing else."""
    pem = certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    monkeypatch.setenv("MY_BEDROCK_KEY", "bedrock-api-key-very-secret")
    with planes(account, pem) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", url)
        yield account


def test_a_bedrock_api_key_lists_models_and_the_chain_of_the_same_account_its_quotas(bearer: Account) -> None:
    report = check(route(api_key="env:MY_BEDROCK_KEY", requests_per_minute=1100))
    assert bearer.calls("/foundation-models")[0][2]["authorization"] == "Bearer bedrock-api-key-very-secret"
    (error,) = errors(report)
    assert "allows 1,000" in error.what
    assert "very-secret" not in repr(report)


def test_quotas_of_another_account_are_not_taken_for_the_keys(bearer: Account) -> None:
    bearer.quota_account = "999999999999"
    report = check(route(api_key="env:MY_BEDROCK_KEY", requests_per_minute=1100))
    assert errors(report) == []
    assert report.limits == ()
    (warning,) = [f for f in report.findings if "quotas were not read" in f.what]
    assert "999999999999" in warning.what
    assert AWS_ACCOUNT in warning.what


def test_a_bedrock_api_key_without_a_chain_cannot_read_quotas(bearer: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    report = check(route(api_key="env:MY_BEDROCK_KEY", requests_per_minute=1100))
    (warning,) = [f for f in report.findings if "quotas were not read" in f.what]
    assert "A Bedrock API key cannot read them" in warning.what
    assert any(f.level is Level.OK and "1 of 1 models" in f.what for f in report.findings)


def test_a_bedrock_api_key_that_may_not_list_says_so(bearer: Account) -> None:
    denied = {"__type": "AccessDeniedException", "message": "not authorized to perform: bedrock:ListFoundationModels"}
    bearer.refuse["/foundation-models"] = 403, denied
    report = check(route(api_key="env:MY_BEDROCK_KEY"))
    assert errors(report) == []
    (warning,) = [f for f in report.findings if "AWS denied it" in f.what]
    assert "A Bedrock API key may lack the right to list" in warning.action


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (
            "Global cross-region model inference requests per minute for Anthropic Claude Haiku 4.5",
            ("global cross-region", Kind.REQUESTS, "claude-haiku-4-5"),
        ),
        (
            "Global cross-Region model inference tokens per minute for Anthropic Claude Opus 5",
            ("global cross-region", Kind.TOKENS, "claude-opus-5"),
        ),
        (
            "Cross-region model inference tokens per minute for Anthropic Claude Opus 4.6 V1",
            ("cross-region", Kind.TOKENS, "claude-opus-4-6"),
        ),
        (
            "On-demand InvokeModel tokens per minute for Anthropic Claude Sonnet 5.5",
            ("on-demand", Kind.TOKENS, "claude-sonnet-5-5"),
        ),
        (
            "Model invocation max tokens per day for Anthropic Claude Opus 4.7 (doubled for cross-region calls)",
            (None, Kind.TOKENS_PER_DAY, "claude-opus-4-7"),
        ),
        ("[bedrock-mantle endpoint] Input tokens per minute for Claude Opus 4.8", Unread.ELSEWHERE),
        ("Cross-region model inference tokens per minute for Anthropic Claude Sonnet 4.5 V1 1M Context Length", Unread.ELSEWHERE),
        ("Cross-region model inference tokens per minute for Anthropic Claude 3.7 Sonnet V1", Unread.ELSEWHERE),
        ("On-demand model inference requests per minute for Amazon Nova Lite", Unread.ELSEWHERE),
        ("Minimum number of records per batch inference job for Claude Haiku 4.5", Unread.ELSEWHERE),
        ("Cross-region model inference requests per hour for Anthropic Claude Haiku 4.5", Unread.NOT_RECOGNISED),
        ("Cross-region model inference tokens per minute for Anthropic Claude Haiku 4.5 Turbo", Unread.NOT_RECOGNISED),
    ],
)  # fmt: skip
def test_names_of_quotas(name: str, read: object) -> None:
    found = read_name(name)
    assert ((found.path, found.kind, found.model) if isinstance(found, Named) else found) == read
