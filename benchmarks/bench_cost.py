"""Cost of a job: the bare SDK loop, Trivet, hand-made Celery, LiteLLM and taskiq over one simulator, in turn and repeated.

    make bench [BENCH="--quick"]

One simulator process answers all, each call after 0.2 s; its own CPU is not counted, it shares the machine's cores. In
every round each set-up is started anew, does a few jobs to get warm, then those that count. A ratio is that of a turn to
the bare loop of the same round and wire; a figure over rounds is a median with its least and greatest. Exit code 1 when a
goal was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from bar_chart import bar_chart
from cost_figures import Goal, Holding, Line, Realtime, Turn, as_document, goals, lines
from load import LATENCY_S
from process_figures import cpu_seconds, now_mb, peak_mb
from rich.console import Console
from rich.table import Table
from running import RESULTS, machine, save
from setups import FINISH_S, PEERS, Setup, Wire, bare, celery, litellm, taskiq
from trivet_setup import TrivetSetup, postgres_server

from trivet_simulator import SimulatorProcess

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

WIRES = ("anthropic", "bedrock", "vertex")
THREADS, GREENLETS, PROCESSES = 100, 100, 16
HOLD_S = 12.0
"""Time for which the simulator keeps the large calls in flight."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A set-up, how many jobs it gets, and how many of them to get warm."""

    name: str
    wire: str
    make: Callable[[], Setup]
    jobs: int
    warm: int
    pick_ups: int = 0
    """Jobs handed over one by one."""


def contestants(
    simulator: SimulatorProcess, postgres: PostgresServer, arguments: argparse.Namespace
) -> list[Contestant]:
    """All, in the order of a round."""
    jobs, slow, picked = arguments.jobs, arguments.jobs // 4, arguments.pick_ups
    found: list[Contestant] = []
    for name in WIRES:
        wire = Wire(name, simulator)
        found.append(Contestant("bare SDK loop", name, lambda wire=wire: bare(wire), jobs, 300))  # type: ignore[misc]
        for workers in (1, 2) if name == "anthropic" or arguments.all_wires else (1,):
            count = f"{workers} worker{'s' if workers > 1 else ''}"
            for database, server in (("SQLite", None), ("PostgreSQL", postgres)):
                found.append(
                    Contestant(
                        f"Trivet, {database}, {count}",
                        name,
                        lambda wire=wire, workers=workers, server=server: TrivetSetup(  # type: ignore[misc]
                            wire, workers=workers, postgres=server
                        ),
                        jobs,
                        300,
                        picked if name == "anthropic" and workers == 1 else 0,
                    )
                )
    wire = Wire("anthropic", simulator)
    found += [
        Contestant("Celery, threads", "anthropic", lambda: celery(wire, "threads", THREADS), 2 * slow, 200, picked),
        Contestant("Celery, gevent", "anthropic", lambda: celery(wire, "gevent", GREENLETS), 2 * slow, 200, picked),
        Contestant("Celery, prefork", "anthropic", lambda: celery(wire, "prefork", PROCESSES), slow, 64, picked),
        Contestant("LiteLLM Router", "anthropic", lambda: litellm(wire), slow, 100),
        Contestant("taskiq", "anthropic", lambda: taskiq(wire), 2 * slow, 200, picked),
    ]
    return [one for one in found if not arguments.only or any(word in one.name for word in arguments.only)]


def turn_of(one: Contestant, number: int, simulator: SimulatorProcess) -> Turn:
    """Start it, warm it, measure it, stop it."""
    control = simulator.control
    with one.make() as setup:
        setup.run(one.warm)
        roots = setup.processes()
        before = {part: cpu_seconds(pids) for part, pids in roots.items()}
        control.reset()
        handing_over = setup.run(one.jobs)
        cpu = {part: (cpu_seconds(pids) - before[part]) / one.jobs for part, pids in roots.items()}
        peak = {part: peak_mb(pids) for part, pids in roots.items()}
        calls = control.calls()
        assert len(calls) == one.jobs, f"{one.name}: {len(calls)} calls for {one.jobs} jobs"
        bad = sum(call.status != 200 for call in calls)
        assert not bad, f"{one.name}: {bad} calls failed"
        seconds = max(call.finished or 0 for call in calls) - min(call.started for call in calls)
        picked = setup.pick_up(one.pick_ups) if one.pick_ups else None
    return Turn(
        one.name,
        one.wire,
        number,
        one.jobs,
        cpu,
        one.jobs / seconds,
        peak,
        one.jobs / handing_over if handing_over else None,
        tuple(picked or ()),
    )


def enqueue_turns(
    simulator: SimulatorProcess, postgres: PostgresServer, arguments: argparse.Namespace
) -> dict[str, float]:
    """Jobs handed over a second with no worker in the way: `.delay()`, and `submit_many` on each database."""
    wire = Wire("anthropic", simulator)
    found = {}
    with celery(wire, "threads", 1) as setup:
        setup.stop_worker()
        found["delay"] = arguments.delayed / setup.hand_over(arguments.delayed)
    for database, server in (("SQLite", None), ("PostgreSQL", postgres)):
        with TrivetSetup(wire, workers=0, postgres=server) as trivet:
            trivet.hand_over(1_000)
            found[database] = arguments.enqueued / trivet.hand_over(arguments.enqueued)
    return found


def realtime_of(
    simulator: SimulatorProcess, postgres: PostgresServer | None, arguments: argparse.Namespace
) -> Realtime:
    """Realtime jobs, and direct calls between them, while a batch runs beside them in the bulk lane."""
    wire = Wire("anthropic", simulator)
    with TrivetSetup(wire, postgres=postgres, lanes=("realtime", "bulk")) as trivet:
        trivet.run(300)
        trivet.producer.ask("realtime", jobs=10, every_s=0.1)
        beside = trivet.second_producer()
        beside.ask("send", jobs=arguments.beside)
        found = trivet.producer.ask("realtime", jobs=arguments.realtime, every_s=0.1)
        left = arguments.beside - beside.ask("progress")["ended"]
        beside.ask("wait", timeout_s=FINISH_S)
    return Realtime(
        "PostgreSQL" if postgres else "SQLite", tuple(found["took"]), tuple(found["direct"]), len(found["failed"]), left
    )


def holding_of(simulator: SimulatorProcess, calls: int, characters: int) -> Holding:
    """One worker process with so many large calls in flight at once."""
    wire = Wire("anthropic", simulator)
    with TrivetSetup(wire, slots=calls) as trivet:
        trivet.run(100)
        worker = trivet.processes()["worker"]
        idle = now_mb(worker)
        wire.control.reset()
        wire.control.latency("anthropic", median_s=HOLD_S)
        try:
            trivet.producer.ask("send", jobs=calls, characters=characters, latency="async")  # a call may take 2 min
            wire.control.wait_for_calls(calls, HOLD_S, of="started")
            trivet.producer.ask("wait", timeout_s=FINISH_S)
        finally:
            wire.control.reset()
        return Holding(calls, characters, peak_mb(worker), idle)


def main_table(of: Sequence[Line]) -> Table:
    """Every set-up."""
    made = Table(title="CPU in ms a job; ratios to the bare loop of the same round", title_justify="left")
    for title in _HEADS:
        made.add_column(title, justify="left" if title in ("set-up", "wire") else "right")
    for line in of:
        made.add_row(*_cells(line))
    return made


_HEADS = (
    "set-up", "wire", "worker", "/ bare", "all", "/ bare", "jobs/s", "worker MB", "enqueued/s", "pick-up p50, p95, p99 ms",
)  # fmt: skip


def _cells(line: Line) -> list[str]:
    picked = ", ".join(f"{line.pick_up[name] * 1000:.0f}" for name in ("p50", "p95", "p99")) if line.pick_up else ""
    return [
        line.setup,
        line.wire,
        line.worker_cpu.shown(1000),
        line.worker_ratio.shown() if line.worker_ratio else "",
        line.whole_cpu.shown(1000),
        line.whole_ratio.shown() if line.whole_ratio else "",
        line.jobs_per_s.shown(digits=0),
        line.worker_mb.shown(digits=0),
        line.enqueue_per_s.shown(digits=0) if line.enqueue_per_s else "",
        picked,
    ]


def goal_table(of: Sequence[Goal]) -> Table:
    """Every goal."""
    made = Table(title="Goals", title_justify="left")
    for title in ("goal", "wanted", "found", ""):
        made.add_column(title)
    for goal in of:
        made.add_row(goal.what, goal.wanted, goal.found, "reached" if goal.reached else "[red]missed[/]")
    return made


def markdown(of: Sequence[Line], reached: Sequence[Goal], ran_on: dict[str, object]) -> str:
    """A block for docs/benchmarks.md."""
    versions = ", ".join(f"{name} {value}" for name, value in ran_on.items() if name not in ("when", "command"))
    rows = ["| " + " | ".join(_HEADS) + " |", "|" + "---|" * len(_HEADS)]
    rows += ["| " + " | ".join(_cells(line)) + " |" for line in of]
    rows += ["", "| goal | wanted | found | |", "|---|---|---|---|"]
    rows += [f"| {g.what} | {g.wanted} | {g.found} | {'reached' if g.reached else 'missed'} |" for g in reached]
    return "\n".join([f"Last result ({ran_on['when']}; {versions}; `{ran_on['command']}`):", "", *rows, ""])


def versions() -> dict[str, str]:
    """Of what was compared."""
    found = {name: metadata.version(name) for name in ("anthropic", "aiohttp", "sqlalchemy")}
    for peer, package in (("celery", "celery"), ("litellm", "litellm"), ("taskiq", "taskiq"), ("celery", "gevent")):
        code = f"from importlib.metadata import version; print(version({package!r}))"
        done = subprocess.run(
            [str(PEERS / peer / "bin/python"), "-c", code], capture_output=True, text=True, check=False
        )
        found[package] = done.stdout.strip() or "?"
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--quick", action="store_true", help="one round of fewer jobs, in about 3 minutes")
    made.add_argument("--rounds", type=int, help="default 3")
    made.add_argument("--jobs", type=int, help="of a fast set-up (default 3000); slow ones get a half or a quarter")
    made.add_argument(
        "--only",
        action="append",
        metavar="WORD",
        help="only set-ups whose name holds this; the rest of the run is left out",
    )
    made.add_argument(
        "--all-wires", action="store_true", help="two workers on every wire, not on the Anthropic API's alone"
    )
    return made


def settle(arguments: argparse.Namespace) -> None:
    """Fill in what quick runs do less of."""
    quick = arguments.quick
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    arguments.jobs = arguments.jobs or (800 if quick else 3_000)
    arguments.pick_ups = 20 if quick else 60
    arguments.delayed = 1_000 if quick else 3_000
    arguments.enqueued = 6_000 if quick else 30_000
    arguments.beside = 2_500 if quick else 10_000
    arguments.realtime = 40 if quick else 200
    arguments.held = 1_000


@contextlib.contextmanager
def ending_well() -> Iterator[None]:
    """SIGTERM stops what was started, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    """Run, print, save."""
    arguments = parser().parse_args()
    settle(arguments)
    console = Console(width=max(190, Console().width))
    turns: list[Turn] = []
    enqueued: list[dict[str, float]] = []
    realtime: list[Realtime] = []
    holding = None
    begun = time.monotonic()
    with ending_well(), contextlib.ExitStack() as held:
        simulator = held.enter_context(SimulatorProcess("--latency-median", str(LATENCY_S), "--seed", "1"))
        postgres = held.enter_context(postgres_server())
        everybody = contestants(simulator, postgres, arguments)
        for number in range(1, arguments.rounds + 1):
            # there and back, so that nobody always follows the same one
            for one in everybody if number % 2 else everybody[::-1]:
                turns.append(turn_of(one, number, simulator))
                console.print(
                    f"[dim]{time.monotonic() - begun:4.0f} s  round {number}: {one.name}, {one.wire}: worker {turns[-1].worker_cpu * 1000:.2f} ms[/]"
                )
            if not arguments.only:
                enqueued.append(enqueue_turns(simulator, postgres, arguments))
        if not arguments.only:
            realtime = [realtime_of(simulator, server, arguments) for server in (None, postgres)]
            holding = holding_of(simulator, arguments.held, 40_000)
    of = lines(turns)
    reached = goals(of, enqueued, realtime, holding)
    console.print(main_table(of))
    console.print(goal_table(reached))
    ran_on = machine(**versions())
    document = as_document(turns, of, enqueued, realtime, holding)
    path = save("cost", {"machine": ran_on, "options": vars(arguments), **document})
    chart = RESULTS / "cost.svg"
    bars = [
        (
            f"{line.setup}" + (f" ({line.wire})" if line.wire != "anthropic" else ""),
            {part: value * 1000 for part, value in line.parts.items()},
        )
        for line in of
    ]
    chart.write_text(bar_chart("CPU a job, by process", "ms", bars), encoding="utf-8")
    block = RESULTS / "cost.md"
    block.write_text(markdown(of, reached, ran_on), encoding="utf-8")
    console.print(f"[dim]{time.monotonic() - begun:.0f} s; {path}, {chart}, {block}[/]")
    return 0 if all(goal.reached for goal in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
