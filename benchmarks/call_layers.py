"""Cost of each layer between a job's body and the wire, in microseconds of CPU a call, in turn and repeated.

    python benchmarks/call_layers.py [--calls 2000] [--rounds 3] [--asyncio]

Everything on one event loop of one process, 64 calls at a time over a simulator that answers after 20 ms; each layer
reads the whole answer and parses it once (`create`: into the SDK's model). The last line is what aiohttp itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import anthropic
import httpx2
import orjson
from load import ATTEMPT_HEADER, MAX_TOKENS, MODEL, WIRE_MODELS, messages
from trivet_setup import AWS

from trivet_simulator import SimulatorProcess
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.secret_refs import SecretRef
from trivet_worker.adapters import build_caller
from trivet_worker.adapters.bedrock import SigV4
from trivet_worker.adapters.credentials import process_credentials
from trivet_worker.adapters.http import build_http_client
from trivet_worker.adapters.protocol import CallLimits

IN_FLIGHT = 64
KEY_VARIABLE = "CALL_LAYERS_KEY"
KEY = SecretRef("env", KEY_VARIABLE)
HEADERS = {"x-api-key": "simulated-key", "anthropic-version": "2023-06-01", "content-type": "application/json"}
Call = Callable[[int], Awaitable[Any]]


def body(number: int) -> bytes:
    """A request as bytes."""
    return orjson.dumps({"model": MODEL, "max_tokens": MAX_TOKENS, "messages": messages(number)})


def bedrock_body(number: int) -> bytes:
    """The same for Bedrock, sent without the SDK."""
    document = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": MAX_TOKENS, "messages": messages(number)}
    return orjson.dumps(document)


async def layers(endpoints: Any, held: contextlib.AsyncExitStack) -> dict[str, Call]:
    """By name, from the outermost to the innermost."""
    sdk = anthropic.AsyncAnthropic(
        api_key="simulated-key",
        base_url=endpoints.anthropic,
        max_retries=0,
        http_client=build_http_client(IN_FLIGHT),
    )
    signed = anthropic.AsyncAnthropicBedrock(
        aws_region="us-east-1", base_url=endpoints.bedrock, max_retries=0, http_client=build_http_client(IN_FLIGHT)
    )
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT), auto_decompress=True)
    for client in (sdk, signed, session):
        held.push_async_callback(client.close)
    url = f"{endpoints.anthropic}/v1/messages"
    http: httpx2.AsyncClient = sdk._client
    transport: Any = http._transport
    httpx_url = httpx2.URL(url)
    credentials = process_credentials()
    await credentials.ready()
    signer = SigV4(credentials, "us-east-1", "bedrock")
    bedrock_url = f"{endpoints.bedrock}/model/{WIRE_MODELS['bedrock']}/invoke"

    caller = build_caller(
        RouteSettings(provider="anthropic", base_url=endpoints.anthropic, api_key=KEY, max_concurrency=IN_FLIGHT)
    )
    bedrock_caller = build_caller(
        RouteSettings(provider="bedrock", region="us-east-1", base_url=endpoints.bedrock, max_concurrency=IN_FLIGHT)
    )
    for made in (caller, bedrock_caller):
        held.push_async_callback(made.close)

    async def create(number: int) -> None:
        await sdk.messages.create(
            model=MODEL,
            max_tokens=MAX_TOKENS,
            messages=messages(number),  # type: ignore[arg-type]
            extra_headers={ATTEMPT_HEADER: f"a{number}"},
        )

    async def signed_create(number: int) -> None:
        await signed.messages.create(
            model=WIRE_MODELS["bedrock"],
            max_tokens=MAX_TOKENS,
            messages=messages(number),  # type: ignore[arg-type]
            extra_headers={ATTEMPT_HEADER: f"a{number}"},
            extra_body={"anthropic_version": "bedrock-2023-05-31"},
        )

    async def post(number: int) -> None:
        response: httpx2.Response = await sdk.post(
            "/v1/messages",
            cast_to=httpx2.Response,
            content=body(number),
            options={"headers": {ATTEMPT_HEADER: f"a{number}"}, "follow_redirects": False},
            stream=True,
        )
        orjson.loads(await response.aread())

    async def trivet(number: int) -> None:
        await caller.call(body(number), MODEL, f"a{number}", CallLimits(30))

    async def trivet_signed(number: int) -> None:
        await bedrock_caller.call(body(number), WIRE_MODELS["bedrock"], f"a{number}", CallLimits(30))

    async def httpx_send(number: int) -> None:
        request = httpx2.Request(
            "POST", httpx_url, headers={**HEADERS, ATTEMPT_HEADER: f"a{number}"}, content=body(number)
        )
        response = await http.send(request, stream=True, follow_redirects=False)
        orjson.loads(await response.aread())

    async def httpx_transport(number: int) -> None:
        request = httpx2.Request(
            "POST", httpx_url, headers={**HEADERS, ATTEMPT_HEADER: f"a{number}"}, content=body(number)
        )
        response = await transport.handle_async_request(request)
        orjson.loads(await response.aread())

    async def aiohttp_post(number: int) -> None:
        headers = {**HEADERS, ATTEMPT_HEADER: f"a{number}"}
        async with session.post(url, data=body(number), headers=headers, allow_redirects=False) as response:
            orjson.loads(await response.read())

    async def aiohttp_signed(number: int) -> None:
        content = bedrock_body(number)
        headers = {**signer.headers(bedrock_url, content), ATTEMPT_HEADER: f"a{number}"}
        headers.setdefault("content-type", "application/json")
        async with session.post(bedrock_url, data=content, headers=headers, allow_redirects=False) as response:
            orjson.loads(await response.read())

    return {
        "SDK create, Bedrock, signed by the SDK": signed_create,
        "SDK create": create,
        "SDK post": post,
        "Trivet's caller": trivet,
        "Trivet's caller, Bedrock, signed": trivet_signed,
        "httpx2 client send": httpx_send,
        "httpx2 transport": httpx_transport,
        "aiohttp, Bedrock, signed by Trivet": aiohttp_signed,
        "aiohttp": aiohttp_post,
    }


async def cpu_of(call: Call, calls: int) -> float:
    """CPU a call in microseconds."""
    numbers = iter(range(calls))

    async def one_line() -> None:
        for number in numbers:
            await call(number)

    start = time.process_time()
    await asyncio.gather(*(one_line() for _ in range(IN_FLIGHT)))
    return (time.process_time() - start) / calls * 1e6


async def run(endpoints: Any, calls: int, rounds: int) -> None:
    """All layers, round by round."""
    async with contextlib.AsyncExitStack() as held:
        of = await layers(endpoints, held)
        for call in of.values():
            await cpu_of(call, 200)
        found: dict[str, list[float]] = {name: [] for name in of}
        for _ in range(rounds):
            for name, call in of.items():
                found[name].append(await cpu_of(call, calls))
    for name, costs in found.items():
        print(f"{statistics.median(costs):7.0f} us ({min(costs):.0f}-{max(costs):.0f})  {name}")


def main() -> int:
    """Run and print."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--calls", type=int, default=2_000)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--asyncio", action="store_true", help="asyncio's own loop in place of uvloop")
    arguments = made.parse_args()
    assert AWS
    os.environ[KEY_VARIABLE] = "simulated-key"
    with SimulatorProcess("--latency-median", "0.02") as simulator:
        work = run(simulator.endpoints, arguments.calls, arguments.rounds)
        if arguments.asyncio:
            asyncio.run(work)
        else:
            import uvloop

            uvloop.run(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
