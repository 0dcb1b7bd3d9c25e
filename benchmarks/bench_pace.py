"""Dispatch and memory at a steady pace: 1,000 jobs a second end while 100,000 others wait.

    make bench-pace [PACE="--seconds 120 --database SQLite"]

A real scheduler, its dispatches timed from `BEGIN` to the commit's answer, and simulated workers, which do everything
but the call (`simulated_worker.py`), each held to its share of the pace. After a warm-up the memory of each process
(resident and its own: shared buffers are not counted) is read every few seconds; what counts is the median of its last
quarter over that of its first.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import backlog
from bench_cost import ending_well
from bench_scale import ROUTE, broker_and_config, wait_for_permits
from load import LATENCY_S
from orders import HERE, Child
from process_figures import cpu_seconds, own_mb
from rich.console import Console
from rich.table import Table
from running import machine, save
from setups import Wire
from trivet_setup import databases, migrate

from trivet_simulator import SimulatorProcess
from trivet_store.cluster import registry
from trivet_store.database.engine import Store
from trivet_tasks.config.settings import load_settings

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

DISPATCH_MS = 20.0
GROWTH = 1.05
"""The goals: of a dispatch at p95, and of a process's memory."""
LOOK_S = 3.0


def at_pace(
    wire: Wire, url: str, postgres: PostgresServer | None, arguments: argparse.Namespace, say: Any
) -> dict[str, Any]:
    """One database."""
    migrate(url)
    seconds = arguments.warm + arguments.seconds
    with broker_and_config(wire, url) as config, contextlib.ExitStack() as held:
        settings = load_settings(config)
        store = held.enter_context(contextlib.closing(Store(url)))
        with store.write() as connection:
            registry.register(store, connection, settings.routes)
        backlog.fill(store, settings, arguments.waiting + int(arguments.pace * seconds * 1.1))
        say("the backlog is in")
        let_go = held.enter_context(backlog.held(store))
        share = arguments.pace / arguments.workers
        workers = [
            Child([sys.executable, HERE / "simulated_worker.py", config, ROUTE, str(share)])
            for _ in range(arguments.workers)
        ]
        scheduler = Child([sys.executable, HERE / "timed_scheduler.py", config])
        for child in (*workers, scheduler):
            held.callback(child.stop)
            child.start()
        roots = {f"worker {number}": [child.pid] for number, child in enumerate(workers, 1)}
        roots |= {"scheduler": [scheduler.pid], "broker": [int((settings.data_dir / "valkey.pid").read_text())]}
        if postgres is not None and postgres.pid is not None:
            roots["database"] = [postgres.pid]
        wait_for_permits(settings)
        let_go()
        time.sleep(arguments.warm)
        scheduler.ask("report")
        jobs = -sum(worker.ask("report")["jobs"] for worker in workers)
        before = {part: cpu_seconds(pids) for part, pids in roots.items()}
        start = time.monotonic()
        memory: dict[str, list[float]] = {part: [] for part in roots}
        while (left := start + arguments.seconds - time.monotonic()) > 0:
            for part, pids in roots.items():
                memory[part].append(own_mb(pids))
            time.sleep(min(LOOK_S, left))
        reports = [worker.ask("report") for worker in workers]
        took = time.monotonic() - start
        jobs += sum(report["jobs"] for report in reports)
        dispatches = scheduler.ask("report")
        cpu = {part: (cpu_seconds(pids) - before[part]) / took for part, pids in roots.items()}
        left_waiting = backlog.waiting(store)
    return {
        "jobs_per_s": jobs / took,
        "waiting": left_waiting,
        "dispatch_ms": dispatches["dispatch"],
        "worker": reports[0]["held"],
        "cores": cpu,
        "memory_mb": memory,
    }


def growth(of: list[float]) -> float:
    """The median of the last quarter over that of the first."""
    quarter = max(1, len(of) // 4)
    return statistics.median(of[-quarter:]) / statistics.median(of[:quarter])


def table(found: dict[str, Any]) -> Table:
    """A line for each process."""
    made = Table(title="At a steady pace", title_justify="left")
    for title in ("database", "jobs/s", "waiting at the end", "dispatch p50, p95 ms", "process", "cores", "MB, first and last", "growth"):  # fmt: skip
        made.add_column(title, justify="right" if title != "database" else "left")
    for name, of in found.items():
        head = [
            name,
            f"{of['jobs_per_s']:.0f}",
            f"{of['waiting']:,}",
            f"{of['dispatch_ms']['p50']:.1f}, {of['dispatch_ms']['p95']:.1f}",
        ]
        for part, memory in of["memory_mb"].items():
            made.add_row(
                *head, part, f"{of['cores'][part]:.2f}", f"{memory[0]:.0f}, {memory[-1]:.0f}", f"{growth(memory):.3f}"
            )
            head = [""] * 4
    return made


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--database", action="append", choices=("SQLite", "PostgreSQL"), help="only this one")
    made.add_argument("--pace", type=float, default=1_000.0, help="jobs a second (default 1000)")
    made.add_argument("--waiting", type=int, default=100_000, help="jobs that wait still at the end (default 100,000)")
    made.add_argument("--seconds", type=float, default=60.0, help="measured (default 60)")
    made.add_argument("--warm", type=float, default=15.0, help="before that (default 15)")
    made.add_argument("--workers", type=int, default=2, help="simulated workers (default 2)")
    return made


def main() -> int:
    """Run, print, save. Exit code 1 when a goal was missed."""
    arguments = parser().parse_args()
    console = Console(width=max(150, Console().width))
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:4.0f} s  {what}[/]")

    found: dict[str, Any] = {}
    with ending_well(), SimulatorProcess("--latency-median", str(LATENCY_S), "--seed", "1") as simulator:
        wire = Wire(ROUTE, simulator)
        for name, url, postgres in databases(arguments.database, "pace"):
            found[name] = at_pace(wire, url, postgres, arguments, say)
    console.print(table(found))
    good = True
    for name, of in found.items():
        most = max(growth(memory) for memory in of["memory_mb"].values())
        good = (
            good
            and of["dispatch_ms"]["p95"] <= DISPATCH_MS
            and most <= GROWTH
            and of["jobs_per_s"] >= arguments.pace * 0.95
        )
        console.print(
            f"{name}: {of['jobs_per_s']:.0f} jobs a second of {arguments.pace:g}; dispatches {of['dispatch_ms']['p95']:.1f} ms at "
            f"p95, goal {DISPATCH_MS:g}; memory grew {most:.3f} times at most, goal {GROWTH}"
        )
    path = save("pace", {"machine": machine(), "options": vars(arguments), **found})
    console.print(f"[dim]{time.monotonic() - begun:.0f} s; {path}[/]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
