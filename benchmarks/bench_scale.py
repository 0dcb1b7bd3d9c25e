"""Cost of a job and of a dispatch with many jobs waiting, and the load at which one machine is full.

    make bench-scale [SCALE="--quick"]

For each database a backlog is put in, and measured at 10,000, 100,000 and 1,000,000 waiting jobs:

- dispatch: the scheduler's own dispatcher, pass by pass, its transaction timed; a simulated worker ends what was dispatched
- cost: a whole Trivet with one worker works on the backlog over the simulator; CPU a job and memory of each process

Then a fleet: one scheduler and more and more simulated workers, which do everything but the call, against one broker and
one database; and dispatch while hundreds of leases are alive. The cost of each part shows which one fills the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import backlog
from bench_cost import ending_well
from load import LATENCY_S
from orders import HERE, Child
from process_figures import cpu_seconds, now_mb
from rich.console import Console
from rich.table import Table
from running import machine, save
from setups import READY_S, Wire
from simulated_worker import SimulatedWorker, TimedStore, shown
from trivet_setup import TrivetSetup, databases, migrate, write_config

import trivet_scheduler.dispatch as dispatch_module
from trivet.local.embedded import EmbeddedValkey
from trivet_routing.limits import EPOCH, Limits
from trivet_routing.route_directory import RouteDirectory
from trivet_scheduler.dispatch import Dispatcher
from trivet_scheduler.restoring import Restorer
from trivet_simulator import SimulatorProcess
from trivet_store.cluster import leases, registry
from trivet_store.database.engine import Store
from trivet_store.jobs.rescuing import release
from trivet_tasks.celery_app import make_app
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.messages import Chunk, publish, queue_name
from trivet_tasks.shared_state import connect

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

ROUTE = "anthropic"
SLOTS = 64
"""Slots of a simulated worker: a pass dispatches one and a half times as many."""
WARM = 500
GOAL = 1.2
"""Cost at the longest backlog, as a multiple of that at the shortest."""


class Dispatching:
    """The scheduler's dispatcher in this process, and a simulated worker that ends what it dispatches."""

    def __init__(self, settings: Settings) -> None:
        self.store = TimedStore(settings.store_url)
        self._redis = connect(settings.redis_url)
        self._directory = RouteDirectory(self.store, Limits(self._redis, settings.health))
        self._restorer = Restorer(self.store, self._redis, self._directory, settings)
        self._app = make_app(settings)
        self._dispatcher = Dispatcher(self.store, self._directory, self._app, settings)
        self._worker = SimulatedWorker(settings, ROUTE, SLOTS)
        self._chunks: list[Chunk] = []
        self._publishing = mock.patch.object(dispatch_module, "publish", self._publish)

    def __enter__(self) -> Dispatching:
        with self.store.write() as connection:
            registry.register(self.store, connection, self._worker.settings.routes)
        self._worker.open()
        self._restorer.run()
        self._directory.known(fresh=True)
        self._publishing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._publishing.stop()
        self._worker.close()
        self._app.close()
        self.store.close()

    def _publish(self, app: Any, chunks: Any) -> None:
        """Publish as usual, and keep the chunks, because no worker listens."""
        self._chunks = list(chunks)
        publish(app, self._chunks)
        self._redis.delete(*{queue_name(chunk.route, chunk.latency) for chunk in self._chunks})

    def measure(self, passes: int) -> dict[str, Any]:
        """Run this many passes; return milliseconds of a pass, its transaction, claim and finish, and jobs a pass."""
        whole: list[float] = []
        jobs = 0
        self._step()
        self.store.forget()
        self._worker.store.forget()
        for _ in range(passes):
            took, count = self._step()
            whole.append(took)
            jobs += count
        assert jobs, "nothing was dispatched"
        held = self._worker.store.held
        return {
            "jobs_a_pass": jobs / passes,
            "pass_ms": shown(whole),
            "transaction_ms": shown(self.store.held["dispatch"]),
            "claim_ms": shown(held["claim"]),
            "finish_ms": shown(held["finish"]),
        }

    def _step(self) -> tuple[float, int]:
        self._worker.beat()
        self._chunks = []
        self.store.purpose = "dispatch"
        start = time.perf_counter()
        done = self._dispatcher.run_once()
        took = time.perf_counter() - start
        for chunk in self._chunks:
            self._worker.work(chunk)
        return took, done.dispatched


def cost_at(url: str, postgres: PostgresServer | None, wire: Wire, jobs: int) -> dict[str, Any]:
    """A whole Trivet on the backlog: CPU a job by part, in ms, and what each process holds, in MB."""
    control = wire.control
    control.reset()
    with (
        contextlib.closing(Store(url)) as store,
        backlog.held(store) as let_go,
        TrivetSetup(wire, postgres=postgres, store_url=url, produces=False) as trivet,
    ):
        let_go()
        control.wait_for_calls(WARM, 120)
        roots = trivet.processes()
        first = control.counts()["finished"]
        before = {part: cpu_seconds(pids) for part, pids in roots.items()}
        start = time.monotonic()
        control.wait_for_calls(first + jobs, 120)
        done = control.counts()["finished"] - first
        cpu = {part: (cpu_seconds(pids) - before[part]) / done * 1000 for part, pids in roots.items()}
        seconds = time.monotonic() - start
        memory = {part: now_mb(pids) for part, pids in roots.items()}
    return {"cpu_ms": cpu, "whole_ms": sum(cpu.values()), "jobs_per_s": done / seconds, "memory_mb": memory}


@contextlib.contextmanager
def broker_and_config(wire: Wire, url: str) -> Iterator[Path]:
    """An embedded Valkey and a configuration that leads to it and to the database."""
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        config = write_config(Path(folder) / "trivet.toml", [wire], url, slots=SLOTS, workers=64)
        with EmbeddedValkey(load_settings(config).data_dir):
            yield config


def simulated_fleet(
    wire: Wire, url: str, postgres: PostgresServer | None, workers: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """A real scheduler and so many simulated workers; jobs a second, and CPU a job by part, in ms."""
    with broker_and_config(wire, url) as config, contextlib.ExitStack() as held:
        settings = load_settings(config)
        children = [Child([sys.executable, HERE / "simulated_worker.py", config, ROUTE]) for _ in range(workers)]
        store = held.enter_context(contextlib.closing(Store(url)))
        with store.write() as connection:
            registry.register(store, connection, settings.routes)
        backlog.fill(store, settings, arguments.fleet_jobs)
        let_go = held.enter_context(backlog.held(store))
        scheduler = TrivetSetup.scheduler(config, settings.data_dir)
        held.callback(scheduler.stop)
        for child in children:
            held.callback(child.stop)
            child.start()
        scheduler.wait_ready("scheduler", READY_S)
        roots = {
            "workers": [child.pid for child in children],
            "scheduler": [pid for pid in [scheduler.pid("scheduler")] if pid],
            "broker": [int((settings.data_dir / "valkey.pid").read_text())],
        }
        if postgres is not None and postgres.pid is not None:
            roots["database"] = [postgres.pid]
        wait_for_permits(settings)
        let_go()
        while not all(child.ask("report")["jobs"] for child in children):
            time.sleep(0.2)
        jobs = -sum(child.ask("report")["jobs"] for child in children)
        before = {part: cpu_seconds(pids) for part, pids in roots.items()}
        start = time.monotonic()
        time.sleep(arguments.seconds)
        reports = [child.ask("report") for child in children]
        took = time.monotonic() - start
        jobs += sum(report["jobs"] for report in reports)
        assert backlog.waiting(store), "the backlog was too short"
        cpu = {part: (cpu_seconds(pids) - before[part]) / jobs * 1000 for part, pids in roots.items()}
    return {"workers": workers, "jobs_per_s": jobs / took, "cpu_ms": cpu, "first_worker": reports[0]}


def wait_for_permits(settings: Settings) -> None:
    """Wait until the scheduler has restored the limits of a new Valkey: before that no call is allowed."""
    shared = connect(settings.redis_url)
    until = time.monotonic() + READY_S
    while not shared.exists(EPOCH):
        assert time.monotonic() < until, "the limits were not put back"
        time.sleep(0.05)
    shared.close()


def crowd(settings: Settings, dispatching: Dispatching, count: int, passes: int) -> dict[str, Any]:
    """A dispatch, and a heartbeat, while so many further leases are alive."""
    store = TimedStore(settings.store_url)
    ids = [f"{number:032x}" for number in range(count)]
    with store.write() as connection:
        for lease_id in ids:
            leases.open_lease(store, connection, lease_id, lease_id, "bulk", ["elsewhere"], 256, 600.0)
    store.purpose = "heartbeat"
    for lease_id in ids[:200]:
        with store.write() as connection:
            leases.renew(store, connection, lease_id, 0, None, 600.0)
    time.sleep(1.1)  # the directory's leases are a second old at most
    found = dispatching.measure(passes)
    with store.write() as connection:
        for lease_id in ids:
            release(store, connection, lease_id)
    beats = shown(store.held["heartbeat"])
    store.close()
    return {
        "leases": count,
        "heartbeat_ms": beats,
        "pass_ms": found["pass_ms"],
        "transaction_ms": found["transaction_ms"],
    }


def of_database(
    name: str, url: str, postgres: PostgresServer | None, wire: Wire, arguments: argparse.Namespace, say: Any
) -> dict[str, Any]:
    """Everything, on one database."""
    migrate(url)
    found: dict[str, Any] = {"backlog": {}, "fleet": [], "crowd": []}
    with broker_and_config(wire, url) as config, contextlib.closing(Store(url)) as store:
        settings = load_settings(config)
        for size in arguments.sizes:
            start = time.monotonic()
            added = backlog.fill(store, settings, size)
            seconds = time.monotonic() - start
            say(f"{name}: {added} jobs put in, {added / seconds:.0f} a second")
            with Dispatching(settings) as dispatching:
                at_size = dispatching.measure(arguments.passes)
                for count in arguments.leases if size == arguments.sizes[0] else ():
                    backlog.fill(store, settings, size)
                    found["crowd"].append(crowd(settings, dispatching, count, arguments.passes))
            backlog.fill(store, settings, size)
            at_size |= cost_at(url, postgres, wire, arguments.jobs)
            at_size["inserted_per_s"] = added / seconds
            found["backlog"][str(size)] = at_size
            say(
                f"{name}, {size} waiting: {at_size['whole_ms']:.2f} ms a job, "
                f"dispatch of {at_size['jobs_a_pass']:.0f} p50 {at_size['transaction_ms']['p50']:.1f} ms"
            )
    for workers in arguments.workers:
        found["fleet"].append(simulated_fleet(wire, url, postgres, workers, arguments))
        say(f"{name}, {workers} simulated workers: {found['fleet'][-1]['jobs_per_s']:.0f} jobs a second")
    return found


def backlog_table(found: dict[str, Any]) -> Table:
    """By database and backlog."""
    made = Table(title="With a backlog", title_justify="left")
    for title in ("database", "waiting", "ms a job, all", "worker", "scheduler", "database", "pass p50, p95 ms",
                  "its transaction p50, p95 ms", "jobs a pass", "worker MB", "scheduler MB", "database MB"):  # fmt: skip
        made.add_column(title, justify="right" if title != "database" else "left")
    for name, of in found.items():
        for size, row in of["backlog"].items():
            cpu, memory = row["cpu_ms"], row["memory_mb"]
            made.add_row(
                name,
                str(size),
                *(
                    f"{value:.2f}"
                    for value in (row["whole_ms"], cpu["worker"], cpu["scheduler"], cpu.get("database", 0.0))
                ),
                *(f"{row[what]['p50']:.1f}, {row[what]['p95']:.1f}" for what in ("pass_ms", "transaction_ms")),
                f"{row['jobs_a_pass']:.0f}",
                *(f"{memory.get(part, 0.0):.0f}" for part in ("worker", "scheduler", "database")),
            )
    return made


def fleet_table(found: dict[str, Any]) -> Table:
    """By database and number of simulated workers."""
    made = Table(title="A simulated fleet: ms of CPU a job", title_justify="left")
    for title in ("database", "workers", "jobs/s", "in the workers", "scheduler", "broker", "database", "claim p50 ms", "finish p50 ms", "waits for the lock p95 ms"):  # fmt: skip
        made.add_column(title, justify="right")
    for name, of in found.items():
        for row in of["fleet"]:
            cpu, first = row["cpu_ms"], row["first_worker"]
            made.add_row(
                name,
                str(row["workers"]),
                f"{row['jobs_per_s']:.0f}",
                *(f"{cpu.get(part, 0.0):.3f}" for part in ("workers", "scheduler", "broker", "database")),
                *(f"{first['held'].get(what, {}).get('p50', 0.0):.1f}" for what in ("claim", "finish")),
                f"{first['waited'].get('finish', {}).get('p95', 0.0):.1f}",
            )
    return made


def crowd_table(found: dict[str, Any]) -> Table:
    """By database and number of leases."""
    made = Table(title="With many leases alive", title_justify="left")
    for title in ("database", "leases", "pass p50, p95 ms", "heartbeat p50 ms"):
        made.add_column(title, justify="right")
    for name, of in found.items():
        for row in of["crowd"]:
            made.add_row(
                name,
                str(row["leases"]),
                f"{row['pass_ms']['p50']:.1f}, {row['pass_ms']['p95']:.1f}",
                f"{row['heartbeat_ms']['p50']:.2f}",
            )
    return made


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--quick", action="store_true", help="up to 100,000 jobs, fewer passes")
    made.add_argument("--database", action="append", choices=("SQLite", "PostgreSQL"), help="only this one")
    made.add_argument("--jobs", type=int, help="measured at each backlog (default 3000)")
    made.add_argument("--sizes", type=int, nargs="+", help="backlogs (default 10000 100000 1000000)")
    return made


def main() -> int:
    """Run, print, save."""
    arguments = parser().parse_args()
    quick = arguments.quick
    arguments.sizes = arguments.sizes or ([10_000, 100_000] if quick else [10_000, 100_000, 1_000_000])
    arguments.passes = 10 if quick else 20
    arguments.jobs = arguments.jobs or (1_000 if quick else 3_000)
    arguments.workers = (1, 4) if quick else (1, 2, 4, 8)
    arguments.leases = (10, 500) if quick else (10, 100, 1_000)
    arguments.seconds = 4.0 if quick else 10.0
    arguments.fleet_jobs = 15_000 if quick else 60_000
    console = Console(width=max(170, Console().width))
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:4.0f} s  {what}[/]")

    found: dict[str, Any] = {}
    with ending_well(), SimulatorProcess("--latency-median", str(LATENCY_S), "--seed", "1") as simulator:
        wire = Wire(ROUTE, simulator)
        for name, url, postgres in databases(arguments.database, "scale"):
            found[name] = of_database(name, url, postgres, wire, arguments, say)
    for table in (backlog_table(found), fleet_table(found), crowd_table(found)):
        console.print(table)
    good = True
    for name, of in found.items():
        costs = [row["whole_ms"] for row in of["backlog"].values()]
        ratio = costs[-1] / costs[0]
        good = good and ratio <= GOAL
        sizes = list(of["backlog"])
        console.print(
            f"{name}: a job at {sizes[-1]} waiting costs {ratio:.2f} of what it does at {sizes[0]}, goal {GOAL}"
        )
    path = save("scale", {"machine": machine(), "options": vars(arguments), **found})
    console.print(f"[dim]{time.monotonic() - begun:.0f} s; {path}[/]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
