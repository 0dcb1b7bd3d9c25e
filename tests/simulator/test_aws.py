"""The Messages API on AWS, spoken to by the SDK's own clients for it."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest

from trivet_simulator import Control, Endpoints

from .sdk import MODELS, ON_AWS, call, client, message, request, streamed


@pytest.mark.parametrize("wire", ON_AWS)
def test_plain_and_streamed_calls_are_whole_messages(control: Control, endpoints: Endpoints, wire: str) -> None:
    plain, stream = asyncio.run(message(endpoints, wire)), asyncio.run(streamed(endpoints, wire))
    assert plain.stop_reason == stream.stop_reason == "end_turn"
    assert plain.content[0].text
    assert plain.model == stream.model == "claude-sonnet-5-5"
    assert [(c.provider, c.model, c.stream) for c in control.calls()] == [
        (wire, MODELS[wire], False),
        (wire, MODELS[wire], True),
    ]


@pytest.mark.parametrize(
    ("wire", "header"), [("messages", "x-amzn-requestid"), ("mantle", "x-amzn-requestid"), ("platform", "request-id")]
)
def test_the_request_id_is_the_operator_s(control: Control, endpoints: Endpoints, wire: str, header: str) -> None:
    assert asyncio.run(call(endpoints, wire)).headers[header] == control.calls()[0].request_id


@pytest.mark.parametrize(
    ("wire", "model", "status", "says"),
    [
        ("messages", "anthropic.claude-sonnet-5-5", 400, "with on-demand throughput isn"),
        ("mantle", "global.anthropic.claude-sonnet-5-5", 404, "model: global.anthropic"),
        ("mantle", "claude-sonnet-5-5", 404, "model: claude-sonnet-5-5"),
        ("platform", "anthropic.claude-sonnet-5-5", 404, "model: anthropic."),
    ],
)
def test_the_ids_of_another_endpoint_are_unknown(
    control: Control, endpoints: Endpoints, wire: str, model: str, status: int, says: str
) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        asyncio.run(call(endpoints, wire, model=model))
    assert caught.value.status_code == status
    assert says in caught.value.response.json()["error"]["message"]


def test_a_signature_for_another_service_is_refused(control: Control, endpoints: Endpoints) -> None:
    async def signed_for_mantle() -> Any:
        signing = {"aws_access_key": "AKIA", "aws_secret_key": "secret", "aws_region": "us-east-1", "max_retries": 0}
        base = endpoints.providers["messages"]
        async with anthropic.AsyncAnthropicBedrockMantle(base_url=base, **signing) as made:  # type: ignore[arg-type]
            return await made.messages.create(**request("messages"))

    with pytest.raises(anthropic.PermissionDeniedError) as caught:
        asyncio.run(signed_for_mantle())
    assert caught.value.response.headers["x-amzn-errortype"] == "InvalidSignatureException"
    assert caught.value.response.json() == {"message": "Credential should be scoped to correct service: 'bedrock'."}


def test_the_platform_wants_a_workspace(control: Control, endpoints: Endpoints) -> None:
    async def without() -> Any:
        async with client(endpoints, "platform", workspace_id="") as made:
            return await made.messages.create(**request("platform"))

    with pytest.raises(anthropic.BadRequestError, match="anthropic-workspace-id"):
        asyncio.run(without())


@pytest.mark.parametrize("wire", ON_AWS)
def test_faults_come_in_the_operator_s_form(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.fault(wire, "overloaded", times=1)
    with pytest.raises(anthropic.APIStatusError) as caught:
        asyncio.run(call(endpoints, wire))
    assert caught.value.response.json()["error"]["type"] == "overloaded_error"
    assert ("request-id" in caught.value.response.headers) is (wire == "platform")
