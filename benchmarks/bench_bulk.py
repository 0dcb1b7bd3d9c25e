"""Memory and pace of bulk in and out: `trivet bulk` and `trivet batch export` at growing sizes.

    python benchmarks/bench_bulk.py [--jobs N] [--message-bytes N] [--postgres] [--json FILE]

At 10,000 jobs and at every tenfold of it up to N: a file of that many requests, each with a key, is taken in by
`trivet bulk`, with nobody to run them; then, over a database with as many jobs that have ended, `trivet batch export`
writes JSON Lines and Parquet. Every command is a process of its own. Its peak of memory is the kernel's (`VmHWM`), its CPU
time, too. The exit code is 1 when a command takes `CACHES_MB` more at N jobs than at 10,000.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from load import MAX_TOKENS, MODEL
from process_figures import cpu_seconds, peak_mb
from sqlalchemy import insert
from trivet_setup import migrate, postgres_server
from uuid_utils import uuid7

from trivet_store import schema
from trivet_store.database.engine import Store

SMALLEST = 10_000
GROUP = 1_000
"""Rows of one insert."""
CACHES_MB = 48
"""Memory that fills up once and then stays: SQLite's cache for two connections, and the keys' (`jsonl.Seen`), 16 MB each."""
LOOK_EVERY_S = 0.02


class Run(NamedTuple):
    """One command at one size."""

    command: str
    jobs: int
    seconds: float
    cpu_s: float
    peak_mb: float


def sizes(most: int) -> Iterator[int]:
    """The tenfold steps, and what was asked for."""
    size = SMALLEST
    while size < most:
        yield size
        size *= 10
    yield most


def write_requests(path: Path, jobs: int) -> None:
    """A file of requests, each with a key."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(jobs):
            request = {
                "prompt": f"Summarise document {number}. " + "Some words of it. " * 20, "key": f"{path.stem}/{number}",
                "model": MODEL, "max_tokens": MAX_TOKENS,
            }  # fmt: skip
            file.write(json.dumps(request) + "\n")


def fill(store: Store, name: str, jobs: int, message_bytes: int) -> None:
    """A batch of jobs that have ended, with a result and a call each."""
    words = ("words of an answer " * (message_bytes // 19 + 1))[:message_bytes]
    with store.write() as connection:
        batch = connection.execute(
            insert(schema.batches)
            .values(
                name=name, state="open", created_at=1.0, taken=jobs, total=jobs, ended=jobs, succeeded=jobs, seq=jobs
            )
            .returning(schema.batches.c.id)
        ).scalar_one()
        flow = connection.execute(
            insert(schema.flows)
            .values(
                signature=f"bench-{batch}", batch_id=batch, latency="batch", model=MODEL, residency="[]",
                compliance="[]", features="[]", held=False, active=False,
            )
            .returning(schema.flows.c.id)
        ).scalar_one()  # fmt: skip
    for at in range(0, jobs, GROUP):
        numbers = range(at, min(at + GROUP, jobs))
        ids = {number: uuid7().hex for number in numbers}
        with store.write() as connection:
            connection.execute(
                insert(schema.jobs),
                [
                    {
                        "id": ids[n], "batch_id": batch, "flow_id": flow, "key": f"{name}/{n}", "fingerprint": "f" * 32,
                        "state": "succeeded", "rank": 1.0, "created_at": 1.8e9 + n, "ended_at": 1.8e9 + n + 2.5,
                        "input_estimate": 100, "max_tokens": MAX_TOKENS, "attempts": 1, "batch_seq": n + 1,
                        "tags": '{"team":"docs"}', "last_outcome": "succeeded",
                    }
                    for n in numbers
                ],
            )  # fmt: skip
            connection.execute(
                insert(schema.job_results),
                [
                    {
                        "job_id": ids[n], "message": _message(n, words), "stop_reason": "end_turn", "route": "anthropic",
                        "cost_usd": Decimal("0.000123456789"), "latency_s": 2.5,
                    }
                    for n in numbers
                ],
            )  # fmt: skip
            connection.execute(
                insert(schema.attempts),
                [
                    {
                        "id": uuid7().hex, "job_id": ids[n], "claim": 1, "round": 0, "lease_id": "l",
                        "route": "anthropic", "provider": "anthropic", "model": MODEL, "wire_model": MODEL,
                        "latency": "batch", "started_at": 1.8e9 + n, "latency_s": 2.0, "outcome": "succeeded",
                        "request_id": f"req_{n}", "cost_usd": Decimal("0.000123456789"), "estimated": False,
                    }
                    for n in numbers
                ],
            )  # fmt: skip


def _message(number: int, words: str) -> bytes:
    content = [{"type": "text", "text": f"{number}: {words}"}]
    usage = {"input_tokens": 100, "output_tokens": len(words) // 4}
    return json.dumps({"id": f"msg_{number}", "role": "assistant", "content": content, "usage": usage}).encode()


def run(title: str, jobs: int, config: Path, *arguments: str) -> Run:
    """Run a command to its end and look at its peak all the while."""
    peak, cpu, began = 0.0, 0.0, time.monotonic()
    command = [sys.executable, "-m", "trivet", "--config", str(config), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while True:
            peak, cpu = max(peak, peak_mb([process.pid])), max(cpu, cpu_seconds([process.pid]))
            try:
                code = process.wait(LOOK_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                continue
    if code:
        raise SystemExit(f"{' '.join(arguments)} ended with {code}")
    found = Run(title, jobs, time.monotonic() - began, cpu, peak)
    print(
        f"{title:16} {jobs:>9,} jobs  {found.seconds:7.1f} s  {jobs / found.seconds:8,.0f} jobs/s  CPU {cpu:7.1f} s  {peak:6.1f} MB",
        flush=True,
    )
    return found


def measure(folder: Path, url: str, jobs: int, message_bytes: int) -> list[Run]:
    """All commands at one size, over a new database."""
    config, requests = folder / "trivet.toml", folder / f"requests-{jobs}.jsonl"
    config.write_text(f'[store]\nurl = {json.dumps(url)}\n[routes.anthropic]\nprovider = "anthropic"\n')
    migrate(url)
    write_requests(requests, jobs)
    runs = [run("bulk", jobs, config, "bulk", str(requests))]
    requests.unlink()
    store = Store(url)
    fill(store, "ended", jobs, message_bytes)
    store.close()
    export = ("batch", "export", "ended")
    runs.append(run("export jsonl", jobs, config, *export, "--out", str(folder / "out.jsonl")))
    runs.append(run("export parquet", jobs, config, *export, "--out", str(folder / "out.parquet")))
    runs.append(run("export, stdout", jobs, config, *export))
    return runs


def main() -> int:
    """Every size, smallest first."""
    parser = argparse.ArgumentParser(description="Memory and pace of bulk in and out.")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--message-bytes", type=int, default=2_000)
    parser.add_argument("--postgres", action="store_true", help="A PostgreSQL of its own instead of SQLite.")
    parser.add_argument("--json", type=Path, help="Keep the figures here.")
    options = parser.parse_args()
    runs: list[Run] = []
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server()) if options.postgres else None
        for jobs in sizes(options.jobs):
            with tempfile.TemporaryDirectory(prefix="trivet-bench-") as name:
                folder = Path(name)
                url = server.create_database(f"bulk{jobs}") if server else f"sqlite:///{folder}/trivet.db"
                runs += measure(folder, url, jobs, options.message_bytes)
    if options.json:
        options.json.write_text(json.dumps([found._asdict() for found in runs], indent=1) + "\n")
    least = {found.command: found for found in reversed(runs)}
    grown = {
        found.command: found.peak_mb - least[found.command].peak_mb for found in runs if found.jobs == options.jobs
    }
    for command, more in grown.items():
        print(f"{command:16} {more:+6.1f} MB at {options.jobs:,} jobs{'' if more <= CACHES_MB else ': not flat'}")
    return int(max(grown.values()) > CACHES_MB)


if __name__ == "__main__":
    sys.exit(main())
