"""Two good workers, by turns alone and beside a third whose proxy is dead: how much longer a batch takes.

    make bench-dead-proxy [DEAD_PROXY="--jobs 1500 --rounds 3"]

The third worker is started anew for each of its rounds, so it knows nothing of its proxy when the batch begins. Every figure
is the wall-clock time of one batch, from submit to its last end. Exit code 1 when the median ratio is above 1.3, when a
job failed, or when a route was taken out of service.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import time
from collections import Counter
from contextlib import closing
from typing import Any

from running import READY_S, Running, machine, running, save
from sqlalchemy import select

from trivet_store import schema
from trivet_store.database.engine import Store

MODEL = "claude-haiku-4-5"
MOST = 1.3
"""Most times as long that a batch may take beside the bad worker."""
PATIENCE_S = 300.0
STOP_S = 30.0


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with (
        closing(socket.socket()) as dead,
        running(
            workers=2, simulator=("--latency-median", "1.0", "--seed", "1"), sections={"cache": {"enabled": False}}
        ) as trivet,
    ):
        dead.bind(("127.0.0.1", 0))  # held, and nothing listens there
        proxy = f"http://127.0.0.1:{dead.getsockname()[1]}"
        batch(trivet, "warm-up", 100)
        good, bad = [], []
        for number in range(given.rounds):
            good.append(batch(trivet, f"good-{number}", given.jobs))
            bad.append(beside_a_bad_worker(trivet, number, given.jobs, proxy))
        opened, outcomes = closed_routes(trivet), calls(trivet)
    ratios = [beside / without for beside, without in zip(bad, good, strict=True)]
    figures: dict[str, Any] = {
        "jobs": given.jobs, "good_s": good, "beside_s": bad, "ratios": ratios,
        "median_ratio": statistics.median(ratios), "routes_opened": opened, "calls": outcomes,
    }  # fmt: skip
    print(f"{given.jobs} jobs, two good workers: {median(good)} s; beside one with a dead proxy: {median(bad)} s")
    print(f"ratio, median of {given.rounds}: {figures['median_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"routes taken out of service: {', '.join(opened) or 'none'}; calls: {outcomes}")
    save("dead-proxy", {"machine": machine(), "figures": figures})
    return 0 if figures["median_ratio"] <= MOST and not opened else 1


def beside_a_bad_worker(trivet: Running, number: int, jobs: int, proxy: str) -> float:
    """Run a batch while a third worker is there that has met no call yet; seconds it took."""
    name = f"worker-bad{number}-bulk"
    trivet.local.start_part(name, "worker", "--lane", "bulk", env={"HTTP_PROXY": proxy, "NO_PROXY": "", "no_proxy": ""})
    trivet.local.supervisor.wait_ready(name, READY_S)
    took_s = batch(trivet, f"beside-{number}", jobs)
    trivet.local.supervisor.end(name, STOP_S)
    return took_s


def batch(trivet: Running, name: str, jobs: int) -> float:
    """Run one batch to its end; seconds it took. SystemExit when a job failed."""
    requests = ({"prompt": f"Describe trivet {number}.", "key": f"{name}/{number}"} for number in range(jobs))
    begun = time.monotonic()
    work = trivet.client.submit_many(requests, name=name, model=MODEL, max_tokens=100, latency="batch")
    states = Counter(result.status for result in work.results(timeout=PATIENCE_S))
    took_s = time.monotonic() - begun
    if states != {"succeeded": jobs}:
        raise SystemExit(f"{name}: {dict(states)} of {jobs}")
    return took_s


def closed_routes(trivet: Running) -> list[str]:
    """Return the routes that were taken out of service."""
    events = schema.events
    with closing(Store(trivet.settings.store_url)) as store, store.read() as connection:
        rows = connection.execute(select(events.c.route, events.c.kind)).all()
    return sorted({route for route, kind in rows if kind == "open"})


def calls(trivet: Running) -> dict[str, int]:
    """Return the number of calls by outcome."""
    outcome = schema.attempts.c.outcome
    with closing(Store(trivet.settings.store_url)) as store, store.read() as connection:
        return dict(Counter(str(one) for one in connection.execute(select(outcome)).scalars()))


def median(seconds: list[float]) -> str:
    """For a person."""
    return f"{statistics.median(seconds):.1f}"


if __name__ == "__main__":
    sys.exit(main())
