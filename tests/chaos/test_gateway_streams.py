"""Streams through the gateway while providers, workers, the gateway and Redis go away: whole, or honestly broken off.

`GATEWAY_STREAMS=1000` sends so many; the suite sends fewer.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from tests.chaos.conftest import MAIN
from tests.chaos.running import REALTIME, Chaos
from tests.chaos.streams import Seen, stream_all
from tests.faults.ledger import HAIKU
from tests.gateways import serves
from tests.processes import free_port

COUNT = int(os.environ.get("GATEWAY_STREAMS", "") or 100)
FIRST_S, TOKEN_S = 0.2, 0.015
"""Latency: to the first token, and of each token."""
REQUEST: dict[str, Any] = {"model": HAIKU, "max_tokens": 60}
GATEWAY = "gateway"


@pytest.fixture
def streams(chaos: Chaos) -> Iterator[Callable[[int], "Future[list[Seen]]"]]:
    """Sends streamed requests through a gateway of the system, in a thread."""
    port = free_port()
    chaos.local.start_gateway(port)
    chaos.wait_for(lambda: serves(port), "the gateway to serve")
    key = chaos.client_key(f"chaos-{port}")
    for route in MAIN.routes:
        chaos.simulator.latency(route, median_s=FIRST_S, per_output_token_s=TOKEN_S)
    headers = {"x-trivet-compliance": MAIN.tag}
    try:
        with ThreadPoolExecutor(1) as thread:
            yield lambda count: thread.submit(
                lambda: asyncio.run(stream_all(f"http://127.0.0.1:{port}", key, count, REQUEST, headers))
            )
    finally:
        chaos.local.supervisor.end(GATEWAY, 10)
        chaos.local.parts.remove(GATEWAY)
        chaos.latency(0.03)


def judged(chaos: Chaos, seen: list[Seen]) -> None:
    """Check that no stream is spliced, that what was shown whole is the stored answer, and that the books are right."""
    assert [one for one in seen if not one.honest] == []
    accepted = [one.job for one in seen if one.job is not None]
    findings = chaos.settle(accepted)
    assert findings.good, findings
    for one in seen:
        if one.complete:
            assert one.job is not None
            assert chaos.client.job(one.job).result(timeout=10).text == one.text


def test_streams_are_whole_or_say_so_while_bedrock_and_vertex_are_down_in_turn(
    chaos: Chaos, streams: Callable[[int], "Future[list[Seen]]"]
) -> None:
    _, bedrock, vertex = MAIN.routes
    over = threading.Event()

    def alternate() -> None:
        while not over.is_set():
            for route in (bedrock, vertex):
                chaos.simulator.down(route)
                over.wait(2.0)
                chaos.simulator.up(route)

    taking_down = threading.Thread(target=alternate)
    taking_down.start()
    try:
        seen = streams(COUNT).result()
    finally:
        over.set()
        taking_down.join()
    assert len(seen) == COUNT
    assert all(one.job is not None for one in seen)
    judged(chaos, seen)
    assert sum(one.complete for one in seen) > COUNT / 2


@pytest.mark.parametrize("killed", [GATEWAY, REALTIME, "broker"])
def test_streams_end_honestly_when_a_part_is_killed(
    chaos: Chaos, streams: Callable[[int], "Future[list[Seen]]"], killed: str
) -> None:
    coming = streams(max(30, COUNT // 5))
    chaos.wait_for(lambda: chaos.running_calls() >= 8, "streams to run")
    if killed == "broker":
        chaos.kill_broker()
    else:
        assert chaos.kill(killed) is not None
    seen = coming.result(timeout=150)
    chaos.wait_for(lambda: streams(1).result(timeout=100)[0].complete, "a whole stream after it")
    judged(chaos, seen)
