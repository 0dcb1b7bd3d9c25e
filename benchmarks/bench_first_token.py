"""Time to the first token: `client.stream` against the SDK's own call, by turns, one at a time, on an idle machine.

    python benchmarks/bench_first_token.py [--calls 200]

One Trivet on SQLite with the embedded Valkey and one worker process of the realtime lane; the simulator begins an answer at
once. The direct call is `client.messages.stream` to the same simulator. Time counts from the call to the first text. Exit
code 1 when the difference of the medians is over 15 ms. Other work on the machine counts several times: a streamed call goes
through five processes, the direct one through two.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import anthropic
from rich.console import Console
from rich.table import Table
from running import machine, save

from trivet import Client
from trivet.testing import RunningTrivet, running_trivet

GOAL_MS = 15.0
MODEL = "claude-haiku-4-5"
WARM = 20
PAUSE_S = 0.1
"""Seconds between two pairs of calls: schedulers and workers finish with the one before, as on an idle machine."""


def direct_ms(sdk: anthropic.Anthropic, number: int) -> float:
    """Return the milliseconds to the first text of the SDK's own call."""
    began = time.perf_counter()
    messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": f"Direct {number}"}]
    with sdk.messages.stream(model=MODEL, max_tokens=60, messages=messages) as stream:
        next(iter(stream.text_stream))
        spent = time.perf_counter() - began
        stream.until_done()
    return 1_000 * spent


def streamed_ms(client: Client, number: int) -> tuple[float, float]:
    """Return the milliseconds to the first text of `client.stream`, and those of its submit."""
    began = time.perf_counter()
    with client.stream(f"Streamed {number}", model=MODEL, max_tokens=60, compliance=["direct"]) as stream:
        submitted = time.perf_counter() - began
        next(iter(stream.text_stream))
        spent = time.perf_counter() - began
        stream.until_done()
    return 1_000 * spent, 1_000 * submitted


def measure(trivet: RunningTrivet, calls: int) -> tuple[list[float], list[float], list[float]]:
    """Return the times of direct calls, of streamed ones, and of their submits, in milliseconds."""
    route = trivet.settings.routes["anthropic"]
    direct: list[float] = []
    streamed: list[float] = []
    submits: list[float] = []
    with anthropic.Anthropic(api_key="simulated-key", base_url=route.base_url, max_retries=0) as sdk:
        for number in range(WARM + calls):
            if number == WARM:
                direct, streamed, submits = [], [], []
            time.sleep(PAUSE_S)
            for ours in (number % 2 == 0, number % 2 != 0):
                if ours:
                    spent, submitted = streamed_ms(trivet.client, number)
                    streamed.append(spent)
                    submits.append(submitted)
                else:
                    direct.append(direct_ms(sdk, number))
    return direct, streamed, submits


def main() -> int:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=200)
    arguments = parser.parse_args()
    simulator = "--latency-median", "0", "--seed", "1"
    with (
        tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder,
        running_trivet(
            Path(folder),
            simulator=simulator,
            sections={"health": {"idle_probe_s": 0}},
            route_settings={"anthropic": {"compliance": ["direct"]}},
        ) as trivet,
    ):
        direct, streamed, submits = measure(trivet, arguments.calls)
    table = Table("", "least, ms", "median, ms", "p95, ms", title="Time to the first token")
    for name, times in (("the SDK", direct), ("client.stream", streamed), ("of it: submit", submits)):
        shown = min(times), statistics.median(times), statistics.quantiles(times, n=20)[-1]
        table.add_row(name, *(f"{time_ms:.1f}" for time_ms in shown))
    Console().print(table)
    difference = statistics.median(streamed) - statistics.median(direct)
    print(f"difference of the medians: {difference:.1f} ms (goal: at most {GOAL_MS:g})")
    save("first-token", {**machine(), "direct_ms": direct, "streamed_ms": streamed, "difference_ms": difference})
    return int(difference > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
