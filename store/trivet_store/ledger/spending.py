"""Counters of spending beside the ledger: by day, route and labels, and once more by day, route and batch.

So a budget on all jobs, a tag or a route reads no more rows where there are more batches. The transactions that settle
calls or price them again keep the counters, so they equal the sums over `attempts` at every moment, to the last digit:
a call counts from the moment it has an outcome, on the day (UTC) on which it began. Deleted attempts stay counted.

Savings of the response cache are counted by the hour; those sums also stay when jobs are pruned.

The rows of `spend` are the last that a transaction locks, all at once and in one order: they stay locked no longer
than a commit takes.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, text

from trivet_store import schema
from trivet_store.database.engine import BULK_ROWS
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_store.schema import Usd, usd_sum
from trivet_store.steps import Ended, Settlement
from trivet_tasks.config.budgets import DAY_S

PARTS = 8
"""Rows into which each counter is split on PostgreSQL, by process: a worker would wait for another's commit at every group."""
HOUR_S = 3_600
KEPT_DAYS = 400
"""About thirteen months: this month, and the twelve before it."""
NO_LABELS = "{}"


class Place(NamedTuple):
    """The key under which a call is counted."""

    day: int
    """Days since 1970-01-01, UTC."""
    route: str
    batch_id: int | None
    """The batch of the row; None: all calls of the day on the route with these labels, whatever their batch."""
    labels: str
    """JSON: the job's labels for budgets (`budgets`); empty in a batch's own row."""


class Spent(NamedTuple):
    """Cost of calls in USD, and their number."""

    settled_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)
    """Upper bounds: timeouts, and calls whose fate is not known."""
    calls: int = 0
    unpriced: int = 0
    """The calls without a known price; the sums lack them."""

    def plus(self, other: "Spent") -> "Spent":
        """Return the sum of both."""
        return Spent(
            self.settled_usd + other.settled_usd,
            self.estimated_usd + other.estimated_usd,
            self.calls + other.calls,
            self.unpriced + other.unpriced,
        )

    def minus(self, other: "Spent") -> "Spent":
        """Return this less the other."""
        return self.plus(Spent(-other.settled_usd, -other.estimated_usd, -other.calls, -other.unpriced))

    @property
    def usd(self) -> Decimal:
        """Settled and estimated cost together."""
        return self.settled_usd + self.estimated_usd


class Call(NamedTuple):
    """A call as the ledger has it."""

    place: Place
    spent: Spent
    estimated: bool


NOTHING = Spent()
_CALLS = RowsStatement(
    schema.attempts,
    """
    SELECT a.id, a.started_at, a.route, f.batch_id, f.labels, a.outcome, a.estimated,
           CASE WHEN a.outcome IS NULL THEN NULL ELSE a.cost_usd END AS cost_usd
      FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN flows f ON f.id = j.flow_id
     WHERE a.id IN (SELECT r.id FROM {rows}) ORDER BY a.id {FOR UPDATE OF a}
    """,
    {"cost_usd": Usd()},
)
_BOOK = RowsStatement(
    schema.spend,
    """
    INSERT INTO spend (day, route, scope, part, batch_id, labels, settled_usd, estimated_usd, calls, unpriced)
    SELECT r.day, r.route, r.scope, r.part, r.batch_id, r.labels, r.settled_usd, r.estimated_usd, r.calls, r.unpriced
      FROM {rows} WHERE true
    ON CONFLICT (day, route, scope, part) DO UPDATE
       SET settled_usd = spend.settled_usd + excluded.settled_usd,
           estimated_usd = spend.estimated_usd + excluded.estimated_usd,
           calls = spend.calls + excluded.calls, unpriced = spend.unpriced + excluded.unpriced
    """,
)
_ADD_SAVINGS = text(
    """
    INSERT INTO cache_savings (hour, latency, model, batch, hits, unpriced, saved_usd)
    VALUES (:hour, :latency, :model, :batch, :hits, :unpriced, :saved_usd)
    ON CONFLICT (hour, latency, model, batch) DO UPDATE
       SET hits = cache_savings.hits + excluded.hits, unpriced = cache_savings.unpriced + excluded.unpriced,
           saved_usd = cache_savings.saved_usd + excluded.saved_usd
    """
).bindparams(bindparam("saved_usd", type_=Usd()))
_FORGET = text("DELETE FROM spend WHERE day < :day")


def calls(connection: Connection, ids: Sequence[str]) -> dict[str, Call]:
    """Return calls as they are counted now, locked until the transaction ends. Unknown ids are left out."""
    found: dict[str, Call] = {}
    for first in range(0, len(ids), BULK_ROWS):
        rows = query_rows(connection, _CALLS, [{"id": attempt_id} for attempt_id in ids[first : first + BULK_ROWS]])
        for attempt_id, started_at, route, batch_id, labels, outcome, estimated, cost_usd in rows:
            spent = NOTHING if outcome is None else spent_by(cost_usd, estimated=estimated)
            place = Place(int(started_at // DAY_S), route, batch_id, labels)
            found[attempt_id] = Call(place, spent, bool(estimated))
    return found


def spent_by(cost_usd: Decimal | None, *, estimated: bool) -> Spent:
    """Return the counters of one call with this cost; None = unpriced."""
    if cost_usd is None:
        return Spent(calls=1, unpriced=1)
    return Spent(estimated_usd=cost_usd, calls=1) if estimated else Spent(settled_usd=cost_usd, calls=1)


def book(connection: Connection, before: Mapping[str, Call], after: Iterable[tuple[str, Spent]]) -> None:
    """Count the present cost of calls. A transaction does this last: see the head of this module.

    Args:
        before: the calls as they were counted so far; others are left out.
        after: calls by id, and how they count from now on. Each once.
    """
    more: dict[Place, Spent] = {}
    for attempt_id, spent in after:
        call = before.get(attempt_id)
        if call is not None and spent != call.spent:
            change = spent if call.spent is NOTHING else spent.minus(call.spent)
            for place in _counted_at(call.place):
                so_far = more.get(place)
                more[place] = change if so_far is None else so_far.plus(change)
    part = 0 if connection.dialect.name == "sqlite" else os.getpid() % PARTS
    rows: list[dict[str, Any]] = [
        {**place._asdict(), "scope": _scope(place.batch_id, place.labels), "part": part, **spent._asdict()}
        for place, spent in more.items()
    ]
    execute_rows(connection, _BOOK, sorted(rows, key=lambda row: (row["day"], row["route"], row["scope"])))


def book_settled(connection: Connection, before: Mapping[str, Call], settlements: Iterable[Settlement]) -> None:
    """Count the results of calls."""
    last = {s.attempt_id: spent_by(s.cost_usd, estimated=s.estimated) for s in settlements}
    book(connection, before, last.items())


def book_priced(
    connection: Connection, before: Mapping[str, Call], costs: Iterable[tuple[str, Decimal | None]]
) -> None:
    """Count calls at a new price; None = unpriced."""
    known = ((attempt_id, cost) for attempt_id, cost in costs if attempt_id in before)
    book(connection, before, ((id, spent_by(cost, estimated=before[id].estimated)) for id, cost in known))


def book_lost(connection: Connection, ids: Sequence[str]) -> None:
    """Count calls that were in flight and have been given an outcome in this transaction."""
    if ids:
        now = calls(connection, ids)
        uncounted = {attempt_id: call._replace(spent=NOTHING) for attempt_id, call in now.items()}
        book(connection, uncounted, ((attempt_id, call.spent) for attempt_id, call in now.items()))


def note_hits(connection: Connection, ended: Sequence[Ended], names: Mapping[int, str], now: float) -> None:
    """Count the jobs that were answered from the cache.

    Args:
        names: of their batches.
    """
    found: dict[tuple[str, str, str], list[Decimal | None]] = {}
    for entry in ended:
        if entry.end.hit is not None:
            batch = "" if entry.batch_id is None else names[entry.batch_id]
            found.setdefault((entry.end.hit.latency, entry.end.hit.model, batch), []).append(entry.end.hit.saved_usd)
    for (latency, model, batch), amounts in sorted(found.items()):
        connection.execute(
            _ADD_SAVINGS,
            {
                "hour": int(now) // HOUR_S * HOUR_S,
                "latency": latency,
                "model": model,
                "batch": batch,
                "hits": len(amounts),
                "unpriced": amounts.count(None),
                "saved_usd": sum((amount for amount in amounts if amount is not None), Decimal(0)),
            },
        )


def by_route(connection: Connection, now: float) -> dict[str, Spent]:
    """Return the cost of the calls of today (UTC) so far, by route; routes without any are left out."""
    statement = text(
        f"""
        SELECT route, {usd_sum(connection.dialect, "settled_usd")} AS settled,
               {usd_sum(connection.dialect, "estimated_usd")} AS estimated,
               sum(calls) AS calls, sum(unpriced) AS unpriced
          FROM spend WHERE day >= :day AND batch_id IS NULL GROUP BY route
        """
    ).columns(settled=Usd(), estimated=Usd())
    found = connection.execute(statement, {"day": int(now // DAY_S)})
    return {row.route: Spent(row.settled, row.estimated, int(row.calls), int(row.unpriced)) for row in found}


def forget_old(connection: Connection, now: float) -> None:
    """Delete counters that are no longer asked for."""
    connection.execute(_FORGET, {"day": int(now // DAY_S) - KEPT_DAYS})


@lru_cache(maxsize=1024)
def _counted_at(place: Place) -> tuple[Place, ...]:
    everybody = place._replace(batch_id=None)
    return (everybody,) if place.batch_id is None else (everybody, place._replace(labels=NO_LABELS))


@lru_cache(maxsize=1024)
def _scope(batch_id: int | None, labels: str) -> str:
    """Return a short key for batch and labels: long tags cannot be the key of an index."""
    batch = str(batch_id or 0)
    return batch if labels == NO_LABELS else f"{batch}:{blake2b(labels.encode(), digest_size=16).hexdigest()}"
