"""Reading an account of the Anthropic API: the real SDK against the API on loopback."""

import json
import socket
from collections.abc import Iterator

import pytest
from tests.unit.control_planes import Account, errors, planes

from trivet.live_check.report import Kind, Level, RouteReport
from trivet.live_check.run import check_routes
from trivet_tasks.config.route_settings import RouteSettings

KEY = "sk-ant-very-secret"
HAIKU, SONNET = "claude-haiku-5-5", "claude-sonnet-5-5"


def limits(requests: int, input_tokens: int, output_tokens: int) -> dict[str, str]:
    """Headers as the API sends them."""
    return {
        "anthropic-ratelimit-requests-limit": str(requests),
        "anthropic-ratelimit-requests-remaining": str(requests - 1),
        "anthropic-ratelimit-input-tokens-limit": str(input_tokens),
        "anthropic-ratelimit-output-tokens-limit": str(output_tokens),
        "anthropic-organization-id": "org-1",
    }


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Account, RouteSettings]]:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MY_KEY", KEY)
    made = Account(
        anthropic_models=[HAIKU, SONNET, "claude-haiku-4-5-20251001"],
        headers={HAIKU: limits(1000, 400_000, 80_000), SONNET: limits(50, 30_000, 8_000)},
    )
    with planes(made) as url:
        yield made, RouteSettings.model_validate({"provider": "anthropic", "base_url": url, "api_key": "env:MY_KEY"})


def check(settings: RouteSettings, *models: str, **figures: int) -> RouteReport:
    (report,) = check_routes({"direct": settings.model_copy(update=figures)}, models=models, live=True, timeout_s=30)
    assert KEY not in repr(report)
    return report


def test_one_call_of_one_token_on_the_cheapest_model(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    report = check(settings, requests_per_minute=900, input_tokens_per_minute=400_000, output_tokens_per_minute=80_000)
    (call,) = fake.calls("/v1/messages")
    assert {key: json.loads(call[3])[key] for key in ("model", "max_tokens")} == {"model": HAIKU, "max_tokens": 1}
    assert call[2]["authorization"] == f"Bearer {KEY}"
    assert report.account == "Anthropic organization org-1"
    assert errors(report) == []
    assert [(row.models, row.limit, row.account, row.level) for row in report.limits] == [
        ((HAIKU,), Kind.REQUESTS, 1000, Level.OK),
        ((HAIKU,), Kind.INPUT, 400_000, Level.OK),
        ((HAIKU,), Kind.OUTPUT, 80_000, Level.OK),
    ]
    (told,) = [finding for finding in report.findings if "one token was sent" in finding.what]
    assert "$0.0000013" in told.what  # 8 input tokens at $0.10 and 1 output token at $0.50 a million
    assert "other 2 models were not read" in told.what


def test_models_that_are_named_are_each_asked_for_their_limits(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    report = check(settings, SONNET, HAIKU, requests_per_minute=900)
    assert len(fake.calls("/v1/messages")) == 2
    (error,) = errors(report)
    assert error.models == (SONNET,)
    assert "the account allows 50" in error.what


def test_a_model_the_account_does_not_have(account: tuple[Account, RouteSettings]) -> None:
    _, settings = account
    (error,) = errors(check(settings, "claude-opus-5-5"))
    assert error.what == "The account's list of models has no claude-opus-5-5."
    assert errors(check(settings, "claude-haiku-4-5")) == []  # listed under its dated name


def test_a_refused_key(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    fake.refuse["/v1/models"] = (
        401,
        {"type": "error", "error": {"type": "authentication_error", "message": f"invalid x-api-key {KEY}"}},
    )
    report = check(settings)
    (error,) = errors(report)
    assert error.what == "The key was refused: invalid x-api-key [secret]"
    assert fake.calls("/v1/messages") == []


def test_exhausted_credit_is_an_error_in_the_apis_own_words(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    words = "Your credit balance is too low to access the Anthropic API."
    fake.refuse["/v1/messages"] = 400, {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
    (error,) = errors(check(settings))
    assert error.what == f"The API said 400: {words}"


def test_overload_is_no_contradiction(account: tuple[Account, RouteSettings]) -> None:
    fake, settings = account
    fake.refuse["/v1/messages"] = 529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    report = check(settings)
    assert errors(report) == []
    assert any(f.level is Level.WARNING and "overloaded now" in f.what for f in report.findings)


def test_an_address_nobody_serves(account: tuple[Account, RouteSettings]) -> None:
    _, settings = account
    with socket.socket() as held:  # bound and not listening: refused, and nobody else can take the port
        held.bind(("127.0.0.1", 0))
        report = check(settings.model_copy(update={"base_url": f"http://127.0.0.1:{held.getsockname()[1]}"}))
    (error,) = errors(report)
    assert error.what.startswith("The API did not answer: ")


def test_without_any_key_the_account_is_asked_through_the_sdks_chain(
    account: tuple[Account, RouteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, settings = account
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-the-environment")
    bare = settings.model_copy(update={"api_key": None})
    assert errors(check(bare)) == []
    assert fake.asked[0][2]["authorization"] == "Bearer sk-ant-of-the-environment"
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    (error,) = errors(check(bare))
    assert error.what.startswith("No credentials: ")
