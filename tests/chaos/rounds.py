"""`make chaos MINUTES=10`: rounds of 2,000 jobs on four workers while a process is killed with -9 every five seconds.

    make chaos MINUTES=10                  as many rounds as fit, on SQLite and PostgreSQL by turns
    make chaos ROUNDS=20                   so many on each
    make chaos CHAOS="--database sqlite --seed 7"
    make bill                              5,000 jobs on each, with faults, hedges and repeated requests beside the kills

Every round has a system and a database of its own, with Trivet's default settings but for slots and cache, and is
audited at its end (`audit.py`). A line is printed for each, and at the end what can be pasted into docs/explanation/reliability.md.
Exit code 1 when a round found a fault; its folder, with all logs, is kept then.
"""

import argparse
import contextlib
import itertools
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import surroundings
from tests.chaos import doomed
from tests.chaos.audit import Findings
from tests.chaos.evidence import unended_jobs
from tests.chaos.producer import WHOLE_ANSWER, Plan, accepted_path, done_path
from tests.chaos.running import BULK, REALTIME, SCHEDULERS, Chaos, chaos_system
from tests.chaos.storm import Storm
from tests.databases import migrated
from tests.faults.ledger import HAIKU
from tests.faults.pool import Names, Shape
from tests.postgres import PostgresServer

from trivet_tasks.errors import StoreUnavailable

DATABASES = ("sqlite", "postgres")
ROUTES = Names("chaos", Shape(legs=3))
SECTIONS: dict[str, dict[str, float]] = {"worker": {"slots": 16}, "cache": {"enabled": True}}
"""Enough slots, and such slow providers, that a round takes half a minute, and answers for requests that repeat; the rest are
defaults."""
LATENCY_S, LATENCY_P95_S = 0.8, 2.0
BATCHES = 19
REALTIME_SHARE = 0.05
FAULTS = (
    {"kind": "overloaded", "share": 0.02},
    {"kind": "server_error", "share": 0.02},
    {"kind": "rate_limited", "share": 0.005, "retry_after_s": 1},
    {"kind": "reset", "share": 0.01},
    {"kind": "cut", "share": 0.01},
    {"kind": "garbled", "share": 0.01},
    {"kind": "refusal", "share": 0.01},
    {"kind": "max_tokens", "share": 0.01},
    {"kind": "latency", "share": 0.05, "factor": 4},
)
"""Faults of every provider with `--faults`. Refusals and cut answers are billed by their tokens, the rest is free."""
QUICK_S, QUICK_P95_S = 0.3, 0.7
"""Durations of a call there, so that a hedge has time to answer within the budget of realtime."""
QUICK_JOBS = 6
HEDGE_QUICK_S, HEDGE_SLOW_S = 0.1, 1.5
"""The slow one is longer than any route is used to, and leaves its hedge time within the budget of realtime."""
JOB_S = 30.0
HEDGED: dict[str, dict[str, float]] = {"classes.realtime": {"hedge_share": 0.5}}
PACE_S = 0.4
LIMIT_S = 600.0
"""A round that takes longer has lost a job."""
KINDS = ("bulk", "realtime", "scheduler", "producer")
HEAD = (
    "| round | database | jobs | ended | succeeded | calls | unknown | never called | killed: bulk, realtime, scheduler, producer "
    "| late results refused | quarantined jobs | faults met | hedges | cached | seconds | audit |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Round:
    """The result of one round."""

    number: int
    database: str
    submitted: int
    findings: Findings
    kills: Counter[str]
    refused: int
    seconds: float

    def __str__(self) -> str:
        found = self.findings
        cells = (
            self.number,
            self.database,
            found.jobs,
            found.ended,
            found.succeeded,
            found.calls,
            found.unknown,
            found.uncalled,
            ", ".join(str(self.kills[kind]) for kind in KINDS),
            self.refused,
            found.quarantined,
            found.faults_met,
            found.hedges,
            found.cached,
            f"{self.seconds:.0f}",
            "holds" if found.good else f"**{len(found.faults)} faults**",
        )
        return f"| {' | '.join(map(str, cells))} |"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.chaos.rounds", description="Rounds of chaos, audited.")
    made.add_argument("--minutes", type=float, default=10, help="begin no round after that (default 10)")
    made.add_argument("--rounds", type=int, default=None, help="so many on each database, however long it takes")
    made.add_argument("--database", choices=DATABASES, action="append", help="only this one")
    made.add_argument("--jobs", type=int, default=2_000, help="in each round (default 2000)")
    made.add_argument("--every", type=float, default=5.0, metavar="S", help="between two kills (default 5)")
    made.add_argument("--faults", action="store_true", help="providers that fail, hedges and repeated requests, too")
    made.add_argument("--seed", type=int, default=None, help="repeats the choice of victims")
    return made


def rounds_to_run(arguments: argparse.Namespace) -> Iterator[str]:
    """The databases of the rounds, by turns."""
    chosen = arguments.database or list(DATABASES)
    if arguments.rounds is not None:
        yield from itertools.chain.from_iterable([chosen] * arguments.rounds)
        return
    until = time.monotonic() + 60 * arguments.minutes
    for number, database in enumerate(itertools.cycle(chosen)):
        if number and time.monotonic() >= until:
            return
        yield database


def run_round(number: int, database: str, server: PostgresServer | None, seed: int, args: argparse.Namespace) -> Round:
    """One round, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"trivet-chaos-{number}-"))
    url = ""
    if server is not None:
        url = migrated(server.create_database(f"round_{number}"))
    with chaos_system(folder, url, [ROUTES], sections=SECTIONS | (HEDGED if args.faults else {})) as chaos:
        found = _storm(chaos, number, database, seed, args)
    if server is not None:
        server.drop_database(f"round_{number}")
    if found.findings.good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"seed {seed}, folder {folder}\n{found.findings}", file=sys.stderr)
    return found


def _storm(chaos: Chaos, number: int, database: str, seed: int, args: argparse.Namespace) -> Round:
    realtime = round(args.jobs * REALTIME_SHARE)
    size, left = divmod(args.jobs - realtime, BATCHES)
    plan = Plan("round", ROUTES.tag, BATCHES, size, realtime + left, PACE_S, repeated=args.faults)
    config = Path(chaos.settings.source)
    chaos.begin()
    chaos.latency(LATENCY_S, LATENCY_P95_S)
    if args.faults:
        chaos.latency(QUICK_S, QUICK_P95_S)
        for route in chaos.settings.routes:
            chaos.simulator.faults(route, FAULTS)
        chaos.arm(doomed.CALLING)  # whomever the storm kills: one dies in the middle of a call
    begun = time.monotonic()
    chaos.start_producer("producer", *plan.words())
    victims = (*BULK, REALTIME, *SCHEDULERS, "producer")
    with Storm(chaos, victims, every_s=args.every, seed=seed) as storm:
        with contextlib.suppress(TimeoutError):
            chaos.wait_for(lambda: done_path(config, plan.name).exists() and _all_ended(chaos), "the end", LIMIT_S)
        seconds = time.monotonic() - begun
    if args.faults:
        chaos.wait_died(doomed.CALLING)
    chaos.local.supervisor.end("producer", 5)
    for route in chaos.settings.routes:
        chaos.simulator.clear(route)  # probes are to succeed, so that all comes to rest
    accepted = accepted_path(config, plan.name).read_text(encoding="ascii").split()
    submitted = plan.total
    if args.faults:
        hedges = meet_hedges(chaos)
        accepted += hedges
        submitted += len(hedges)
    return Round(number, database, submitted, chaos.settle(accepted), storm.kills, chaos.refused(), seconds)


def meet_hedges(chaos: Chaos) -> list[str]:
    """Realtime jobs, some quick ones and a slow one by turns, until a call has got a hedge. Their ids.

    How many of a storm's few realtime calls are slow for their route is luck, and whether the route is known by then.
    """
    ids: list[str] = []

    def answered(latency_s: float) -> None:
        chaos.latency(latency_s)
        job = chaos.client.submit(
            f"Slow or quick, {len(ids)}",
            model=HAIKU,
            max_tokens=WHOLE_ANSWER,
            latency="realtime",
            compliance=[ROUTES.tag],
        )
        ids.append(job.id)
        job.result(timeout=JOB_S)

    def met() -> bool:
        for _ in range(QUICK_JOBS):
            answered(HEDGE_QUICK_S)
        answered(HEDGE_SLOW_S)
        return any(row.purpose == "hedge" for row in chaos.evidence().rows)

    chaos.wait_for(met, "a call with a hedge")
    return ids


def _all_ended(chaos: Chaos) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return unended_jobs(chaos.store) == 0
    return False


def summary(rounds: Sequence[Round], args: argparse.Namespace) -> str:
    """Return a summary of all rounds, to be pasted."""
    lines = [HEAD, *map(str, rounds), ""]
    for database in DATABASES:
        own = [one for one in rounds if one.database == database]
        if own:
            lines.append(
                f"- {database}: {len(own)} rounds, {sum(r.findings.jobs for r in own):,} jobs, "
                f"{sum(r.findings.jobs - r.findings.ended for r in own)} lost, {sum(r.findings.calls for r in own):,} calls, "
                f"{sum(r.findings.unknown for r in own)} unknown in {sum(r.kills.total() for r in own)} kills, "
                f"{sum(r.findings.cached for r in own):,} answered from the cache, "
                f"{sum(r.findings.settled_usd for r in own):.6f} USD settled and "
                f"{sum(r.findings.bill_usd for r in own):.6f} USD on the bill, "
                f"{sum(not r.findings.good for r in own)} rounds with faults"
            )
    lines.append(
        f"\n{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {platform.system()}, one process killed "
        f"every {args.every:g} s, {time.strftime('%Y-%m-%d', time.gmtime())}."
    )
    return "\n".join(lines)


def main() -> int:
    """Run the rounds and report."""
    surroundings.settle()
    args = parser().parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}; every round adds its number to it\n\n{HEAD}", flush=True)
    rounds: list[Round] = []
    with contextlib.ExitStack() as held:
        server: PostgresServer | None = None
        for number, database in enumerate(rounds_to_run(args), start=1):
            if database == "postgres" and server is None:
                server = held.enter_context(PostgresServer(durable=True))
            rounds.append(run_round(number, database, server if database == "postgres" else None, seed + number, args))
            print(rounds[-1], flush=True)
    print(f"\n--- for docs/explanation/reliability.md ---\n\n{summary(rounds, args)}")
    return int(any(not one.findings.good for one in rounds))


if __name__ == "__main__":
    sys.exit(main())
