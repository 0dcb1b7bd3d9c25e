"""CPU of a streamed call against a plain one: a worker's, by the length of the answer, in turn and repeated.

    python benchmarks/bench_streams.py [--rounds 3] [--jobs 1000] [--wire anthropic] [--tokens-per-s 0] [--tokens 300 3000]

One worker on SQLite. The simulator sends an event for every three tokens: all at once, or at the given pace. Its own CPU
is not counted. A ratio is that of a streamed turn to the plain one of the same round and length. Exit code 1 when a
ratio's median is over 1.5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import orjson
from load import LATENCY_S
from process_figures import cpu_seconds
from rich.console import Console
from rich.table import Table
from running import machine, save
from setups import FINISH_S, Wire
from trivet_setup import TrivetSetup

from trivet_simulator import SimulatorProcess
from trivet_simulator.content import CHARS_PER_TOKEN

LENGTHS = (300, 1_000, 3_000)
"""Tokens of an answer."""
GOAL = 1.5
WORD = "harbour "


def cpu_ms(wire: Wire, jobs: int, *, stream: bool) -> float:
    """Return a worker's CPU a job, in milliseconds."""
    with TrivetSetup(wire, stream=stream) as setup:
        _run(setup, 200)
        worker = setup.processes()["worker"]
        before = cpu_seconds(worker)
        _run(setup, jobs)
        spent = cpu_seconds(worker) - before
        assert {call.stream for call in wire.control.calls()} == {stream}
    return 1000 * spent / jobs


def _run(setup: TrivetSetup, jobs: int) -> None:
    setup.wire.control.reset()
    setup.producer.ask("send", jobs=jobs, latency="async")  # a call may take 2 min
    done = setup.producer.ask("wait", timeout_s=FINISH_S)
    assert done["succeeded"] == jobs, done


def turns(tokens: int, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Return plain and streamed CPU a job, of each round."""
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        replies = Path(folder) / "replies.json"
        text = WORD * (round(tokens * CHARS_PER_TOKEN) // len(WORD))
        replies.write_bytes(orjson.dumps({"reply": text}))
        per_token_s = 1 / arguments.tokens_per_s if arguments.tokens_per_s else 0.0
        options = "--latency-median", str(LATENCY_S), "--latency-per-token", str(per_token_s), "--replies", str(replies)
        with SimulatorProcess(*options) as simulator:
            wire = Wire(arguments.wire, simulator)
            found = []
            for number in range(arguments.rounds):
                order = (False, True) if number % 2 == 0 else (True, False)
                spent = {stream: cpu_ms(wire, arguments.jobs, stream=stream) for stream in order}
                found.append((spent[False], spent[True]))
            return found


def main() -> int:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--wire", default="anthropic", choices=("anthropic", "bedrock", "vertex"))
    parser.add_argument("--tokens-per-s", type=float, default=0.0, help="0: the whole stream at once")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(LENGTHS), help="lengths of the answers")
    arguments = parser.parse_args()
    table = Table(title=f"Worker CPU in ms a job, {arguments.wire}", title_justify="left")
    for title in ("tokens", "plain", "streamed", "ratio"):
        table.add_column(title, justify="right")
    found = {tokens: turns(tokens, arguments) for tokens in arguments.tokens}
    ratios = {tokens: statistics.median(streamed / plain for plain, streamed in of) for tokens, of in found.items()}
    for tokens, of in found.items():
        plain, streamed = (statistics.median(column) for column in zip(*of, strict=True))
        table.add_row(f"{tokens:,}", f"{plain:.2f}", f"{streamed:.2f}", f"{ratios[tokens]:.2f}")
    Console().print(table)
    turns_by_length = {str(tokens): of for tokens, of in found.items()}
    save("streams", {"machine": machine(), "options": vars(arguments), "turns": turns_by_length})
    return 0 if max(ratios.values()) <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
