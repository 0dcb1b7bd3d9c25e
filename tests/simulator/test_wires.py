"""The three wires, spoken to by the real SDK clients."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import anthropic
import pytest

from trivet_simulator import Control, Endpoints

from .sdk import BODY, MODELS, WIRES, call, client, message, request, streamed


@pytest.mark.parametrize("wire", WIRES)
def test_plain_call_is_a_whole_message(control: Control, endpoints: Endpoints, wire: str) -> None:
    answer = asyncio.run(message(endpoints, wire, attempt="attempt-7"))
    assert isinstance(answer, anthropic.types.Message)
    assert answer.stop_reason == "end_turn"
    block = answer.content[0]
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text
    assert 1 <= answer.usage.output_tokens <= BODY["max_tokens"]
    assert abs(answer.usage.input_tokens - len(json.dumps(BODY)) / 4) < 30
    (logged,) = control.calls()
    assert (logged.provider, logged.model, logged.attempt) == (wire, MODELS[wire], "attempt-7")
    assert (logged.status, logged.complete, logged.fault, logged.stream) == (200, True, None, False)
    assert logged.usage is not None
    assert logged.usage["output_tokens"] == answer.usage.output_tokens
    assert logged.usage["input_tokens"] == answer.usage.input_tokens


@pytest.mark.parametrize("wire", WIRES)
def test_streamed_call_gives_the_same_kind_of_message(control: Control, endpoints: Endpoints, wire: str) -> None:
    answer = asyncio.run(streamed(endpoints, wire))
    assert answer.stop_reason == "end_turn"
    assert answer.content[0].text
    (logged,) = control.calls()
    assert logged.usage is not None
    assert (logged.stream, logged.complete) == (True, True)
    assert logged.usage["output_tokens"] == answer.usage.output_tokens


@pytest.mark.parametrize("wire", WIRES)
def test_same_request_gives_same_text_and_another_id(control: Control, endpoints: Endpoints, wire: str) -> None:
    first, second = (asyncio.run(message(endpoints, wire)) for _ in range(2))
    other = asyncio.run(message(endpoints, wire, messages=[{"role": "user", "content": "Something else."}]))
    assert first.content[0].text == second.content[0].text != other.content[0].text
    assert first.id != second.id


def test_request_ids_stand_where_each_provider_puts_them(control: Control, endpoints: Endpoints) -> None:
    headers = {wire: asyncio.run(call(endpoints, wire)).headers for wire in WIRES}
    ids = [headers["anthropic"]["request-id"], headers["bedrock"]["x-amzn-requestid"], headers["vertex"]["request-id"]]
    assert [c.request_id for c in control.calls()] == ids
    assert headers["bedrock"]["x-amzn-bedrock-output-token-count"].isdecimal()


@pytest.mark.parametrize("wire", WIRES)
def test_max_tokens_cuts_the_answer(control: Control, endpoints: Endpoints, wire: str) -> None:
    answer = asyncio.run(message(endpoints, wire, max_tokens=2))
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 2)


@pytest.mark.parametrize(
    ("wire", "error", "says"),
    [
        ("anthropic", anthropic.NotFoundError, "model: gpt-9"),
        ("bedrock", anthropic.BadRequestError, "The provided model identifier is invalid."),
        ("vertex", anthropic.NotFoundError, "NOT_FOUND"),
    ],
)
def test_unknown_model(
    control: Control, endpoints: Endpoints, wire: str, error: type[anthropic.APIStatusError], says: str
) -> None:
    with pytest.raises(error) as caught:
        asyncio.run(call(endpoints, wire, model="gpt-9"))
    assert says in str(caught.value)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"messages": []}, "messages: at least one message is required"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"messages": None}, "messages: Field required"),
        ({"messages": [{"role": "poet", "content": "x"}]}, "messages.0.role"),
    ],
)
def test_bad_body_is_a_400_that_says_why(
    control: Control, endpoints: Endpoints, wire: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        asyncio.run(call(endpoints, wire, **changes))
    assert says in str(caught.value)
    assert [(c.status, c.complete) for c in control.calls()] == [(400, False)]


def _post(url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, json.loads(error.read())


def test_no_credentials_no_answer(control: Control, endpoints: Endpoints) -> None:
    body = json.dumps({**BODY, "model": "claude-x"}).encode()
    status, _, document = _post(endpoints.anthropic + "/v1/messages", {}, body)
    assert (status, document["error"]["type"]) == (401, "authentication_error")
    status, headers, document = _post(endpoints.bedrock + "/model/anthropic.claude-x/invoke", {}, body)
    assert (status, headers["x-amzn-errortype"].split(":")[0]) == (403, "AccessDeniedException")
    assert set(document) == {"message"}
    path = "/projects/p/locations/l/publishers/anthropic/models/claude-x:rawPredict"
    status, _, document = _post(endpoints.vertex + path, {}, body)
    assert (status, document[0]["error"]["status"]) == (401, "UNAUTHENTICATED")


def test_bearer_key_is_enough_for_anthropic_and_bedrock(control: Control, endpoints: Endpoints) -> None:
    async def both() -> None:
        async with client(endpoints, "anthropic") as made:
            bearer = made.with_options(default_headers={"X-Api-Key": "", "Authorization": "Bearer token"})
            assert (await bearer.messages.create(model="claude-x", **BODY)).stop_reason
        base = endpoints.bedrock
        async with anthropic.AsyncAnthropicBedrock(api_key="k", aws_region="us-east-1", base_url=base) as made:
            assert (await made.messages.create(**request("bedrock"))).stop_reason

    asyncio.run(both())


def test_not_json_is_a_400(control: Control, endpoints: Endpoints) -> None:
    status, _, document = _post(endpoints.anthropic + "/v1/messages", {"x-api-key": "k"}, b'{"model": ')
    assert (status, document["error"]["type"]) == (400, "invalid_request_error")


def test_more_than_32_mb_is_a_413(control: Control, endpoints: Endpoints) -> None:
    with pytest.raises(anthropic.ContentTooLargeError) as caught:
        asyncio.run(call(endpoints, "anthropic", messages=[{"role": "user", "content": "x" * (33 << 20)}]))
    assert str(caught.value.type) == "request_too_large", "not among the types that the SDK lists"


def test_models_are_listed(control: Control, endpoints: Endpoints) -> None:
    async def ask() -> list[str]:
        async with client(endpoints, "anthropic") as made:
            return [model.id async for model in made.models.list()]

    assert "claude-sonnet-5-5" in asyncio.run(ask())
    assert control.counts()["started"] == 0


@pytest.mark.parametrize("wire", WIRES)
def test_prompt_cache_is_written_then_read(control: Control, endpoints: Endpoints, wire: str) -> None:
    system = [{"type": "text", "text": "rule " * 1_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    first, second = (asyncio.run(message(endpoints, wire, system=system)).usage for _ in range(2))
    assert first.cache_creation_input_tokens > 1_024
    assert first.cache_creation.ephemeral_1h_input_tokens == first.cache_creation_input_tokens
    assert first.cache_read_input_tokens == 0
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens) == (
        0,
        first.cache_creation_input_tokens,
    )
    assert second.input_tokens == first.input_tokens


def test_what_is_being_written_to_the_prompt_cache_is_not_there_yet(control: Control, endpoints: Endpoints) -> None:
    """Two calls at once write both; a short prefix is never cached."""
    control.latency("anthropic", median_s=0.5)
    system = [{"type": "text", "text": "rule " * 1_000, "cache_control": {"type": "ephemeral"}}]

    async def both() -> list[Any]:
        return await asyncio.gather(*(message(endpoints, "anthropic", system=system) for _ in range(2)))

    assert all(answer.usage.cache_creation_input_tokens > 1_024 for answer in asyncio.run(both()))
    assert asyncio.run(message(endpoints, "anthropic", system=system)).usage.cache_read_input_tokens > 1_024
    short = [{**system[0], "text": "rule " * 100}]
    for _ in range(2):
        used = asyncio.run(message(endpoints, "anthropic", system=short)).usage
        assert (used.cache_creation_input_tokens, used.cache_read_input_tokens) == (0, 0)


def test_a_profile_arn_is_a_model(control: Control, endpoints: Endpoints) -> None:
    arn = "arn:aws:bedrock:us-east-1:000000000000:inference-profile/us.anthropic.claude-sonnet-5-5-v1:0"
    assert asyncio.run(message(endpoints, "bedrock", model=arn)).stop_reason == "end_turn"
    assert control.calls()[0].model == arn


def test_an_extra_provider_is_one_of_its_own(control: Control, endpoints: Endpoints) -> None:
    control.fault("bedrock", "overloaded")

    async def ask() -> Any:
        base = endpoints.providers["bedrock-eu"]
        async with anthropic.AsyncAnthropicBedrock(api_key="k", aws_region="eu-west-1", base_url=base) as made:
            return await made.messages.create(**request("bedrock"))

    assert asyncio.run(ask()).stop_reason == "end_turn"
    assert [c.provider for c in control.calls()] == ["bedrock-eu"]
