"""CPU of a request through the gateway's own process, against a bare Starlette echo, and memory of waiting connections.

    python benchmarks/bench_gateway.py [--requests 2000] [--connections 64] [--waiting 2000] [--rounds 3]

The load comes from this process; gateway and echo are processes of their own, in the same run by turns. Their CPU time is
read from the system, so the figures hold where others use the machine, too; a busy machine makes every one of them larger.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil

from trivet.testing import QUICK, RunningTrivet, running_trivet

HERE = Path(__file__).parent
START_S = 60.0
HELD_S = 3.0
"""Latency of the providers in the measurement of memory: less than an interactive call may take for its first token."""
SECTIONS = {**QUICK, "worker": {**QUICK["worker"], "slots": 256}}


def request_of(key: str, number: int, stream: bool = False) -> bytes:
    """Return a request as bytes."""
    words = f"Sum this up in one sentence, number {number}: " + "a short document. " * 20
    body = orjson.dumps(
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 64,
            "stream": stream,
            "messages": [{"role": "user", "content": words}],
        }
    )
    head = (
        f"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One connection that is kept, for plain answers with a content-length, or streamed ones."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> int:
        """Send a request and read the whole answer. Returns its status."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        if "content-length" in fields:
            await self._reader.readexactly(int(fields["content-length"]))
        else:
            while size := int(await self._reader.readline(), 16):
                await self._reader.readexactly(size + 2)
            await self._reader.readline()
        return int(lines[0].split()[1])


async def load(port: int, key: str, requests: int, connections: int, stream: bool) -> float:
    """Send the requests over so many connections. Returns requests a second."""
    numbers = iter(range(requests))

    async def keep_asking() -> None:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        for number in numbers:
            status = await connection.ask(request_of(key, number, stream))
            assert status == 200, status

    begun = time.monotonic()
    await asyncio.gather(*(keep_asking() for _ in range(connections)))
    return requests / (time.monotonic() - begun)


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def measured(process: psutil.Process, port: int, key: str, requests: int, connections: int, stream: bool) -> float:
    """Return the milliseconds of CPU of a request."""
    before = cpu_s(process)
    pace = asyncio.run(load(port, key, requests, connections, stream))
    spent = (cpu_s(process) - before) / requests * 1_000
    print(f"    {spent:.2f} ms of CPU a request, {pace:.0f} requests/s")
    return spent


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(command: list[str], port: int) -> Iterator[psutil.Process]:
    """Run a server, and stop it at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_S
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command} does not serve")
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


async def hold(port: int, key: str, count: int, process: psutil.Process) -> tuple[float, float]:
    """Open connections with a request each that waits. Returns MiB of the process before and while they wait."""
    before = process.memory_info().rss / 2**20
    opened = []
    for first in range(0, count, 100):
        for number in range(first, min(count, first + 100)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_of(key, number))
            opened.append((reader, writer))
        await asyncio.sleep(0.02)
    most = before
    for _ in range(40):
        await asyncio.sleep(0.25)
        most = max(most, process.memory_info().rss / 2**20)
    for _, writer in opened:
        writer.close()
    return before, most


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--waiting", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_trivet(Path(folder), simulator=("--seed", "1"), sections=SECTIONS) as trivet,
    ):
        run(trivet, given.requests, given.connections, given.waiting, given.rounds)


def run(trivet: RunningTrivet, requests: int, connections: int, waiting: int, rounds: int) -> None:
    """Measure by turns, then hold connections."""
    key = trivet.admin.keys.create("bench").token.text
    port, echo_port = free_port(), free_port()
    gateway_command = [
        sys.executable, "-m", "trivet", "--config", str(trivet.settings.source), "serve", "--port", str(port)
    ]  # fmt: skip
    echo_command = [sys.executable, str(HERE / "echo_server.py"), str(echo_port)]
    with served(gateway_command, port) as gateway, served(echo_command, echo_port) as echo:
        asyncio.run(load(port, key, 200, connections, False))  # what is imported and opened at first
        found: dict[str, list[float]] = {"echo": [], "gateway": [], "gateway, streamed": []}
        for number in range(1, rounds + 1):
            print(f"round {number}")
            for name, process, where, stream in (
                ("echo", echo, echo_port, False),
                ("gateway", gateway, port, False),
                ("gateway, streamed", gateway, port, True),
            ):
                print(f"  {name}")
                found[name].append(measured(process, where, key, requests, connections, stream))
        for provider in ("anthropic", "bedrock", "vertex"):
            trivet.simulator.latency(provider, median_s=HELD_S)
        before, most = asyncio.run(hold(port, key, waiting, gateway))
    for name, values in found.items():
        print(
            f"{name}: median {statistics.median(values):.2f} ms of CPU a request ({min(values):.2f}-{max(values):.2f})"
        )
    print(f"memory: {before:.0f} MiB before, {most:.0f} MiB with {waiting:,} requests that wait")


if __name__ == "__main__":
    main()
