"""A Trivet of a test's own over the simulator, whose parts and servers the test stops and starts."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from sqlalchemy import text
from tests.command_line import Said, run_trivet
from tests.databases import database_of, migrated, rows
from tests.postgres import PostgresServer
from tests.timing import until

from trivet.testing import RunningTrivet, running_trivet
from trivet_tasks.config.finding import CONFIG_VARIABLE

PROVIDERS = ("anthropic", "bedrock", "vertex")
TERMS: Mapping[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 40}
DEADLINE_S = 60.0
SLOTS = 64
SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "health": {"probe_interval_s": 1.0, "limited_backoff_s": 0.5, "idle_probe_s": 0},
    "dispatch": {"interval_s": 0.1, "taken_within_s": 5},
    "leases": {"ttl_s": 4, "heartbeat_s": 0.5},
    "worker": {"shutdown_grace_s": 1.0, "slots": SLOTS},
    "classes.batch": {"budget_s": 240, "attempt_timeout_s": 120},
    "cache": {"enabled": False},
}

T = TypeVar("T")


@dataclass
class Outages:
    """The system, and how to hurt it."""

    trivet: RunningTrivet
    folder: Path
    postgres: PostgresServer | None

    def rows(self, sql: str, **values: object) -> list[Any]:
        """Return the rows of a query."""
        return rows(self.trivet.settings, sql, **values)

    def jobs(self, batch: str) -> list[Any]:
        """The rows of a batch's jobs."""
        return self.rows(
            "SELECT j.* FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE b.name = :batch", batch=batch
        )

    def states(self, batch: str) -> Counter[str]:
        """A batch's jobs by state."""
        return Counter(job.state for job in self.jobs(batch))

    def attempts(self, batch: str) -> list[Any]:
        """The rows of a batch's calls."""
        return self.rows(
            "SELECT a.* FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN batches b ON b.id = j.batch_id WHERE b.name = :batch",
            batch=batch,
        )

    def slow(self, seconds: float) -> None:
        """Set the duration of every call from now on."""
        for provider in PROVIDERS:
            self.trivet.simulator.latency(provider, median_s=seconds)

    def under_way(self) -> set[str | None]:
        """The attempts that the providers are at work on."""
        return {call.attempt for call in self.trivet.simulator.calls(running=True) if call.finished is None}

    @property
    def broker(self) -> psutil.Process:
        """The embedded Valkey."""
        return psutil.Process(int((self.trivet.local.data_dir / "valkey.pid").read_text(encoding="ascii")))

    @contextlib.contextmanager
    def worker(self, name: str, **variables: str) -> Iterator["Worker"]:
        """A bulk worker by itself: nobody starts it again."""
        log, ready = self.folder / f"{name}.log", self.folder / f"{name}.ready"
        environment = {**os.environ, **variables, CONFIG_VARIABLE: str(self.trivet.local.config_path)}
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "trivet", "worker", "--lane", "bulk"],
                env=environment | {"TRIVET_READY_FILE": str(ready)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        worker = Worker(process, log)
        try:
            until(lambda: ready.exists() or process.poll() is not None, "the worker to be ready")
            assert process.poll() is None, worker.said
            yield worker
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(DEADLINE_S)

    @contextlib.contextmanager
    def locked_database(self) -> Iterator[None]:
        """A database that does not answer writers."""
        with database_of(self.trivet.settings) as store, store.write() as connection:
            if not store.sqlite:
                connection.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
            yield

    def trivet_routes(self) -> Said:
        """`trivet routes --json` as an operator runs it."""
        return run_trivet("routes", "--json", env={CONFIG_VARIABLE: str(self.trivet.local.config_path)})

    def audit(self) -> None:
        """Assert that every call is one row and every row but those of unknown fate one call, and no job was answered twice."""
        rows = {row.id: row for row in self.rows("SELECT id, job_id, outcome FROM attempts")}
        calls = Counter(call.attempt for call in self.trivet.simulator.calls(running=True))
        assert max(calls.values(), default=1) == 1
        assert set(calls) <= set(rows)
        assert {row.outcome for row in rows.values() if row.id not in calls} <= {"unknown", "cancelled"}
        answered = Counter(row.job_id for row in rows.values() if row.outcome == "succeeded")
        assert max(answered.values(), default=1) == 1


@dataclass(frozen=True)
class Worker:
    """A worker process of a test's own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8")

    def times(self, words: str) -> int:
        """Return the number of lines of its log that contain these words."""
        return sum(words in line for line in self.said.splitlines())

    def terminate(self) -> float:
        """SIGTERM. Returns the moment, on the monotonic clock."""
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    def ended(self, since: float) -> float:
        """Wait for its end: seconds from then."""
        self.process.wait(DEADLINE_S)
        return time.monotonic() - since


@contextlib.contextmanager
def outages(folder: Path, database: str, sections: Mapping[str, Mapping[str, Any]] = SECTIONS) -> Iterator[Outages]:
    """A scheduler, a broker and a simulator without workers, on `sqlite` or `postgres`."""
    with contextlib.ExitStack() as held:
        server, url = None, ""
        if database == "postgres":
            server = held.enter_context(PostgresServer())
            url = server.create_database("outages")
            migrated(url)
        running = running_trivet(folder, store_url=url, workers=0, simulator=("--seed", "1"), sections=sections)
        yield Outages(held.enter_context(running), folder, server)
