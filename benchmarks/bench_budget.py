"""A budget of 1 dollar over 1,000 jobs of a cent each on four workers: what is spent, and what was reserved at most.

    nice .venv/bin/python benchmarks/bench_budget.py [--jobs 1000] [--usd 1] [--store postgresql+psycopg://…]

Real processes over the simulator. Answers are always cut at `max_tokens`, so every call costs the same. The ledger is
read all the time; once the budget holds for good it is raised, and the rest runs.
"""

import argparse
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text

from trivet.testing import RunningTrivet, running_trivet
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
from trivet_store.schema import Usd

MODEL = "claude-sonnet-5-5"
MAX_TOKENS = 999
"""At 10 USD a million: with the few tokens of the prompt, a cent."""
WORKERS = 4
STILL_S = 5.0
"""Seconds without a change after which a budget counts as holding for good."""
GIVE_UP_S = 1_800.0


class Reading(NamedTuple):
    """The ledger at one moment."""

    spent: Decimal
    """Cost of finished calls; those without a known end count with their maximum cost."""
    in_flight: Decimal
    """Maximum cost of the calls under way."""
    calls: int


_LEDGER = text(
    """
    SELECT sum(CASE WHEN outcome IS NULL THEN 0 ELSE cost_usd END) AS spent,
           sum(CASE WHEN outcome IS NULL THEN cost_usd ELSE 0 END) AS in_flight, count(*) AS calls
      FROM attempts WHERE purpose <> 'probe'
    """
).columns(spent=Usd(), in_flight=Usd())


def read(store: Store) -> Reading:
    """The ledger now."""
    with store.read() as connection:
        row = connection.execute(_LEDGER).one()
    return Reading(row.spent or Decimal(0), row.in_flight or Decimal(0), row.calls)


def measure(trivet: RunningTrivet, jobs: int, limit: Decimal) -> None:
    """Run it and print the result."""
    store = trivet.client._connections.store
    began = time.monotonic()
    batch = trivet.client.submit_many(
        ({"prompt": f"Document {number:06}"} for number in range(jobs)),
        name="thousand",
        model=MODEL,
        max_tokens=MAX_TOKENS,
    )
    most_in_flight = most_spent = Decimal(0)
    last, still_since = read(store), time.monotonic()
    while time.monotonic() - still_since < STILL_S or not last.calls:
        now = read(store)
        most_in_flight = max(most_in_flight, now.in_flight)
        most_spent = max(most_spent, now.spent)
        if now != last:
            last, still_since = now, time.monotonic()
        assert time.monotonic() - began < GIVE_UP_S
        time.sleep(0.02)
    held_after = still_since - began
    progress = batch.progress()
    print(f"held after {held_after:.1f} s: {progress.succeeded} of {jobs} jobs done, {progress.failed} failed")
    print(f"spent {last.spent} of {limit} USD by {last.calls} calls; in flight at once at most {most_in_flight} USD")
    assert most_spent <= limit
    trivet.admin.budgets.raise_limit("all", Decimal(1_000), by="the benchmark")
    raised = time.monotonic()
    while read(store).calls == last.calls:
        time.sleep(0.01)
    print(f"the next call began {time.monotonic() - raised:.2f} s after the budget was raised")
    for _ in batch.results(timeout=GIVE_UP_S):
        pass
    progress = batch.progress()
    print(f"then {progress.succeeded} of {jobs} jobs done for {read(store).spent} USD")


def main() -> None:
    """Read the options and run."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    asked.add_argument("--jobs", type=int, default=1_000)
    asked.add_argument("--usd", type=Decimal, default=Decimal(1))
    asked.add_argument("--store", default="", help="an empty PostgreSQL database; else SQLite")
    given = asked.parse_args()
    if given.store:
        store = Store(given.store)
        upgrade(store)
        store.close()
    sections: dict[str, Any] = {"budgets": [{"name": "all", "usd": str(given.usd), "per": "day"}]}
    long = ("--latency-median", "0.3", "--latency-p95", "0.9", "--seed", "1", "--output-median", "100000")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_trivet(
            Path(folder), store_url=given.store, workers=WORKERS, simulator=long, sections=sections
        ) as trivet,
    ):
        measure(trivet, given.jobs, given.usd)


if __name__ == "__main__":
    main()
