"""The system that chaos is brought upon: a simulator and a Trivet of real processes, each of which may be doomed.

    with chaos_system(folder, "", [Names("main", Shape(legs=3))]) as chaos:
        chaos.begin()
        …
        chaos.kill("worker-1-bulk")
        …
        print(chaos.settle(accepted))   # waits until all is over, then audits

Four bulk workers, one for realtime, two schedulers. Whatever dies is started again by the supervisor, as under
`trivet up`; a broker that was killed, by `keep_broker`.
"""

import contextlib
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import redis
from tests.chaos import doomed
from tests.chaos.audit import END_STATES, Death, Evidence, Findings, Outage, audit
from tests.chaos.evidence import ended_jobs, lease_pids, read_attempts, read_batches, read_jobs, refused_results
from tests.databases import orphans
from tests.faults.ledger import HAIKU
from tests.faults.pool import Names, simulator_arguments, write_config

from trivet import Client
from trivet.admin import Admin
from trivet.local.child_process import Restarts
from trivet.local.local_trivet import LocalTrivet
from trivet_simulator.client import Control
from trivet_simulator.process import SimulatorProcess
from trivet_store.database.engine import Store
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.shared_state import connect

BULK_WORKERS = 4
BULK = tuple(f"worker-{number}-bulk" for number in range(1, BULK_WORKERS + 1))
REALTIME = "worker-1-realtime"
SCHEDULERS = ("scheduler", "scheduler-2")
READY_S = 120.0
END_S = 120.0
"""Maximum seconds that a test waits for what must come; a machine may be busy."""
LOOK_S = 0.2
AT_ONCE = Restarts(first_s=0.2, max_s=0.2)
MAX_TOKENS = 40
PRODUCER = Path(__file__).with_name("producer.py")

TTL_S = 4.0
SLOTS = 16
SHORT: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "leases": {"ttl_s": TTL_S, "heartbeat_s": 0.5},
        "dispatch": {"interval_s": 0.1, "taken_within_s": 4},
        "worker": {"slots": SLOTS, "shutdown_grace_s": 1, "isolated_processes": 1},
        "health": {"probe_interval_s": 1, "recovery_step_s": 1},
        "classes.batch": {"chunk_jobs": 8},
    }
)
"""Settings that make a test short: a worker is known to be dead after four seconds. The rest are defaults."""

Told = TypeVar("Told")


class Chaos:
    """A running system, the means to hurt it, and what is needed to audit it afterwards."""

    def __init__(
        self,
        local: LocalTrivet,
        simulator: Control,
        client: Client,
        settings: Settings,
        store: Store,
        doom: Path,
    ) -> None:
        self.local = local
        self.simulator = simulator
        self.client = client
        self.settings = settings
        self.store = store
        self.deaths: list[Death] = []
        self.outages: list[Outage] = []
        self.pauses: dict[str, float] = {}
        self._doom = doom
        self._pid_of_lease: dict[str, int] = {}
        self._old_jobs: set[str] = set()
        self._old_rows: set[str] = set()
        self._old_refused = 0
        self._first_call = 0
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch_leases, name="chaos-leases", daemon=True)
        self._watcher.start()

    # -- hurting ------------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> Death | None:
        """SIGKILL to one process, not to its children; None when it is not running at this moment."""
        pid = self.local.supervisor.pid(name)
        if pid is None:
            return None
        death = Death(name, pid, time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.deaths.append(death)
        return death

    def kill_broker(self) -> None:
        """SIGKILL to the broker; it is started again at once."""
        os.kill(int((self.local.data_dir / "valkey.pid").read_text(encoding="ascii")), signal.SIGKILL)
        self.local.keep_broker()

    def arm(self, step: str) -> None:
        """Let the next process that comes to a step die there."""
        doomed.died_path(self._doom, step).unlink(missing_ok=True)
        (self._doom / step).touch()

    def wait_died(self, step: str, within_s: float = END_S) -> Death:
        """Wait until a process has died at a step."""
        path = doomed.died_path(self._doom, step)
        self.wait_for(path.exists, f"a death at {step}", within_s)
        death = Death(step, int(path.read_text(encoding="ascii")), path.stat().st_mtime)
        self.deaths.append(death)
        return death

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one process."""
        pid = self.local.supervisor.pid(name)
        assert pid is not None, f"{name} is not running"
        os.kill(pid, number)

    @contextlib.contextmanager
    def paused(self, *names: str) -> Iterator[None]:
        """Stop some processes (SIGSTOP) as long as the block lasts; none of them in the middle of a write.

        A process that is stopped while it holds SQLite's write lock stops everybody: that is SQLite's nature.
        """
        self.wait_for(lambda: self._stop(names), "a moment at which none of them writes")
        try:
            yield
        finally:
            for name in names:
                self.signal(name, signal.SIGCONT)

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """SQLite finds no room as long as the block lasts."""
        (self._doom / doomed.DISK_FULL).touch()
        try:
            yield
        finally:
            (self._doom / doomed.DISK_FULL).unlink()

    def shared(self) -> redis.Redis:
        """A connection to the broker, which is the shared state, too."""
        return connect(self.settings.redis_url)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def latency(self, median_s: float, p95_s: float | None = None) -> None:
        """Set the duration of every provider's calls."""
        for route in self.settings.routes:
            self.simulator.latency(route, median_s=median_s, p95_s=p95_s)

    def submit(self, count: int, name: str, *, tag: str, **terms: Any) -> list[str]:
        """Submit a batch for the routes of a tag; the ids of its jobs."""
        self.client.submit_many(
            [{"prompt": f"Page {number} of {name}", "key": f"{name}/{number}"} for number in range(count)],
            name=name,
            **{"model": HAIKU, "max_tokens": MAX_TOKENS, "compliance": [tag], **terms},
        )
        return [job.id for job in self.client.jobs(batch=name, limit=count)]

    def start_producer(self, name: str, *arguments: str) -> None:
        """Start a producer process; it is started again when it dies, and submits the same again."""
        self.local.supervisor.start(
            name,
            [sys.executable, PRODUCER, self._doom, self.settings.source, *arguments],
            log_path=self.local.log_path(name),
            stage=0,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def client_key(self, name: str) -> str:
        """Make a key for the gateway, and return it."""
        with Admin(settings=self.settings) as admin:
            return admin.keys.create(name).token.text

    def wait_for(self, look: Callable[[], Told], what: str, within_s: float = END_S) -> Told:
        """Look until there is something to see. TimeoutError when time is up first."""
        until = time.monotonic() + within_s
        while not (found := look()):
            if time.monotonic() > until:
                raise TimeoutError(f"{what}: not within {within_s:g} s")
            self._stopping.wait(LOOK_S)
        return found

    def wait_ended(self, job_ids: Collection[str], within_s: float = END_S) -> float:
        """Wait until these jobs have ended; seconds that took."""
        begun = time.monotonic()
        ids = set(job_ids)
        self.wait_for(lambda: self._ended(ids), f"the end of {len(ids)} jobs", within_s)
        return time.monotonic() - begun

    def running_calls(self) -> int:
        """Calls under way at the providers."""
        return int(self.simulator.counts()["in_flight"])

    def refused(self) -> int:
        """Late results that were refused since `begin`, as the workers' logs say."""
        return self._refused() - self._old_refused

    # -- judging ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Everything from here on is looked at by `settle`."""
        for route in self.settings.routes:
            self.simulator.clear(route)
        self.deaths, self.outages, self.pauses = [], [], {}
        # in this order: the jobs of old rows are old, also that of a probe which comes in at this moment
        self._old_rows = {row.id for row in read_attempts(self.store, self.settings.routes)}
        self._old_jobs = {job.id for job in read_jobs(self.store)}
        self._old_refused = self._refused()
        self._first_call = self._next_call()

    def settle(self, accepted: Collection[str], within_s: float = END_S) -> Findings:
        """Wait until all is over, and audit. What is not over by then is among the faults."""
        try:
            found = self.wait_for(lambda: self._quiet(accepted), "the end of all jobs and calls", within_s)
        except TimeoutError:
            found = self.evidence(accepted)
        assert found is not None
        return audit(found)

    def evidence(self, accepted: Collection[str] = ()) -> Evidence:
        """Return the evidence since `begin`."""
        jobs = [job for job in read_jobs(self.store) if job.id not in self._old_jobs]
        own = {job.batch_id for job in jobs}
        rows = read_attempts(self.store, self.settings.routes)
        old_rows = self._old_rows | {row.id for row in rows if row.job_id in self._old_jobs}
        return Evidence(
            accepted,
            jobs,
            [batch for batch in read_batches(self.store) if batch.id in own],
            [row for row in rows if row.id not in old_rows],
            # one that began before `begin` may end after it
            [call for call in self.simulator.calls(self._first_call, running=True) if call.attempt not in old_rows],
            orphans(self.store),
            tuple(self.deaths),
            tuple(self.outages),
            dict(self._pid_of_lease),
            dict(self.pauses),
        )

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._watcher.join()

    def _stop(self, names: Sequence[str]) -> bool:
        for name in names:
            self.signal(name, signal.SIGSTOP)
        if self.store.path is None:
            return True
        with contextlib.closing(sqlite3.connect(self.store.path, timeout=1.0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                for name in names:
                    self.signal(name, signal.SIGCONT)
                return False
        return True

    def _ended(self, ids: set[str]) -> bool:
        with contextlib.suppress(StoreUnavailable):
            return ids <= ended_jobs(self.store)
        return False

    def _quiet(self, accepted: Collection[str]) -> Evidence | None:
        """The evidence, if nothing goes on and no call began while it was read: a probe may begin at any moment."""
        with contextlib.suppress(StoreUnavailable):
            begun = self._next_call()
            found = self.evidence(accepted)
            if (
                all(job.state in END_STATES for job in found.jobs)
                and all(row.outcome is not None for row in found.rows)
                and all(call.finished is not None for call in found.calls)
                and self._next_call() == begun
            ):
                return found
        return None

    def _next_call(self) -> int:
        return int(self.simulator.counts()["log"]["next_seq"])

    def _refused(self) -> int:
        logs = self.local.logs_dir.glob("worker-*.log*")
        return sum(refused_results(path.read_text(encoding="utf-8", errors="replace")) for path in logs)

    def _watch_leases(self) -> None:
        """Leases vanish with their rescue; whose they were is remembered."""
        while not self._stopping.wait(LOOK_S):
            with contextlib.suppress(StoreUnavailable):
                self._pid_of_lease.update(lease_pids(self.store))


@contextlib.contextmanager
def chaos_system(
    folder: Path,
    store_url: str,
    pool: Sequence[Names],
    *,
    sections: Mapping[str, Mapping[str, Any]] = SHORT,
    route_settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Chaos]:
    """Start it, and stop it at the end.

    Args:
        store_url: a migrated database; empty for SQLite in the folder.
        sections: tables of the configuration.
        route_settings: by route, what to set of it.
    """
    doom = folder / "doom"
    doom.mkdir(parents=True)
    program = (sys.executable, str(Path(doomed.__file__)), str(doom))
    with SimulatorProcess(*simulator_arguments(pool)) as simulator:
        config = write_config(
            folder / "trivet.toml",
            store_url,
            pool,
            simulator.endpoints.providers,
            sections=sections,
            route_settings=route_settings,
        )
        settings = load_settings(config)
        with LocalTrivet(
            settings, config_path=config, workers=BULK_WORKERS, lanes=("bulk",), program=program, restarts=AT_ONCE
        ) as local:
            local.start_part(REALTIME, "worker", "--lane", "realtime")
            local.start_part(SCHEDULERS[1], "scheduler")
            local.wait_ready(READY_S)
            store = Store(settings.store_url)
            with contextlib.closing(store), Client(settings=settings) as client:
                chaos = Chaos(local, simulator.control, client, settings, store, doom)
                with contextlib.closing(chaos):
                    yield chaos
