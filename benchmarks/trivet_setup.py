"""Trivet in the benchmark of cost: every setting its default, one route, its simulator the one all set-ups share."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orders import HERE, Child
from setups import FINISH_S, IN_FLIGHT, READY_S, TRICKLE_EVERY_S, Wire
from sqlalchemy import select

from trivet.local.local_trivet import LocalTrivet
from trivet.local.processes import Supervisor
from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
from trivet_tasks.config.finding import CONFIG_VARIABLE
from trivet_tasks.config.settings import load_settings

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

AWS = {"AWS_ACCESS_KEY_ID": "simulated", "AWS_SECRET_ACCESS_KEY": "simulated", "AWS_REGION": "us-east-1"}
"""Credentials that sign Bedrock's calls, the bare loop's as Trivet's. Set before anything is started."""
_ROUTES: Mapping[str, Mapping[str, Any]] = {
    "anthropic": {"provider": "anthropic"},
    "bedrock": {"provider": "bedrock", "region": "us-east-1"},
    "vertex": {"provider": "vertex", "region": "global", "project": "simulated"},
}


def postgres_server() -> PostgresServer:
    """A PostgreSQL of our own, durable. The tests' way of starting one."""
    sys.path.append(str(HERE.parent))
    from tests.postgres import PostgresServer

    return PostgresServer(durable=True)


def databases(chosen: Sequence[str] | None, name: str) -> Iterator[tuple[str, str, PostgresServer | None]]:
    """SQLite and PostgreSQL, or those of them that are chosen, each as its name, a URL and its server; one at a time."""
    if chosen is None or "SQLite" in chosen:
        with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
            yield "SQLite", f"sqlite:///{folder}/{name}.db", None
    if chosen is None or "PostgreSQL" in chosen:
        with postgres_server() as server:
            yield "PostgreSQL", server.create_database(name), server


def migrate(url: str) -> None:
    """Make the tables."""
    store = Store(url)
    try:
        upgrade(store)
    finally:
        store.close()


def write_config(
    path: Path, wires: Sequence[Wire], store_url: str, *, slots: int, workers: int, stream: bool = False, more: str = ""
) -> Path:
    """A configuration with one route for each of these wires."""
    key = path.with_suffix(".key")
    key.write_text("simulated-key\n", encoding="ascii")
    lines = [f"[store]\nurl = {json.dumps(store_url)}"] if store_url else []
    lines.append(f"[worker]\nslots = {slots}")
    lines.append("[cache]\nenabled = false")  # what a call costs, not what it costs to make none
    for wire in wires:
        values = {
            **_ROUTES[wire.name],
            "base_url": wire.url,
            "max_concurrency": slots * max(1, workers),
            "stream": stream,
        }
        if wire.name != "bedrock":  # signed
            values["api_key"] = f"file:{key}"
        lines.append(f"[routes.{wire.name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()))
    path.write_text("\n\n".join([*lines, more]) + "\n", encoding="utf-8")
    return path


class TrivetSetup:
    """Trivet with so many worker processes on a database."""

    def __init__(
        self,
        wire: Wire,
        *,
        workers: int = 1,
        postgres: PostgresServer | None = None,
        lanes: Sequence[str] = ("bulk",),
        slots: int = IN_FLIGHT,
        store_url: str = "",
        produces: bool = True,
        stream: bool = False,
    ) -> None:
        self.wire = wire
        self._store_url = store_url
        self._produces = produces
        self._stream = stream
        self._producer: Child | None = None
        self._workers = workers
        self._postgres = postgres
        self._lanes = lanes
        self._slots = slots
        self._held = contextlib.ExitStack()

    def __enter__(self) -> TrivetSetup:
        with contextlib.ExitStack() as held:
            folder = Path(tempfile.mkdtemp(prefix="trivet-bench-"))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            url = self._store_url
            if self._postgres is not None and not url:
                name = f"bench_{time.time_ns()}"
                url = self._postgres.create_database(name)
                held.callback(self._postgres.drop_database, name)
                migrate(url)
            processes = self._workers * len(self._lanes)
            config = write_config(
                folder / "trivet.toml", [self.wire], url, slots=self._slots, workers=processes, stream=self._stream
            )
            self.settings = load_settings(config)
            self.local = held.enter_context(
                LocalTrivet(self.settings, config_path=config, workers=self._workers, lanes=self._lanes)
            )
            self.local.wait_ready(READY_S)
            self._config = config
            if self._produces:
                self._producer = self._new_producer(held)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @property
    def producer(self) -> Child:
        """The program that hands jobs over."""
        assert self._producer is not None
        return self._producer

    def second_producer(self) -> Child:
        """Another program that hands jobs over beside the first."""
        return self._new_producer(self._held)

    def _new_producer(self, held: contextlib.ExitStack) -> Child:
        made = Child(
            [sys.executable, HERE / "trivet_producer.py", self._config, self.wire.simulator.endpoints.anthropic]
        )
        held.callback(made.stop)
        made.start()
        return made

    @staticmethod
    def scheduler(config: Path, folder: Path) -> Supervisor:
        """A scheduler by itself, started; ready when its supervisor says so. Whoever asked stops it."""
        made = Supervisor()
        made.start(
            "scheduler",
            [sys.executable, "-m", "trivet", "scheduler"],
            env={CONFIG_VARIABLE: str(config)},
            log_path=folder / "scheduler.log",
        )
        return made

    def processes(self) -> dict[str, list[int]]:
        """Workers, scheduler, producer, broker, database."""
        by_name = {name: self.local.supervisor.pid(name) for name in self.local.parts}
        found = {
            "worker": [pid for name, pid in by_name.items() if name.startswith("worker") and pid],
            "scheduler": [pid for name, pid in by_name.items() if name == "scheduler" and pid],
            "broker": [self._valkey_pid()],
        }
        if self._producer is not None:
            found["producer"] = [self._producer.pid]
        if self._postgres is not None and self._postgres.pid is not None:
            found["database"] = [self._postgres.pid]
        return found

    def _valkey_pid(self) -> int:
        return int((self.settings.data_dir / "valkey.pid").read_text())

    def hand_over(self, jobs: int) -> float:
        """Submit a batch; the seconds it took."""
        return float(self.producer.ask("send", jobs=jobs)["seconds"])

    def run(self, jobs: int) -> float:
        """One batch."""
        self.wire.control.reset()
        seconds = self.hand_over(jobs)
        done = self.producer.ask("wait", timeout_s=FINISH_S)
        assert done["succeeded"] == jobs, done
        return seconds

    def pick_up(self, jobs: int) -> list[float]:
        """From the call of `submit()` to the provider."""
        control = self.wire.control
        control.reset()
        sent = self.producer.ask("trickle", jobs=jobs, every_s=TRICKLE_EVERY_S)["sent"]
        control.wait_for_calls(jobs, FINISH_S)
        job_of = self._jobs_of_attempts()
        calls = [(call, job_of.get(call.attempt or "")) for call in control.iter_calls()]
        return [call.started - sent[job_id] for call, job_id in calls if job_id in sent]

    def _jobs_of_attempts(self) -> dict[str, str]:
        store = Store(self.settings.store_url)
        try:
            with store.read() as connection:
                return {
                    row.id: row.job_id
                    for row in connection.execute(select(schema.attempts.c.id, schema.attempts.c.job_id))
                }
        finally:
            store.close()


os.environ.update(AWS)
