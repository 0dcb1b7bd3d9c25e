"""Batches with two documents that every route refuses, beside batches without: how much longer they take.

    make bench-poison [POISON="--jobs 600 --rounds 3"]

A firewall answers the two documents with a page instead of an answer, on all routes, by turns with batches of the
same size in which nothing is wrong. Every figure is the wall-clock time of one batch, from submit to its last end.
Exit code 1 when the median ratio is above 1.3, when a good document failed, or when a route was taken out of service.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from running import Running, machine, running, save
from sqlalchemy import select

from trivet_store import schema
from trivet_store.database.engine import Store

MODEL = "claude-haiku-4-5"
POISONED = 2
MOST = 1.3
"""Most times as long that a batch with poisoned documents may take."""
PATIENCE_S = 300.0


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with running(
        workers=2, simulator=("--latency-median", "1.0", "--seed", "1"), sections={"cache": {"enabled": False}}
    ) as trivet:
        for provider in ("anthropic", "bedrock", "vertex"):
            trivet.simulator.fault(provider, "firewall_page_403", contains="POISON")
        batch(trivet, "warm-up", 100, 0)
        good, bad = [], []
        for number in range(given.rounds):
            good.append(batch(trivet, f"good-{number}", given.jobs, 0))
            bad.append(batch(trivet, f"bad-{number}", given.jobs, POISONED))
        opened = closed_routes(trivet)
    ratios = [with_poison / without for with_poison, without in zip(bad, good, strict=True)]
    figures: dict[str, Any] = {
        "jobs": given.jobs, "good_s": good, "poisoned_s": bad, "ratios": ratios,
        "median_ratio": statistics.median(ratios), "routes_opened": opened,
    }  # fmt: skip
    print(f"{given.jobs} documents: {median(good)} s; with {POISONED} that are refused: {median(bad)} s")
    print(f"ratio, median of {given.rounds}: {figures['median_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"routes taken out of service: {', '.join(opened) or 'none'}")
    save("poison", {"machine": machine(), "figures": figures})
    return 0 if figures["median_ratio"] <= MOST and not opened else 1


def batch(trivet: Running, name: str, jobs: int, poisoned: int) -> float:
    """Run one batch to its end, the poisoned documents in its middle; seconds it took. SystemExit when a good one failed."""
    words = ["POISON " if jobs // 2 <= number < jobs // 2 + poisoned else "" for number in range(jobs)]
    requests = (
        {"prompt": f"{word}Describe trivet {number}.", "key": f"{name}/{number}"} for number, word in enumerate(words)
    )
    begun = time.monotonic()
    work = trivet.client.submit_many(requests, name=name, model=MODEL, max_tokens=100, latency="batch")
    states = [result.status for result in work.results(timeout=PATIENCE_S)]
    took_s = time.monotonic() - begun
    if len(states) != jobs or states.count("succeeded") != jobs - poisoned:
        raise SystemExit(f"{name}: {states.count('succeeded')} of {jobs} succeeded, {poisoned} were to fail")
    return took_s


def closed_routes(trivet: Running) -> list[str]:
    """The routes that were taken out of service."""
    events = schema.events
    store = Store(trivet.settings.store_url)
    with store.read() as connection:
        rows = connection.execute(select(events.c.route, events.c.kind)).all()
    store.close()
    return sorted({route for route, kind in rows if kind == "open"})


def median(seconds: list[float]) -> str:
    """For a person."""
    return f"{statistics.median(seconds):.1f}"


if __name__ == "__main__":
    sys.exit(main())
