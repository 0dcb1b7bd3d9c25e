"""The same mixed work ordered by cost and ordered by priority, in one run over three routes: what it costs, how long it takes.

    make bench-routing [ROUTING="--jobs 1200"]

Of five calls four are small and one is large. One route has the list price and costs something beside for each call, one
has none of that and the regional price, one is the cheapest and, that day, too slow for the class. The batches run one
after the other, by turns under each order; the two latency classes differ in nothing but `order`. Every figure is from
the ledger; hidden costs are added as the routes declare them. Exit code 1 when a job was lost, when the order by cost
was not the cheaper one, or when more of its jobs were beyond the budget.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from running import Running, machine, running, save
from sqlalchemy import text

from trivet import LatencyName
from trivet_store.database.engine import Store
from trivet_store.schema import Usd

MODEL = "claude-haiku-4-5"
BUDGET_S = 5.0
CLASSES: dict[str, LatencyName] = {"cost": "batch", "priority": "async"}
"""The order of each class."""
CHARS_PER_TOKEN = 4
"""As the simulator counts; see `trivet_simulator.answers`."""
WORDS = "the river keeps a slow account of every stone that it has carried past the harbour wall "
SMALL, LARGE = (300, 60), (15_000, 300)
"""Input tokens, roughly, and `max_tokens`."""
SMALL_OF_FIVE = 4
ROUTES: dict[str, dict[str, Any]] = {
    "bedrock-us-east-1": {"priority": 1, "max_concurrency": 400},
    "vertex-global": {"priority": 2, "max_concurrency": 400, "region": "us-east5"},
    "anthropic": {"priority": 3, "max_concurrency": 400},
}
PER_CALL = {"bedrock-us-east-1": Decimal("0.0008"), "vertex-global": Decimal(0), "anthropic": Decimal("0.0001")}
"""Hidden costs of a call, USD."""
LATENCY_S = {"bedrock": (0.6, 1.2), "vertex": (0.4, 0.8), "anthropic": (4.0, 9.0)}
"""Median and p95 by provider."""
WARM_UP_JOBS = 100
PATIENCE_S = 600.0

_CALLS = text(
    """
    SELECT a.job_id, a.route, a.outcome, a.latency_s, a.estimated, a.cost_usd, a.started_at, j.max_tokens
      FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN batches b ON b.id = j.batch_id
     WHERE b.name = :batch AND a.purpose = 'job'
    """
).columns(cost_usd=Usd())


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one order. Amounts are USD, times seconds."""

    order: str
    jobs: int
    succeeded: int
    calls: int
    tokens_usd: Decimal
    """The ledger's settled sum."""
    hidden_usd: Decimal
    estimated_usd: Decimal
    """At most, for calls that ran out of time."""
    p50_s: float
    p95_s: float
    beyond_budget: int
    """Jobs whose calls took longer than the budget together."""
    seconds: float
    small: dict[str, int]
    """Calls by route."""
    large: dict[str, int]

    @property
    def total_usd(self) -> Decimal:
        """All that is or may be paid."""
        return self.tokens_usd + self.hidden_usd + self.estimated_usd


def requests_of(jobs: int, run: str) -> Iterator[dict[str, Any]]:
    """Small and large calls mixed, each a little different."""
    for number in range(jobs):
        tokens, most = SMALL if number % 5 < SMALL_OF_FIVE else LARGE
        yield {
            "prompt": f"Run {run}, page {number}: {WORDS * (tokens * CHARS_PER_TOKEN // len(WORDS))}",
            "max_tokens": most,
        }


def send(trivet: Running, order: str, jobs: int, run: str) -> tuple[str, int, float]:
    """Run one batch to its end: its name, how many succeeded, and the seconds."""
    name, began = f"{order}-{run}", time.monotonic()
    batch = trivet.client.submit_many(requests_of(jobs, run), name=name, model=MODEL, latency=CLASSES[order])
    batch.wait(timeout=PATIENCE_S)
    return name, batch.progress().succeeded, time.monotonic() - began


def figures(order: str, jobs: int, store: Store, runs: list[tuple[str, int, float]]) -> Figures:
    """Read the calls of these batches."""
    with store.read() as connection:
        rows = [row for name, _, _ in runs for row in connection.execute(_CALLS, {"batch": name})]
    took: Counter[str] = Counter()
    for row in rows:
        took[row.job_id] += row.latency_s
    cuts = statistics.quantiles(took.values(), n=20)
    by_size = {most: Counter(row.route for row in rows if row.max_tokens == most) for most in (SMALL[1], LARGE[1])}
    return Figures(
        order,
        jobs,
        sum(succeeded for _, succeeded, _ in runs),
        len(rows),
        sum((row.cost_usd for row in rows if not row.estimated), Decimal(0)),
        sum((PER_CALL[row.route] for row in rows), Decimal(0)),
        sum((row.cost_usd for row in rows if row.estimated), Decimal(0)),
        cuts[9],
        cuts[18],
        sum(1 for seconds in took.values() if seconds > BUDGET_S),
        sum(seconds for _, _, seconds in runs),
        dict(by_size[SMALL[1]]),
        dict(by_size[LARGE[1]]),
    )


def table(found: list[Figures]) -> Table:
    """Both orders side by side."""
    made = Table(title=f"budget {BUDGET_S:.0f} s", title_justify="left")
    made.add_column("")
    for one in found:
        made.add_column(f"order = {one.order}", justify="right")

    def row(name: str, *cells: str) -> None:
        made.add_row(name, *cells)

    row("jobs succeeded", *(f"{one.succeeded} of {one.jobs}" for one in found))
    row("calls", *(str(one.calls) for one in found))
    row("tokens, USD", *(f"{one.tokens_usd:.4f}" for one in found))
    row("hidden, USD", *(f"{one.hidden_usd:.4f}" for one in found))
    row("calls out of time, at most, USD", *(f"{one.estimated_usd:.4f}" for one in found))
    row("together, USD", *(f"{one.total_usd:.4f}" for one in found))
    row("calls of a job, p50", *(f"{one.p50_s:.2f} s" for one in found))
    row("calls of a job, p95", *(f"{one.p95_s:.2f} s" for one in found))
    row("jobs beyond the budget", *(str(one.beyond_budget) for one in found))
    row("seconds, whole batches", *(f"{one.seconds:.0f}" for one in found))
    for size in ("small", "large"):
        for route in ROUTES:
            row(f"{size} calls at {route}", *(str(getattr(one, size).get(route, 0)) for one in found))
    return made


def main() -> int:
    """Run, print, save."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--jobs", type=int, default=800, help="of each order (default 800)")
    made.add_argument("--turns", type=int, default=2, help="batches of each order (default 2)")
    made.add_argument("--requests", type=int, help="a minute that each route allows (default: no limit)")
    made.add_argument("--workers", type=int, default=1, help="bulk worker processes (default 1)")
    arguments = made.parse_args()
    console = Console(width=max(100, Console().width))
    terms = {"budget_s": BUDGET_S, "attempt_timeout_s": BUDGET_S, "share": 1, "max_rounds": 8, "deadline_s": 86_400}
    terms |= {"backoff_base_s": 1, "backoff_max_s": 60}
    sections: dict[str, dict[str, Any]] = {
        f"classes.{latency}": {**terms, "order": order} for order, latency in CLASSES.items()
    }
    sections |= {f"routes.{name}.costs": {"per_request_usd": str(usd)} for name, usd in PER_CALL.items()}
    limit = {"requests_per_minute": arguments.requests} if arguments.requests else {}
    routes = {name: {**route, **limit} for name, route in ROUTES.items()}
    each = arguments.jobs // arguments.turns
    runs: dict[str, list[tuple[str, int, float]]] = {order: [] for order in CLASSES}
    with running(
        workers=arguments.workers, simulator=("--seed", "1", "--output-median", "200"), route_settings=routes,
        sections=sections,
    ) as trivet:  # fmt: skip
        for provider, (median_s, p95_s) in LATENCY_S.items():
            trivet.simulator.latency(provider, median_s=median_s, p95_s=p95_s)
        for order in CLASSES:  # until it is known how quick each route is
            send(trivet, order, WARM_UP_JOBS, "warm-up")
        for turn, order in itertools.product(range(arguments.turns), CLASSES):
            runs[order].append(send(trivet, order, each, f"turn-{turn}"))
        store = Store(trivet.settings.store_url)
        found = [figures(order, each * arguments.turns, store, runs[order]) for order in CLASSES]
        store.close()
    by_cost, by_priority = found
    console.print(table(found))
    saved = 1 - by_cost.total_usd / by_priority.total_usd
    console.print(f"The order by cost costs {saved:.1%} less.")
    path = save(
        "routing",
        {
            "machine": machine(),
            "options": vars(arguments),
            "orders": [
                {key: str(v) if isinstance(v, Decimal) else v for key, v in asdict(one).items()} for one in found
            ],
        },
    )
    console.print(f"[dim]{path}[/]")
    whole = all(one.succeeded == one.jobs for one in found)
    good = by_cost.total_usd < by_priority.total_usd and by_cost.beyond_budget <= by_priority.beyond_budget
    return 0 if whole and good else 1


if __name__ == "__main__":
    sys.exit(main())
