"""Requests a second that the simulator serves on one core.

    python benchmarks/bench_simulator.py [--requests N] [--connections N] [--wire anthropic|bedrock|vertex]

The load comes from this process over raw sockets (keep-alive, one request at a time per connection); the simulator runs
in another. Its own CPU time is read from the system, so the figure also holds where both share a core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from trivet_simulator import SimulatorProcess

VERSIONS = {"anthropic": "2026-10-21", "bedrock": "bedrock-2023-05-31", "vertex": "vertex-2023-10-16"}
"""The API's version: a header of the first, in the body of the others."""


def body(wire: str) -> bytes:
    """A request as bytes."""
    document = {
        "model": "claude-haiku-4-5",
        "max_tokens": 256,
        "anthropic_version": VERSIONS[wire],
        "messages": [{"role": "user", "content": "Sum this up in one sentence: " + "a short document. " * 20}],
    }
    return json.dumps(document).encode()


PATHS = {
    "anthropic": "/v1/messages",
    "bedrock": "/model/anthropic.claude-haiku-4-5-v1%3A0/invoke",
    "vertex": "/v1/projects/p/locations/global/publishers/anthropic/models/claude-haiku-4-5:rawPredict",
}


class Caller(asyncio.Protocol):
    """One connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes, left: list[int], done: asyncio.Future[None]) -> None:
        self._request = request
        self._left = left
        self._done = done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if self._left[0] <= 0:
            self._transport.close()
            return
        self._left[0] -= 1
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Count a whole answer and ask again."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        if b" 200 " not in head[:20]:
            self._left[0] = 0
            if not self._done.done():
                self._done.set_exception(RuntimeError(f"not a 200: {head[:200]!r} {body[:200]!r}"))
        self._left[1] -= 1
        if self._left[1] == 0 and not self._done.done():
            self._done.set_result(None)
        self._ask()


async def load(url: str, wire: str, requests: int, connections: int) -> float:
    """Send all requests; returns the seconds it took."""
    parts, path, sent = urlsplit(url), PATHS[wire], body(wire)
    request = (
        f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer t\r\nx-trivet-attempt: a\r\n"
        f"anthropic-version: {VERSIONS[wire]}\r\ncontent-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n"
    ).encode() + sent
    assert parts.hostname is not None
    assert parts.port is not None
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    left = [requests, requests]
    start = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Caller(request, left, done), parts.hostname, parts.port)
    await done
    return time.perf_counter() - start


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Run and print one JSON line per wire."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--wire", choices=tuple(PATHS), action="append")
    arguments = parser.parse_args()
    with SimulatorProcess() as simulator:
        for wire in arguments.wire or PATHS:
            url = simulator.endpoints.providers[wire]
            base = f"http://{urlsplit(url).netloc}"
            asyncio.run(load(base, wire, 500, arguments.connections))
            before = cpu_seconds(simulator.pid)
            seconds = asyncio.run(load(base, wire, arguments.requests, arguments.connections))
            cpu = cpu_seconds(simulator.pid) - before
            figures = {
                "wire": wire,
                "requests": arguments.requests,
                "per_second": round(arguments.requests / seconds),
                "per_cpu_second": round(arguments.requests / cpu),
                "cpu_us_per_request": round(cpu / arguments.requests * 1e6, 1),
            }
            print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
