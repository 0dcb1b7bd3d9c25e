"""The outcome table, and the reading before it: error bodies and headers in their many forms."""

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.unit.error_bodies import ERROR_BODIES, ErrorBody

from trivet_tasks.outcomes import Outcome, Scope
from trivet_worker.adapters import headers
from trivet_worker.adapters.error_rules import RULES, UNKNOWN, ProviderError, classify
from trivet_worker.adapters.errors import read_error
from trivet_worker.adapters.protocol import LimitReading, LimitWindow

ERROR = "invalid_request_error"

STREAMED: list[tuple[str, str, str, Outcome, str]] = [
    ("bedrock", "throttlingexception", "", Outcome.RATE_LIMITED, "AWS throttles"),
    ("anthropic", "rate_limit_error", "", Outcome.RATE_LIMITED, "rate_limit_error"),
    ("bedrock", "modeltimeoutexception", "", Outcome.TIMEOUT, "model timeout"),
    ("anthropic", "overloaded_error", "Overloaded", Outcome.SERVER_ERROR, "error event in a 200 stream"),
    ("bedrock", "modelstreamerrorexception", "", Outcome.SERVER_ERROR, "error event in a 200 stream"),
    ("bedrock", "serviceunavailableexception", "", Outcome.SERVER_ERROR, "error event in a 200 stream"),
]


def means(body: ErrorBody) -> Outcome | Scope:
    error = read_error(body.status, body.headers, body.body, body.provider)
    rule = classify(error)
    return rule.scope or rule.outcome


@pytest.mark.parametrize("body", ERROR_BODIES, ids=lambda body: f"{body.provider}-{body.status}-{str(body.body)[-70:]}")
def test_an_error_means_what_the_table_says(body: ErrorBody) -> None:
    assert means(body) == body.means


def test_the_table_covers_all_wires_and_every_outcome() -> None:
    assert len(ERROR_BODIES) >= 120
    assert {body.provider for body in ERROR_BODIES} == {"anthropic", "bedrock", "vertex"}
    ours = {
        Outcome.SUCCEEDED,
        Outcome.CONNECTION,
        Outcome.INCOMPLETE,
        Outcome.CANCELLED,
        Outcome.UNKNOWN,
        Outcome.UNUSABLE,
    }
    assert {body.means for body in ERROR_BODIES} == {*Outcome, *Scope} - ours


@pytest.mark.parametrize("case", STREAMED, ids=lambda c: f"{c[0]}-{c[1]}")
def test_an_error_event_inside_a_stream_is_told_by_its_name(case: tuple[str, str, str, Outcome, str]) -> None:
    provider, kind, words, outcome, name = case
    row = classify(ProviderError(provider, 200, kind, message=words, in_stream=True))
    assert (row.name, row.outcome) == (name, outcome)


def test_every_rule_is_reached_by_a_case() -> None:
    found = {classify(read_error(b.status, b.headers, b.body, b.provider)).name for b in ERROR_BODIES}
    assert found | {case[4] for case in STREAMED} == {rule.name for rule in RULES}


def test_no_two_rows_share_a_name() -> None:
    assert len({row.name for row in RULES}) == len(RULES)


@pytest.mark.parametrize("status", [302, 418, 501, 599])
def test_the_unknown_counts_as_a_server_error_and_is_logged_without_its_words(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "trivet.errors"):
        row = classify(ProviderError("anthropic", status, "strange_error", message="y" * 5000))
    assert row is UNKNOWN
    assert row.outcome is Outcome.SERVER_ERROR
    assert f"HTTP {status}, type 'strange_error'" in caplog.text
    assert "yy" not in caplog.text, "a provider's words quote prompts"


def test_the_known_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    classify(ProviderError("anthropic", 400, ERROR, message="something new"))
    assert not caplog.records


AWS = "x-amzn-errortype"


@pytest.mark.parametrize(
    ("status", "seen", "body", "provider", "expected"),
    [
        (429, {AWS: "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/"}, {"message": "slow down"},
         "bedrock", ProviderError("bedrock", 429, "throttlingexception", message="slow down")),
        (400, {AWS: "com.amazon.coral.service#ValidationException"}, {"Message": "no"}, "bedrock",
         ProviderError("bedrock", 400, "validationexception", message="no")),
        (400, {}, {"__type": "com.amazon#ExpiredTokenException", "message": "old"}, "bedrock",
         ProviderError("bedrock", 400, "expiredtokenexception", message="old")),
        (429, {}, [{"error": {"code": 429, "message": "full", "status": "RESOURCE_EXHAUSTED"}}], "vertex",
         ProviderError("vertex", 429, "resource_exhausted", message="full")),
        (500, {}, {"error": {"code": 429, "message": "wrapped"}}, "vertex",
         ProviderError("vertex", 500, "resource_exhausted", message="wrapped")),
        (400, {}, {"type": "error", "error": {"type": ERROR, "message": "long"}}, "vertex",
         ProviderError("vertex", 400, ERROR, message="long")),
        (429, {}, {"type": "error", "error": {"type": "rate_limit_error", "message": "m",
                                              "details": {"error_code": "ramp_limit_exceeded"}}}, "anthropic",
         ProviderError("anthropic", 429, "rate_limit_error", "ramp_limit_exceeded", "m")),
        (200, {}, {"type": "error", "error": {"type": "validationException", "message": "m"}}, "bedrock",
         ProviderError("bedrock", 400, "validationexception", message="m", in_stream=True)),
        (502, {}, "<html><body>Bad gateway: your text was …</body></html>", "anthropic", ProviderError("anthropic", 502, from_api=False)),
        (500, {}, None, "vertex", ProviderError("vertex", 500, from_api=False)),
        (500, {}, [], "vertex", ProviderError("vertex", 500, from_api=False)),
        (500, {}, {"error": "flat", "message": 7}, "anthropic", ProviderError("anthropic", 500, from_api=False)),
    ],
)  # fmt: skip
def test_error_bodies_of_all_forms_are_read(
    status: int, seen: dict[str, str], body: Any, provider: str, expected: ProviderError
) -> None:
    assert read_error(status, seen, body, provider) == expected


NOW = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)
DATE = {"date": format_datetime(NOW, usegmt=True)}


@pytest.mark.parametrize(
    ("seen", "seconds"),
    [
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "13262"}, 13262.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": format_datetime(NOW + timedelta(hours=2), usegmt=True), **DATE}, 7200.0),
        ({"retry-after": format_datetime(NOW - timedelta(hours=2), usegmt=True), **DATE}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
        ({"anthropic-ratelimit-input-tokens-remaining": "0", "anthropic-ratelimit-requests-remaining": "7",
          "anthropic-ratelimit-input-tokens-reset": "2026-11-02T10:00:42Z",
          "anthropic-ratelimit-requests-reset": "2026-11-02T10:05:00Z", **DATE}, 42.0),
        ({"anthropic-ratelimit-requests-remaining": "7", "anthropic-ratelimit-requests-reset": "2026-11-02T10:05:00Z",
          **DATE}, None),
    ],
)  # fmt: skip
def test_retry_after_in_all_its_forms(seen: dict[str, str], seconds: float | None) -> None:
    assert headers.retry_after_s(seen) == seconds


def test_without_a_date_header_our_own_clock_counts() -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    waited = headers.retry_after_s({"retry-after": format_datetime(at, usegmt=True)})
    assert waited is not None
    assert 3500 < waited <= 3600


def test_the_limit_headers_are_read() -> None:
    seen = {
        "anthropic-ratelimit-requests-limit": "500",
        "anthropic-ratelimit-requests-remaining": "499",
        "anthropic-ratelimit-requests-reset": "2026-11-02T10:00:01Z",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
        **DATE,
    }
    assert headers.limits(seen) == LimitReading(
        requests=LimitWindow(500, 499, 1.0), input_tokens=None, output_tokens=LimitWindow(None, 8000, None)
    )
    assert headers.limits({"request-id": "req_1"}) is None
