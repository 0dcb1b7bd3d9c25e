"""The outcome table, and what comes before it: error bodies and headers in their many forms."""

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from trivet_tasks.outcomes import Outcome
from trivet_worker.adapters import headers
from trivet_worker.adapters.refusals import read_refusal
from trivet_worker.calls import LimitReading, LimitWindow
from trivet_worker.sorting import TABLE, UNKNOWN, Refusal, sort

ROUTE, MODEL = True, False
ERROR = "invalid_request_error"

# One line per row of the table at least: provider, status, type, code, words -> outcome, scope of an `unusable`, row.
CASES: list[tuple[str, int, str, str, str, Outcome, bool, str]] = [
    ("anthropic", 429, "rate_limit_error", "enforced_spend_limit_reached", "", Outcome.UNUSABLE, ROUTE,
     "spend limit by code"),
    ("anthropic", 402, "billing_error", "linked_organization_spend_limit_reached", "", Outcome.UNUSABLE, ROUTE,
     "spend limit by code"),
    ("anthropic", 400, ERROR, "organization_on_hold", "", Outcome.UNUSABLE, ROUTE, "account on hold by code"),
    ("anthropic", 400, ERROR, "", "You have reached your specified workspace API usage limits. You will regain access "
     "on 2026-12-01 at 00:00 UTC.", Outcome.UNUSABLE, ROUTE, "spend limit or credit in words"),
    ("anthropic", 400, ERROR, "", "Your credit balance is too low to access the Anthropic API.", Outcome.UNUSABLE, ROUTE,
     "spend limit or credit in words"),
    ("bedrock", 403, "accessdeniedexception", "", "Model access is denied due to INVALID_PAYMENT_INSTRUMENT: A valid "
     "payment instrument must be provided.", Outcome.UNUSABLE, ROUTE, "spend limit or credit in words"),
    ("anthropic", 400, ERROR, "", "This organization has been disabled.", Outcome.UNUSABLE, ROUTE, "account in words"),
    ("bedrock", 400, "validationexception", "", "Operation not allowed", Outcome.UNUSABLE, ROUTE, "account in words"),
    ("bedrock", 429, "throttlingexception", "", "Rate exceeded", Outcome.RATE_LIMITED, MODEL, "AWS throttles"),
    ("bedrock", 400, "servicequotaexceededexception", "", "", Outcome.RATE_LIMITED, MODEL, "AWS throttles"),
    ("bedrock", 400, "validationexception", "", "Too many tokens, please wait before trying again.",
     Outcome.RATE_LIMITED, MODEL, "AWS says wait"),
    ("vertex", 429, "resource_exhausted", "", "Quota exceeded for x", Outcome.RATE_LIMITED, MODEL, "Google quota"),
    ("vertex", 500, "resource_exhausted", "", "", Outcome.RATE_LIMITED, MODEL, "Google quota"),
    ("vertex", 503, "unavailable", "", "The model is temporarily out of capacity.", Outcome.RATE_LIMITED, MODEL,
     "Google quota in words inside a 5xx"),
    ("anthropic", 429, "rate_limit_error", "ramp_limit_exceeded", "too fast", Outcome.RATE_LIMITED, MODEL,
     "rate_limit_error"),
    ("bedrock", 429, "modelnotreadyexception", "", "", Outcome.OVERLOADED, MODEL, "model not ready"),
    ("anthropic", 529, "overloaded_error", "", "Overloaded", Outcome.OVERLOADED, MODEL, "overloaded by name"),
    ("vertex", 429, "", "", "", Outcome.RATE_LIMITED, MODEL, "429"),
    ("vertex", 503, "unavailable", "", "", Outcome.OVERLOADED, MODEL, "529, 503"),
    ("anthropic", 529, "", "", "", Outcome.OVERLOADED, MODEL, "529, 503"),
    ("bedrock", 408, "modeltimeoutexception", "", "", Outcome.TIMEOUT, MODEL, "model timeout"),
    ("anthropic", 408, "", "", "", Outcome.TIMEOUT, MODEL, "408"),
    ("anthropic", 400, ERROR, "request_body_timeout", "", Outcome.TIMEOUT, MODEL, "our body came too slowly"),
    ("bedrock", 404, "resourcenotfoundexception", "", "Model use case details have not been submitted for this account.",
     Outcome.UNUSABLE, ROUTE, "AWS use case form"),
    ("bedrock", 403, "accessdeniedexception", "", "You don't have access to the model with the specified model ID.",
     Outcome.UNUSABLE, MODEL, "no access to the model"),
    ("bedrock", 400, "validationexception", "", "The provided model identifier is invalid.", Outcome.UNUSABLE, MODEL,
     "model id unknown to the wire"),
    ("bedrock", 400, "validationexception", "", "Invocation of model ID anthropic.claude with on-demand throughput isn’t "
     "supported. Retry your request with the ID or ARN of an inference profile.", Outcome.UNUSABLE, MODEL,
     "model id unknown to the wire"),
    ("vertex", 400, "failed_precondition", "", "Publisher Model `publishers/anthropic/models/x` is not servable in region "
     "us-east5.", Outcome.UNUSABLE, MODEL, "model id unknown to the wire"),
    ("bedrock", 403, "unrecognizedclientexception", "", "", Outcome.UNUSABLE, ROUTE, "AWS account"),
    ("bedrock", 400, "incompletesignatureexception", "", "", Outcome.UNUSABLE, ROUTE, "AWS account"),
    ("vertex", 500, "unauthenticated", "", "", Outcome.UNUSABLE, ROUTE, "Google account"),
    ("vertex", 403, "permission_denied", "", "", Outcome.UNUSABLE, ROUTE, "Google account"),
    ("anthropic", 401, "authentication_error", "", "invalid x-api-key", Outcome.UNUSABLE, ROUTE, "account by type"),
    ("anthropic", 402, "billing_error", "", "", Outcome.UNUSABLE, ROUTE, "account by type"),
    ("anthropic", 403, "", "", "", Outcome.UNUSABLE, ROUTE, "401, 402, 403"),
    ("anthropic", 404, "not_found_error", "file_expired", "", Outcome.INVALID, MODEL, "file or thread not found by code"),
    ("anthropic", 404, "not_found_error", "", "File not found: file_011", Outcome.INVALID, MODEL,
     "file or container not found"),
    ("anthropic", 404, "not_found_error", "", "model: claude-nine", Outcome.UNUSABLE, MODEL, "404"),
    ("vertex", 404, "not_found", "", "Publisher Model x was not found", Outcome.UNUSABLE, MODEL, "404"),
    ("anthropic", 413, "request_too_large", "", "", Outcome.INVALID, MODEL, "413, 422"),
    ("anthropic", 400, ERROR, "image_dimensions_too_large", "", Outcome.INVALID, MODEL, "request by code"),
    ("bedrock", 400, "validationexception", "", "Input is too long for requested model.", Outcome.INVALID, MODEL,
     "context too long"),
    ("anthropic", 400, ERROR, "", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
     Outcome.INVALID, MODEL, "context too long"),
    ("vertex", 400, ERROR, "", "Output blocked by content filtering policy", Outcome.INVALID, MODEL, "content policy"),
    ("anthropic", 400, ERROR, "", "messages: at least one message is required", Outcome.INVALID, MODEL, "malformed"),
    ("bedrock", 400, "validationexception", "", "Malformed input request: #: required key [max_tokens] not found, please "
     "reformat your input and try again.", Outcome.INVALID, MODEL, "malformed"),
    ("anthropic", 500, "api_error", "", "Internal server error", Outcome.SERVER_ERROR, MODEL, "500, 502, 504, 424"),
    ("bedrock", 424, "modelerrorexception", "", "", Outcome.SERVER_ERROR, MODEL, "500, 502, 504, 424"),
    ("vertex", 504, "deadline_exceeded", "", "", Outcome.SERVER_ERROR, MODEL, "500, 502, 504, 424"),
    ("anthropic", 400, ERROR, "", "temperature: Extra inputs are not permitted", Outcome.DOUBTFUL, MODEL, "another 400"),
    ("bedrock", 400, "validationexception", "", "This model does not support assistant message prefill.",
     Outcome.DOUBTFUL, MODEL, "another 400"),
]  # fmt: skip

STREAMED: list[tuple[str, str, str, Outcome, str]] = [
    ("bedrock", "throttlingexception", "", Outcome.RATE_LIMITED, "AWS throttles"),
    ("anthropic", "rate_limit_error", "", Outcome.RATE_LIMITED, "rate_limit_error"),
    ("bedrock", "modeltimeoutexception", "", Outcome.TIMEOUT, "model timeout"),
    ("anthropic", "overloaded_error", "Overloaded", Outcome.SERVER_ERROR, "error event in a 200 stream"),
    ("bedrock", "modelstreamerrorexception", "", Outcome.SERVER_ERROR, "error event in a 200 stream"),
    ("bedrock", "serviceunavailableexception", "", Outcome.SERVER_ERROR, "error event in a 200 stream"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{c[7]}")
def test_a_refusal_finds_its_row(case: tuple[str, int, str, str, str, Outcome, bool, str]) -> None:
    provider, status, kind, code, words, outcome, whole_route, name = case
    row = sort(Refusal(provider, status, kind, code, words))
    assert (row.name, row.outcome, row.whole_route) == (name, outcome, whole_route)


@pytest.mark.parametrize("case", STREAMED, ids=lambda c: f"{c[0]}-{c[1]}")
def test_an_error_event_inside_a_stream_is_told_by_its_name(case: tuple[str, str, str, Outcome, str]) -> None:
    provider, kind, words, outcome, name = case
    row = sort(Refusal(provider, 200, kind, message=words, in_stream=True))
    assert (row.name, row.outcome) == (name, outcome)


def test_every_row_of_the_table_is_reached_by_a_case() -> None:
    reached = {case[7] for case in CASES} | {case[4] for case in STREAMED}
    assert reached == {row.name for row in TABLE}


def test_no_two_rows_share_a_name() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("status", [302, 409, 418, 499, 501, 599])
def test_the_unknown_counts_as_a_server_error_and_is_logged_without_its_words(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "trivet.sorting"):
        row = sort(Refusal("anthropic", status, "strange_error", message="y" * 5000, shown="x" * 5000))
    assert row is UNKNOWN
    assert row.outcome is Outcome.SERVER_ERROR
    assert f"HTTP {status}" in caplog.text
    assert "strange_error" in caplog.text
    assert "xx" not in caplog.text
    assert "yy" not in caplog.text


def test_the_known_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    sort(Refusal("anthropic", 400, ERROR, message="something new"))
    assert not caplog.records


AWS = "x-amzn-errortype"


@pytest.mark.parametrize(
    ("status", "seen", "body", "provider", "expected"),
    [
        (429, {AWS: "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/"}, {"message": "slow down"},
         "bedrock", Refusal("bedrock", 429, "throttlingexception", message="slow down")),
        (400, {AWS: "com.amazon.coral.service#ValidationException"}, {"Message": "no"}, "bedrock",
         Refusal("bedrock", 400, "validationexception", message="no")),
        (400, {}, {"__type": "com.amazon#ExpiredTokenException", "message": "old"}, "bedrock",
         Refusal("bedrock", 400, "expiredtokenexception", message="old")),
        (429, {}, [{"error": {"code": 429, "message": "full", "status": "RESOURCE_EXHAUSTED"}}], "vertex",
         Refusal("vertex", 429, "resource_exhausted", message="full")),
        (500, {}, {"error": {"code": 429, "message": "wrapped"}}, "vertex",
         Refusal("vertex", 500, "resource_exhausted", message="wrapped")),
        (400, {}, {"type": "error", "error": {"type": ERROR, "message": "long"}}, "vertex",
         Refusal("vertex", 400, ERROR, message="long")),
        (429, {}, {"type": "error", "error": {"type": "rate_limit_error", "message": "m",
                                              "details": {"error_code": "ramp_limit_exceeded"}}}, "anthropic",
         Refusal("anthropic", 429, "rate_limit_error", "ramp_limit_exceeded", "m")),
        (200, {}, {"type": "error", "error": {"type": "validationException", "message": "m"}}, "bedrock",
         Refusal("bedrock", 400, "validationexception", message="m", in_stream=True)),
        (502, {}, "<html><body>Bad gateway: your text was …</body></html>", "anthropic", Refusal("anthropic", 502)),
        (500, {}, None, "vertex", Refusal("vertex", 500)),
        (500, {}, [], "vertex", Refusal("vertex", 500)),
        (500, {}, {"error": "flat", "message": 7}, "anthropic", Refusal("anthropic", 500)),
    ],
)  # fmt: skip
def test_error_bodies_of_all_forms_are_read(
    status: int, seen: dict[str, str], body: Any, provider: str, expected: Refusal
) -> None:
    assert read_refusal(status, seen, body, provider) == expected


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
