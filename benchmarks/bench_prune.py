"""Time that a commit waits beside `trivet db prune`: 100,000 jobs on SQLite and on PostgreSQL.

    python benchmarks/bench_prune.py [--jobs N] [--body-bytes N]

Four threads commit what workers commit, a heartbeat or a claim of one row, as fast as they can, first alone and then
while everything is pruned: bodies and results, then the jobs with their calls. Each commit is timed from asking for the
transaction to the end of the commit. PostgreSQL runs with fsync on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert, text
from uuid_utils import uuid7

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.postgres import PostgresServer

from trivet_store import retention, schema
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
from trivet_store.retention import Terms

WRITERS = 4
ISOLATED_S = 30.0


def fill(store: Store, jobs: int, body_bytes: int) -> None:
    """Jobs that have ended, with a body, a result and two calls each; and the leases of the writers."""
    body = b"x" * body_bytes
    flow = {"id": 1, "signature": "s", "batch_id": 1, "latency": "batch", "model": "m", "held": False, "active": False}
    with store.write() as connection:
        connection.execute(
            insert(schema.batches).values(id=1, name="old", state="open", created_at=0.0, total=jobs, ended=jobs)
        )
        connection.execute(insert(schema.flows).values(**flow, residency="[]", compliance="[]", features="[]"))
        connection.execute(
            insert(schema.leases),
            [
                {
                    "id": f"lease{n}", "worker": "w", "lane": "bulk", "routes": "[]", "slots": 1, "in_flight": 0,
                    "started_at": 0.0, "expires_at": 0.0,
                }
                for n in range(WRITERS)
            ],
        )  # fmt: skip
    for at in range(0, jobs, 1_000):
        ids = [uuid7().hex for _ in range(min(1_000, jobs - at))]
        with store.write() as connection:
            connection.execute(
                insert(schema.jobs),
                [
                    {
                        "id": id, "batch_id": 1, "flow_id": 1, "fingerprint": "f" * 32, "state": "succeeded", "rank": 1.0,
                        "created_at": 1.0, "ended_at": 2.0, "input_estimate": 1, "max_tokens": 1, "batch_seq": at + n + 1,
                    }
                    for n, id in enumerate(ids)
                ],
            )  # fmt: skip
            connection.execute(insert(schema.job_requests), [{"job_id": id, "body": body} for id in ids])
            connection.execute(
                insert(schema.job_results), [{"job_id": id, "message": body, "latency_s": 1.0} for id in ids]
            )
            connection.execute(
                insert(schema.attempts),
                [
                    {
                        "id": uuid7().hex, "job_id": id, "claim": 1, "round": 0, "lease_id": "l", "route": "r",
                        "provider": "p", "model": "m", "wire_model": "w", "latency": "batch", "started_at": 1.0,
                        "outcome": "succeeded", "estimated": False,
                    }
                    for id in ids for _ in range(2)
                ],
            )  # fmt: skip


def waits(store: Store, work: Callable[[], None]) -> tuple[float, list[float]]:
    """Seconds that the work took, and those of every commit beside it."""
    beat = text("UPDATE leases SET expires_at = :now, in_flight = in_flight + 1 WHERE id = :id")
    done, took = threading.Event(), [list[float]() for _ in range(WRITERS)]

    def write(number: int) -> None:
        while not done.is_set():
            began = time.monotonic()
            with store.write() as connection:
                connection.execute(beat, {"now": began, "id": f"lease{number}"})
            took[number].append(time.monotonic() - began)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    work()
    seconds = time.monotonic() - began
    done.set()
    for thread in threads:
        thread.join()
    return seconds, sorted(value for values in took for value in values)


def measure(name: str, url: str, jobs: int, body_bytes: int) -> None:
    """Fill, measure alone, prune, forget; print a line for each."""
    store = Store(url)
    upgrade(store)
    fill(store, jobs, body_bytes)

    def run(terms: Terms) -> None:
        pruned: Counter[str] = Counter()
        for step in retention.prune(store, terms):
            pruned.update(step.pruned)
        print(f"{'':12} {dict(pruned)}")

    soon = time.time() + 60
    for title, work in (
        ("isolated", lambda: time.sleep(ISOLATED_S)),
        ("prune", lambda: run(Terms(soon))),
        ("forget", lambda: run(Terms(soon, forget_before=soon))),
    ):
        seconds, took = waits(store, work)
        p50, p99 = (took[int(len(took) * share)] for share in (0.5, 0.99))
        print(
            f"{name:12} {title:8} {seconds:6.1f} s   {len(took) / seconds:7.0f} commits/s   "
            f"p50 {p50 * 1000:6.1f} ms   p99 {p99 * 1000:6.1f} ms   worst {took[-1] * 1000:6.1f} ms"
        )
    store.close()


def main() -> None:
    """Both databases."""
    parser = argparse.ArgumentParser(description="Commits beside a prune.")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--body-bytes", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure("sqlite", f"sqlite:///{folder}/trivet.db", options.jobs, options.body_bytes)
    with PostgresServer(durable=True) as server:
        measure("postgresql", server.create_database("bench"), options.jobs, options.body_bytes)


if __name__ == "__main__":
    main()
