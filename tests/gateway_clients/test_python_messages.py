"""The official Python client, unmodified, against the gateway: messages, tools, structured outputs, raw responses."""

import asyncio
import json
from typing import Any

import anthropic
import pydantic
from tests.builders import unique
from tests.gateway_clients.running import MODEL, RunningGateway

from trivet_tasks.states import JobState

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def asked(words: str = "Say yes.", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": words}], **more}


def test_a_message_is_the_sdk_s_own_object(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes.")
    with gateway.client() as client:
        message = client.messages.create(**asked())
    assert isinstance(message, anthropic.types.Message)
    assert [block.text for block in message.content if block.type == "text"] == ["Yes."]
    assert (message.role, message.stop_reason) == ("assistant", "end_turn")
    assert message.usage.input_tokens > 0


def test_the_async_client_makes_messages_too(gateway: RunningGateway) -> None:
    async def ask() -> list[anthropic.types.Message]:
        async with gateway.async_client() as client:
            return await asyncio.gather(*(client.messages.create(**asked(f"{unique('q')}")) for _ in range(5)))

    assert len({message.id for message in asyncio.run(ask())}) == 5


def test_a_raw_response_has_the_headers_of_the_job(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        response = client.messages.with_raw_response.create(**asked())
    assert response.http_request.headers["X-Stainless-Lang"] == "python"
    assert response.headers["x-trivet-route"] in gateway.trivet.settings.routes
    assert response.headers["request-id"]
    assert gateway.trivet.admin.jobs.life(response.headers["x-trivet-job"]).job.state is JobState.SUCCEEDED
    assert isinstance(response.parse(), anthropic.types.Message)


def test_a_streaming_response_is_read_by_the_caller(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes.")
    with gateway.client() as client, client.messages.with_streaming_response.create(**asked()) as response:
        assert not response.is_closed
        assert response.parse().stop_reason == "end_turn"


def test_a_tool_is_called_and_its_result_comes_back(gateway: RunningGateway) -> None:
    def model(request: Any) -> Any:
        last = request["messages"][-1]["content"]
        if isinstance(last, list) and last[0]["type"] == "tool_result":
            return f"It is {last[0]['content']} there."
        call = {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"city": "Oslo"}}
        return {"content": [call], "stop_reason": "tool_use"}

    with gateway.trivet.reply(model), gateway.client() as client:
        first = client.messages.create(**asked("How is the weather in Oslo?", tools=[WEATHER]))
        assert first.stop_reason == "tool_use"
        call = first.content[0]
        assert isinstance(call, anthropic.types.ToolUseBlock)
        assert call.input == {"city": "Oslo"}
        turns: list[Any] = [
            {"role": "user", "content": "How is the weather in Oslo?"},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
        ]
        second = client.messages.create(model=MODEL, max_tokens=64, messages=turns, tools=[WEATHER])  # type: ignore[list-item]
    assert [block.text for block in second.content if block.type == "text"] == ["It is sunny there."]


def test_the_sdk_s_tool_runner_runs_a_function(gateway: RunningGateway) -> None:
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city.

        Args:
            city: its name.
        """
        return f"sunny in {city}"

    def model(request: Any) -> Any:
        last = request["messages"][-1]["content"]
        if isinstance(last, list) and last[0]["type"] == "tool_result":
            return json.dumps(last[0]["content"])
        call = {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"city": "Oslo"}}
        return {"content": [call], "stop_reason": "tool_use"}

    with gateway.trivet.reply(model), gateway.client() as client:
        runner = client.beta.messages.tool_runner(tools=[get_weather], **asked("How is the weather in Oslo?"))
        last = runner.until_done()
    assert "sunny in Oslo" in "".join(block.text for block in last.content if block.type == "text")


def test_a_structured_output_is_parsed_into_its_model(gateway: RunningGateway) -> None:
    class Invoice(pydantic.BaseModel):
        total: int
        currency: str

    gateway.trivet.reply('{"total": 12, "currency": "EUR"}')
    with gateway.client() as client:
        message = client.messages.parse(**asked("What is on the invoice?"), output_format=Invoice)
    assert message.parsed_output == Invoice(total=12, currency="EUR")


def test_the_beta_messages_resource_works_with_a_beta(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Yes.")
    with gateway.client() as client:
        message = client.beta.messages.create(**asked(), betas=["context-management-2025-06-27"])
    assert isinstance(message, anthropic.types.beta.BetaMessage)
    assert message.stop_reason == "end_turn"


def test_the_idempotency_key_of_the_client_is_the_job_s(gateway: RunningGateway) -> None:
    key = unique("invoice")
    with gateway.client() as client:
        made = [
            client.messages.with_raw_response.create(**asked(), extra_headers={"idempotency-key": key})
            for _ in range(2)
        ]
    assert len({one.headers["x-trivet-job"] for one in made}) == 1
    assert len({one.parse().id for one in made}) == 1
