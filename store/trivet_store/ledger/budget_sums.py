"""Sums that budgets count, in one statement and so at one moment: spent, and still possible for calls and messages.

A job that goes from a queue to a call, or whose call is settled, is in one of the three at any moment and never in none.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, text

from trivet_store.ledger.budgets import BudgetRow
from trivet_store.ledger.spending import Spent
from trivet_store.schema import Usd, usd_sum
from trivet_tasks.config.budgets import Window
from trivet_tasks.requests.prompt_cache import CacheWrite


class InFlight(NamedTuple):
    """Similar calls under way, or similar jobs in the queue of a route; `jobs` is their number."""

    route: str
    batch_id: int | None
    labels: str
    jobs: int
    maximum_usd: Decimal
    """Maximum cost of all these calls; those without a price count as nothing."""
    model: str = ""
    """Tokens of the queued jobs, whose price is not recorded yet."""
    input_estimate: int = 0
    max_tokens: int = 0
    cache_write: CacheWrite = ""
    """Time for which the provider's prompt cache keeps what they write to it."""


class Sums(NamedTuple):
    """All that budgets count at one moment."""

    spent: tuple[Spent, ...]
    """Spending in the window of each budget that was asked for."""
    calling: tuple[InFlight, ...]
    queued: tuple[InFlight, ...]


class Waiting(NamedTuple):
    """Jobs that wait and could be dispatched, with the same labels for budgets."""

    batch_id: int | None
    labels: str
    jobs: int


_COLUMNS = (
    "kind, number, route, batch_id, labels, model, input_estimate, max_tokens, cache_write, jobs, settled, estimated"
)
_SPENT = """
    SELECT 'spent', CAST(:number_{n} AS integer), CAST(NULL AS varchar), CAST(NULL AS integer), CAST(NULL AS varchar),
           CAST(NULL AS varchar), 0, 0, '', coalesce(sum(unpriced), 0), coalesce({settled}, {nothing}), coalesce({estimated}, {nothing})
      FROM spend WHERE day >= :day_{n} {scope}
"""
_CALLING = """
    SELECT 'calling', 0, a.route, f.batch_id, f.labels, '', 0, 0, '', count(*), 0, coalesce({cost}, {nothing})
      FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN flows f ON f.id = j.flow_id
     WHERE a.outcome IS NULL GROUP BY a.route, f.batch_id, f.labels
"""
# SQLite uses a partial index only where the statement repeats its condition word for word
_QUEUED = """
    SELECT 'queued', 0, j.route, f.batch_id, f.labels, f.model, j.input_estimate, j.max_tokens,
           f.cache_write, count(*), 0, 0
      FROM jobs j JOIN flows f ON f.id = j.flow_id
     WHERE j.state IN ('dispatched', 'running') AND j.state = 'dispatched' AND j.route IS NOT NULL
     GROUP BY j.route, f.batch_id, f.labels, f.model, j.input_estimate, j.max_tokens, f.cache_write
"""
_WAITING = text(
    """
    SELECT f.batch_id, f.labels, count(*) AS jobs FROM flows f
      JOIN jobs j ON j.flow_id = f.id AND j.state = 'waiting' AND j.ended_at IS NULL
     WHERE f.active AND NOT f.held GROUP BY f.batch_id, f.labels
    """
)


def sums(connection: Connection, budgets: Sequence[tuple[BudgetRow, Window]]) -> Sums:
    """Return what these budgets, in these windows, count now."""
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    total = partial(usd_sum, connection.dialect)
    nothing = "0" if connection.dialect.name == "postgresql" else "'0 0'"
    for n, (row, window) in enumerate(budgets):
        scope, given = _scope(row, n)
        parts.append(
            _SPENT.format(
                n=n, scope=scope, settled=total("settled_usd"), estimated=total("estimated_usd"), nothing=nothing
            )
        )
        parameters |= {f"number_{n}": n, f"day_{n}": max(window.first_day, row.batch_day or 0), **given}
    # the first of the parts names the columns
    every = " UNION ALL ".join([*parts, _CALLING.format(cost=total("a.cost_usd"), nothing=nothing), _QUEUED])
    statement = text(f"WITH counted ({_COLUMNS}) AS ({every}) SELECT * FROM counted").columns(
        settled=Usd(), estimated=Usd()
    )
    spent = [Spent()] * len(budgets)
    calling: list[InFlight] = []
    queued: list[InFlight] = []
    for found in connection.execute(statement, parameters):
        if found.kind == "spent":
            spent[found.number] = Spent(found.settled, found.estimated, 0, int(found.jobs))
            continue
        alike = InFlight(
            found.route, found.batch_id, found.labels, int(found.jobs), found.estimated, found.model,
            found.input_estimate, found.max_tokens, found.cache_write,
        )  # fmt: skip
        (calling if found.kind == "calling" else queued).append(alike)
    return Sums(tuple(spent), tuple(calling), tuple(queued))


def waiting(connection: Connection) -> list[Waiting]:
    """Return the jobs that could be dispatched now. Its duration grows with the backlog."""
    return [Waiting(*row) for row in connection.execute(_WAITING)]


def _scope(row: BudgetRow, n: int) -> tuple[str, dict[str, Any]]:
    """The condition on rows of `spend`, and its parameters."""
    budget = row.settings
    if budget.batch:
        return f"AND batch_id = :batch_{n}", {f"batch_{n}": -1 if row.batch_id is None else row.batch_id}
    if budget.route:
        return f"AND batch_id IS NULL AND route = :route_{n}", {f"route_{n}": budget.route}
    label = budget.label
    if label is None:
        return "AND batch_id IS NULL", {}
    # labels are JSON objects of texts, as `labels_of` writes them: this is in them where the label is, and nowhere else
    pair = orjson.dumps(dict([label])).decode()[1:-1]
    return f"AND batch_id IS NULL AND replace(labels, :pair_{n}, '') <> labels", {f"pair_{n}": pair}
