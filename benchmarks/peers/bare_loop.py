"""The bare SDK: its async client over aiohttp, so many calls at a time, every answer parsed into the SDK's own model.

    python bare_loop.py --wire anthropic --url URL [--uvloop]

What a producer without a queue would write; retries off, as Trivet has them.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from typing import Any

import anthropic
from load import ATTEMPT_HEADER, MAX_TOKENS, WIRE_MODELS, messages
from orders import serve

_VERSIONS = {
    "bedrock": {"anthropic_version": "bedrock-2023-05-31"},
    "vertex": {"anthropic_version": "vertex-2023-10-16"},
}


def make_client(wire: str, url: str) -> Any:
    """The SDK's client of a wire. Bedrock's signs with the credentials of the environment."""
    http_client = anthropic.DefaultAioHttpClient()
    match wire:
        case "anthropic":
            return anthropic.AsyncAnthropic(
                api_key="simulated-key", base_url=url, max_retries=0, http_client=http_client
            )
        case "bedrock":
            return anthropic.AsyncAnthropicBedrock(
                aws_region="us-east-1", base_url=url, max_retries=0, http_client=http_client
            )
        case "vertex":
            return anthropic.AsyncAnthropicVertex(
                region="global",
                project_id="simulated",
                access_token="simulated-key",
                base_url=url,
                max_retries=0,
                http_client=http_client,
            )
    raise ValueError(f"no such wire: {wire}")


async def call(client: Any, wire: str, number: int) -> str:
    """One call; returns its answer's text."""
    answer = await client.messages.create(
        model=WIRE_MODELS[wire],
        max_tokens=MAX_TOKENS,
        messages=messages(number),
        extra_headers={ATTEMPT_HEADER: f"bare-{number}"},
        extra_body=_VERSIONS.get(wire),
    )
    return str(answer.content[0].text)


async def many(client: Any, wire: str, jobs: int, in_flight: int) -> None:
    """Make this many calls, so many at a time."""
    numbers: Iterator[int] = iter(range(jobs))

    async def one_line() -> None:
        for number in numbers:
            await call(client, wire, number)

    await asyncio.gather(*(one_line() for _ in range(in_flight)))


def main() -> None:
    """Serve orders."""
    made = argparse.ArgumentParser(description="The bare SDK loop.")
    made.add_argument("--wire", choices=tuple(WIRE_MODELS), required=True)
    made.add_argument("--url", required=True)
    made.add_argument("--uvloop", action="store_true")
    arguments = made.parse_args()
    if arguments.uvloop:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    client = make_client(arguments.wire, arguments.url)

    def run(jobs: int, in_flight: int) -> dict[str, Any]:
        start = time.perf_counter()
        loop.run_until_complete(many(client, arguments.wire, jobs, in_flight))
        return {"seconds": time.perf_counter() - start}

    def one(number: int) -> dict[str, Any]:
        start = time.perf_counter()
        loop.run_until_complete(call(client, arguments.wire, number))
        return {"seconds": time.perf_counter() - start}

    serve({"run": run, "one": one})


if __name__ == "__main__":
    main()
