"""The real SDK clients, pointed at the simulator."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anthropic

from trivet_simulator import Endpoints

WIRES = ("anthropic", "bedrock", "vertex")
ON_AWS = ("messages", "mantle", "platform")
MODELS = {
    "anthropic": "claude-sonnet-5-5",
    "bedrock": "global.anthropic.claude-sonnet-5-5-v1:0",
    "vertex": "claude-sonnet-5-5@20260901",
    "messages": "global.anthropic.claude-sonnet-5-5",
    "mantle": "anthropic.claude-sonnet-5-5",
    "platform": "claude-sonnet-5-5",
}
VERSIONS = {"bedrock": "bedrock-2023-05-31", "vertex": "vertex-2023-10-16"}
"""As the clouds document them; the SDK's clients say something else unless they are told."""
BODY: dict[str, Any] = {
    "max_tokens": 4096,
    "messages": [{"role": "user", "content": "Say something about stone bridges."}],
}


@contextlib.asynccontextmanager
async def client(endpoints: Endpoints, wire: str, **options: Any) -> AsyncIterator[Any]:
    """The async SDK client of a wire; no retries, so that one call is one call."""
    usual: dict[str, Any] = {"max_retries": 0, "timeout": 20.0, "base_url": endpoints.providers[wire], **options}
    made: Any
    match wire:
        case "anthropic":
            made = anthropic.AsyncAnthropic(api_key="key", **usual)
        case "bedrock":
            made = anthropic.AsyncAnthropicBedrock(
                aws_access_key="AKIA", aws_secret_key="secret", aws_region="us-east-1", **usual
            )
        case "mantle":
            made = anthropic.AsyncAnthropicBedrockMantle(
                aws_access_key="AKIA", aws_secret_key="secret", aws_region="us-east-1", **usual
            )
        case "messages":  # the SDK has no client that signs for it
            made = anthropic.AsyncAnthropicBedrockMantle(api_key="key", aws_region="us-east-1", **usual)
        case "platform":
            made = anthropic.AsyncAnthropicAWS(
                aws_access_key="AKIA", aws_secret_key="secret", aws_region="us-east-1",
                **{"workspace_id": "wrkspc_1", **usual},
            )  # fmt: skip
        case _:
            made = anthropic.AsyncAnthropicVertex(region="us-east5", project_id="p", access_token="token", **usual)
    async with made:
        yield made


def request(wire: str, **changes: Any) -> dict[str, Any]:
    """Arguments for `messages.create` of a wire's client."""
    version = {"anthropic_version": VERSIONS[wire]} if wire in VERSIONS else {}
    return {"model": MODELS[wire], **BODY, **changes, "extra_body": {**version, **changes.get("extra_body", {})}}


async def call(endpoints: Endpoints, wire: str, *, attempt: str | None = None, **changes: Any) -> Any:
    """One call that does not stream; returns the SDK's raw response."""
    async with client(endpoints, wire) as made:
        headers = {} if attempt is None else {"x-trivet-attempt": attempt}
        return await made.messages.with_raw_response.create(**request(wire, **changes), extra_headers=headers)


async def message(endpoints: Endpoints, wire: str, **changes: Any) -> Any:
    """The same, parsed."""
    parsed = (await call(endpoints, wire, **changes)).parse()
    return await parsed if hasattr(parsed, "__await__") else parsed


async def streamed(endpoints: Endpoints, wire: str, **changes: Any) -> Any:
    """One streamed call; returns the message the SDK puts together from the events."""
    async with (
        client(endpoints, wire) as made,
        made.messages.stream(**request(wire, **changes)) as stream,
    ):
        return await stream.get_final_message()
