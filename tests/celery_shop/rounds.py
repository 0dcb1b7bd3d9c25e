"""`generate` for as long as it takes: chains under a storm of kills, and a large chord, audited.

    python -m tests.celery_shop.rounds --documents 500 --every 5 --chord 1000
    python -m tests.celery_shop.rounds --database postgres

Prints a line for each part, and what is wrong. Exit code 1 when anything is.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from celery import chain, chord, group
from tests.celery_shop.bill import faults_of, unknown_calls
from tests.celery_shop.kills import kills
from tests.celery_shop.running import Shop
from tests.databases import migrated
from tests.postgres import PostgresServer
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet

END_S = 1_800.0
MB = 1024 * 1024


def chains(shop: Shop, trivet: RunningTrivet, tasks: ModuleType, documents: int, every_s: float) -> list[str]:
    """Run a chain for each document while workers of both sides are killed. Returns what is wrong."""
    names = [f"document-{number}" for number in range(documents)]
    begun = time.monotonic()
    with kills(shop, trivet, every_s=every_s) as killed:
        group(
            chain(
                tasks.load.s(number), tasks.generate.s(prompt="{0}", tenant="long", **tasks.TERMS), tasks.save.s(name)
            )
            for number, name in enumerate(names)
        ).delay()
        with contextlib.suppress(AssertionError):
            until(lambda: all(shop.lines(name) for name in names), "every document to be saved", END_S)
    lines = [len(shop.lines(name)) for name in names]
    say(
        f"chains: {sum(map(bool, lines))} of {documents} documents saved in {time.monotonic() - begun:.0f} s, "
        f"{sum(count > 1 for count in lines)} of them more than once; kills: {dict(killed)}; "
        f"calls without a known end: {unknown_calls(trivet, 'long')}"
    )
    found = faults_of(trivet, "long", documents)
    return [*found, *(f"{name} was not saved" for name, count in zip(names, lines, strict=True) if not count)]


def large_chord(shop: Shop, trivet: RunningTrivet, tasks: ModuleType, size: int) -> list[str]:
    """Run a chord on a worker with two slots. Returns what is wrong."""
    for provider in ("anthropic", "bedrock", "vertex"):
        trivet.simulator.latency(provider, median_s=10, p95_s=12)
    until(lambda: len(shop.family()) >= 3, "the worker's children")
    before, begun, most = memory(shop), time.monotonic(), 0
    header = [tasks.generate.s(prompt=f"part {number}", tenant="chord", **tasks.TERMS) for number in range(size)]
    result = chord(header)(tasks.collect.s("chord"))
    while not result.ready() and time.monotonic() < begun + END_S:
        most = max(most, int(trivet.simulator.counts()["in_flight"]))
        time.sleep(0.5)
    after, lines = memory(shop), shop.lines("chord")
    say(
        f"chord: body ran {len(lines)} times with {lines} in {time.monotonic() - begun:.0f} s, at most {most} calls at "
        f"once for 2 slots; memory of the shop's worker and children before and after, MB: {before} and {after}"
    )
    found = faults_of(trivet, "chord", size)
    return found if lines == [str(size)] else [*found, f"the chord's body saved {lines}"]


def memory(shop: Shop) -> list[int]:
    """Return the resident memory of the worker and its children, in MB."""
    return [process.memory_info().rss // MB for process in shop.family()]


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run both parts. 1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.celery_shop.rounds", description="generate, audited.")
    parser.add_argument("--documents", type=int, default=500, help="chains (default 500; 0: none)")
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="between two kills (default 5)")
    parser.add_argument("--chord", type=int, default=1_000, help="tasks of the chord (default 1000; 0: none)")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="trivet-shop-")))
        url = ""
        if options.database == "postgres":
            url = migrated(held.enter_context(PostgresServer()).create_database("shop"))
        shop = held.enter_context(Shop(folder / "shop", visibility_s=20).running())
        sections = {**QUICK, "worker": {"slots": 512}, "celery_apps.shop": {"broker_url": shop.broker_url}}
        trivet = held.enter_context(running_trivet(folder / "trivet", store_url=url, sections=sections))
        shop.start(trivet.settings.source)
        tasks = shop.module()
        for provider in ("anthropic", "bedrock", "vertex"):
            trivet.simulator.latency(provider, median_s=2, p95_s=5)
        wrong = chains(shop, trivet, tasks, options.documents, options.every) if options.documents else []
        wrong += large_chord(shop, trivet, tasks, options.chord) if options.chord else []
    say("\n".join(wrong) or "all holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
