"""`generate` for as long as it takes: chains under a storm of kills, and large chords, audited.

    python -m tests.celery_shop.rounds --documents 500 --every 5 --chord 1000
    python -m tests.celery_shop.rounds --database postgres
    python -m tests.celery_shop.rounds --broker rabbitmq

With Redis as the shop's broker, Celery itself loses messages of killed workers (`losses.py`): they are counted, and sent
again as `docs/how-to/use-celery.md` says. With RabbitMQ none may be lost. Prints a line for each part, and what is wrong. Exit code 1 when anything is.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

from celery import chain, chord
from tests.celery_shop.bill import faults_of, unknown_calls
from tests.celery_shop.kills import kills
from tests.celery_shop.losses import Losses
from tests.celery_shop.running import Shop
from tests.databases import migrated
from tests.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.timing import until

from trivet.testing import QUICK, RunningTrivet, running_trivet

END_S = 1_800.0
CHORDS = 5
FLAT_MB = 16
"""Growth of a process that counts as none: it goes up and down by as much."""
MB = 1024 * 1024


def chains(
    shop: Shop, trivet: RunningTrivet, tasks: ModuleType, documents: int, every_s: float, *, durable: bool
) -> list[str]:
    """Run a chain for each document while workers of both sides are killed. Returns what is wrong.

    Args:
        durable: the shop's broker loses nothing; else what it loses is told apart, and sent again.
    """
    begun = time.monotonic()
    saved = [chain(*tasks.steps_of(number, f"long-{number}", "long")).delay() for number in range(documents)]
    losses, lost = Losses(shop, trivet, "long", saved), Counter[str]()
    with kills(shop, trivet, every_s=every_s) as killed, contextlib.suppress(AssertionError):
        if durable:
            until(lambda: not losses.unsaved(), "every document to be saved", END_S, pause_s=0.5)
        else:
            lost = losses.send_again(tasks, END_S)
    lines = [len(shop.lines(losses.name(number))) for number in range(documents)]
    say(
        f"chains: {sum(map(bool, lines))} of {documents} documents saved in {time.monotonic() - begun:.0f} s, "
        f"{sum(count > 1 for count in lines)} of them more than once; kills: {dict(killed)}; messages that the shop's "
        f"broker lost, sent again: {dict(lost)}; calls without a known end: {unknown_calls(trivet, 'long')}"
    )
    found = faults_of(trivet, "long", documents)
    return [*found, *(f"{losses.name(number)} was not saved" for number in losses.unsaved())]


def large_chord(shop: Shop, trivet: RunningTrivet, tasks: ModuleType, name: str, size: int) -> list[str]:
    """Run a chord on a worker with two slots. Returns what is wrong."""
    until(lambda: len(shop.family()) >= 3, "the worker's children")
    before, begun, most = memory(shop), time.monotonic(), 0
    header = [tasks.generate.s(prompt=f"{name}, part {number}", tenant=name, **tasks.TERMS) for number in range(size)]
    result = chord(header)(tasks.collect.s(name))
    while not result.ready() and time.monotonic() < begun + END_S:
        most = max(most, int(trivet.simulator.counts()["in_flight"]))
        time.sleep(0.5)
    after, lines = memory(shop), shop.lines(name)
    say(
        f"{name}: body ran {len(lines)} times with {lines} in {time.monotonic() - begun:.0f} s, at most {most} calls at "
        f"once for 2 slots; memory of the shop's worker and children before and after, MB: {before} and {after}"
    )
    found = faults_of(trivet, name, size)
    return found if lines == [str(size)] else [*found, f"the body of {name} saved {lines}"]


def chords(shop: Shop, trivet: RunningTrivet, tasks: ModuleType, size: int) -> list[str]:
    """Run chords of this size one after the other. Returns what is wrong.

    The first two load what each process needs once, and fill its allocator. From then on memory must be flat.
    """
    for provider in ("anthropic", "bedrock", "vertex"):
        trivet.simulator.latency(provider, median_s=10, p95_s=12)
    wrong, after = [], []
    for number in range(1, CHORDS + 1):
        wrong += large_chord(shop, trivet, tasks, f"chord-{number}", size)
        after.append(memory(shop))
    grown = [now - most for now, *before in zip(*after[::-1], strict=True) for most in [max(before[:-1])]]
    return [*wrong, f"memory grew by {grown} MB over the last chord"] if max(grown) > FLAT_MB else wrong


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
    parser.add_argument("--chord", type=int, default=1_000, help="tasks of each of five chords (default 1000; 0: none)")
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis", help="the shop's (default redis)")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="trivet-shop-")))
        url = ""
        if options.database == "postgres":
            url = migrated(held.enter_context(PostgresServer()).create_database("shop"))
        broker_url = ""
        if options.broker == "rabbitmq":
            broker_url = held.enter_context(RabbitServer(folder / "broker")).url
        shop = held.enter_context(
            Shop(folder / "shop", visibility_s=20, broker_url=broker_url, queue_type="quorum").running()
        )
        sections = {**QUICK, "worker": {"slots": 512}, "celery_apps.shop": {"broker_url": shop.broker_url}}
        trivet = held.enter_context(running_trivet(folder / "trivet", store_url=url, sections=sections))
        shop.start(trivet.settings.source)
        tasks = shop.module()
        for provider in ("anthropic", "bedrock", "vertex"):
            trivet.simulator.latency(provider, median_s=2, p95_s=5)
        wrong = []
        if options.documents:
            wrong += chains(shop, trivet, tasks, options.documents, options.every, durable=bool(broker_url))
        wrong += chords(shop, trivet, tasks, options.chord) if options.chord else []
    say("\n".join(wrong) or "all holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
