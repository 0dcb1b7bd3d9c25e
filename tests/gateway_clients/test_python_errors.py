"""The official Python client, unmodified, against the gateway: each error as its exception class."""

import socket
from typing import Any

import anthropic
import pytest
from tests.builders import unique
from tests.gateway_clients.running import MAX_BODY_MB, MODEL, RunningGateway

from trivet.testing import ErrorReply

Refusal = tuple[type[anthropic.APIStatusError], int, str, str]


def asked(words: str = "Say yes.", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": words}], **more}


def caught(gateway: RunningGateway, key: str = "free", **request: Any) -> anthropic.APIStatusError:
    """Return the error of a request."""
    with gateway.client(key) as client, pytest.raises(anthropic.APIStatusError) as error:
        client.messages.create(**request)
    assert error.value.request_id
    assert isinstance(error.value.body, dict)
    assert error.value.body["request_id"] == error.value.request_id
    return error.value


@pytest.mark.parametrize(
    ("key", "request_", "expected"),
    [
        ("free", asked(max_tokens=0), (anthropic.BadRequestError, 400, "invalid_request_error", "max_tokens")),
        ("free", asked(messages=[]), (anthropic.BadRequestError, 400, "invalid_request_error", "messages")),
        ("free", asked(model="claude-none"), (anthropic.NotFoundError, 404, "not_found_error", "model")),
        ("sk-ant-none", asked(), (anthropic.AuthenticationError, 401, "authentication_error", "key is not valid")),
        (
            "haiku",
            asked(model="claude-opus-5-5"),
            (anthropic.PermissionDeniedError, 403, "permission_error", "does not allow claude-opus-5-5"),
        ),
        ("nightly", asked(), (anthropic.PermissionDeniedError, 403, "permission_error", "does not allow interactive")),
        (
            "free",
            asked("x" * (MAX_BODY_MB * 2**20)),
            (anthropic.ContentTooLargeError, 413, "request_too_large", "larger than"),
        ),
    ],
    ids=["max_tokens", "messages", "model", "key", "key-model", "key-class", "too-large"],
)
def test_what_the_gateway_refuses_has_its_class(
    gateway: RunningGateway, key: str, request_: dict[str, Any], expected: Refusal
) -> None:
    kind, status, error_type, words = expected
    error = caught(gateway, key, **request_)
    assert (type(error), error.status_code, error.type) == (kind, status, error_type)
    assert words in error.message


def test_a_bearer_token_is_a_key_too(gateway: RunningGateway) -> None:
    options = {"base_url": gateway.url, "max_retries": 0, "auth_token": gateway.keys["free"]}
    with anthropic.Anthropic(**options) as client:  # type: ignore[arg-type]
        assert client.messages.create(**asked()).role == "assistant"


def test_a_provider_s_refusal_of_the_request_is_a_bad_request(gateway: RunningGateway) -> None:
    gateway.trivet.reply(ErrorReply("context_too_long"))
    error = caught(gateway, **asked())
    assert (type(error), error.status_code) == (anthropic.BadRequestError, 400)
    assert "prompt is too long" in error.message


def test_a_key_of_another_request_is_a_conflict(gateway: RunningGateway) -> None:
    key: dict[str, Any] = {"extra_headers": {"idempotency-key": unique("order")}}
    with gateway.client() as client:
        client.messages.create(**asked("Say one."), **key)
    assert type(caught(gateway, **asked("Say two."), **key)) is anthropic.ConflictError


def test_a_key_beyond_its_rate_is_told_when_to_come_back(gateway: RunningGateway) -> None:
    with gateway.client("slow") as client:

        def ask_thrice() -> None:
            for _ in range(3):
                client.messages.create(**asked())

        with pytest.raises(anthropic.RateLimitError) as error:
            ask_thrice()
    assert 1 <= int(error.value.response.headers["retry-after"]) <= 60


def test_limited_routes_are_a_rate_limit_with_retry_after(gateway: RunningGateway) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        gateway.trivet.simulator.fault(provider, "rate_limited")
    error = caught(gateway, **asked(), extra_headers={"x-trivet-latency": "realtime"})
    assert (type(error), error.type) == (anthropic.RateLimitError, "rate_limit_error")
    assert int(error.response.headers["retry-after"]) >= 1


def test_routes_that_are_all_overloaded_are_an_overload(gateway: RunningGateway) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        gateway.trivet.simulator.fault(provider, "overloaded")
    error = caught(gateway, **asked(), extra_headers={"x-trivet-latency": "realtime"})
    assert (type(error), error.status_code, error.type) == (anthropic.OverloadedError, 529, "overloaded_error")


def test_a_deadline_that_passes_is_a_gateway_timeout(gateway: RunningGateway) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        gateway.trivet.simulator.fault(provider, "hang")
    error = caught(gateway, **asked(), extra_headers={"x-trivet-latency": "realtime"})
    assert (error.status_code, error.type) == (504, "timeout_error")
    assert isinstance(error, anthropic.InternalServerError)


def test_the_client_s_own_timeout_is_its_own_error(gateway: RunningGateway) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        gateway.trivet.simulator.fault(provider, "hang")
    with gateway.client(timeout=0.5) as client, pytest.raises(anthropic.APITimeoutError):
        client.messages.create(**asked())


def test_a_gateway_that_is_not_there_is_a_connection_error(gateway: RunningGateway) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with gateway.client(base_url=url) as client, pytest.raises(anthropic.APIConnectionError):
            client.messages.create(**asked())


def test_what_is_not_there_is_not_found(gateway: RunningGateway) -> None:
    with gateway.client() as client, pytest.raises(anthropic.NotFoundError, match="nothing at '/v1/none'"):
        client.get("/v1/none", cast_to=object)
