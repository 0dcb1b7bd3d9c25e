"""The response cache under load: N requests of which a share repeats, four workers, on SQLite and PostgreSQL.

    python benchmarks/bench_cache.py [--requests 10000] [--repeats 0.3] [--workers 4] [--database SQLite]

Says how many calls the simulator saw, which is to be the number of different requests, what was saved, and how long it took.
"""

import argparse
import random
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from trivet_setup import databases, migrate

from trivet.testing import QUICK, running_trivet

TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 1_000}
SIMULATOR = ("--latency-median", "0.2", "--latency-p95", "0.5", "--seed", "1")
LIMIT_S = 1_800.0


def main() -> int:
    """Run it. 1 when other than one call was made for each different request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--repeats", type=float, default=0.3, help="the part that repeats an earlier request")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--database", choices=["SQLite", "PostgreSQL"], action="append")
    arguments = parser.parse_args()
    distinct = arguments.requests - round(arguments.requests * arguments.repeats)
    rng = random.Random(1)
    numbers = [*range(distinct), *(rng.randrange(distinct) for _ in range(arguments.requests - distinct))]
    rng.shuffle(numbers)
    wrong = 0
    for name, url, _ in databases(arguments.database, "cache"):
        migrate(url)
        wrong += _run(name, url, numbers, arguments.workers) != distinct
    return int(wrong > 0)


def _run(name: str, url: str, numbers: list[int], workers: int) -> int:
    sections = {**QUICK, "cache": {"enabled": True}}
    with (
        tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder,
        running_trivet(Path(folder), store_url=url, workers=workers, sections=sections, simulator=SIMULATOR) as trivet,
    ):
        began = time.monotonic()
        batch = trivet.client.submit_many([{"prompt": f"Document {n}"} for n in numbers], name="cache", **TERMS)
        batch.wait(timeout=LIMIT_S)
        took_s = time.monotonic() - began
        calls = len({call.attempt for call in trivet.simulator.iter_calls() if call.attempt})
        progress = batch.progress()
        state, by_job = trivet.admin.cache.state(), trivet.admin.costs.overview().jobs
    spent = sum((row.cost_usd for row in by_job), Decimal(0))
    stats, recorded = state.stats, sum(row.calls for row in by_job)
    print(
        f"{name}: {len(numbers):,} requests, {len(set(numbers)):,} different; {progress.succeeded:,} succeeded with "
        f"{calls:,} calls ({recorded:,} in the ledger) in {took_s:.0f} s on {workers} workers; "
        f"{state.answered_jobs:,} answered from the cache, {stats.coalesced:,} of them after waiting for an equal one; "
        f"spent ${spent:.6f}, saved ${state.saved_usd:.6f}; {stats.entries:,} answers in {stats.bytes / 1e6:.1f} MB"
    )
    return calls


if __name__ == "__main__":
    sys.exit(main())
