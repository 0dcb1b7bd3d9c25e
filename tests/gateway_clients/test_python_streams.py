"""The official Python client, unmodified, against the gateway: streams."""

import asyncio
from typing import Any

import anthropic
import pytest
from tests.gateway_clients.running import MODEL, RunningGateway

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "Say yes."}]}
TOOL: dict[str, Any] = {"name": "get_weather", "input_schema": {"type": "object"}}


def test_a_stream_helper_gives_text_and_the_final_message(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes, of course, and gladly.")
    with gateway.client() as client, client.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "Yes, of course, and gladly."
    assert (message.stop_reason, [block.type for block in message.content]) == ("end_turn", ["text"])
    assert message.usage.output_tokens > 0


def test_the_async_helper_streams_too(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes, of course.")

    async def ask() -> str:
        async with gateway.async_client() as client, client.messages.stream(**ASKED) as stream:
            return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask()) == "Yes, of course."


def test_the_events_of_a_plain_stream_come_in_their_order(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes.")
    with gateway.client() as client, client.messages.create(**ASKED, stream=True) as stream:
        kinds = [event.type for event in stream if event.type != "content_block_delta"]
    assert kinds == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]


def test_the_input_of_a_tool_is_streamed_as_json(gateway: RunningGateway) -> None:
    call = {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"city": "Oslo"}}
    gateway.trivet.reply({"content": [call], "stop_reason": "tool_use"})
    with gateway.client() as client, client.messages.stream(**ASKED, tools=[TOOL]) as stream:  # type: ignore[list-item]
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    assert "".join(parts).replace(" ", "") == '{"city":"Oslo"}'
    block = message.content[0]
    assert isinstance(block, anthropic.types.ToolUseBlock)
    assert block.input == {"city": "Oslo"}


def test_a_beta_stream_is_a_stream(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes.")
    with gateway.client() as client, client.beta.messages.stream(**ASKED) as stream:
        assert stream.get_final_message().stop_reason == "end_turn"


def test_before_its_first_token_a_stream_fails_over_unseen(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes.")
    gateway.trivet.simulator.fault("anthropic", "overloaded")
    gateway.trivet.simulator.fault("bedrock", "overloaded")
    with gateway.client() as client, client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == "Yes."


def test_a_request_that_is_refused_has_its_status_in_a_stream_too(gateway: RunningGateway) -> None:
    asked = {**ASKED, "messages": []}
    with gateway.client() as client, pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.create(**asked, stream=True)
