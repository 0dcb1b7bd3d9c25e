"""The end of jobs: their rows, results and costs, and the counters of their batches."""

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, Integer, bindparam, text

from trivet_store import schema
from trivet_store.database.many_rows import RowsStatement, execute_rows, of_ids, query_rows
from trivet_store.jobs import deliveries, transitions
from trivet_store.jobs.coalescing import FREED_AT_ONCE, free_coalesced
from trivet_store.ledger.spending import note_hits
from trivet_store.schema import Usd
from trivet_store.steps import Ended
from trivet_tasks.foreign_text import clean
from trivet_tasks.states import END_STATES

_ADD_RESULTS = RowsStatement(
    schema.job_results,
    """
    INSERT INTO job_results (job_id, message, stop_reason, error_outcome, error_message, route, cost_usd, latency_s, cached,
                             saved_usd)
    SELECT r.job_id, r.message, r.stop_reason, r.error_outcome, r.error_message, r.route, r.cost_usd, r.latency_s, r.cached,
           r.saved_usd
      FROM {rows}
    """,
)
_COSTS = RowsStatement(
    schema.attempts,
    """
    SELECT job_id, sum(cost_usd) AS cost,
           sum(CASE WHEN cost_usd IS NULL THEN 1 ELSE 0 END) AS unpriced
      FROM attempts
     WHERE job_id IN (SELECT r.job_id FROM {rows}) AND (NOT estimated OR outcome = 'succeeded') GROUP BY job_id
    """,
    {"cost": Usd()},
)
_BOOK = text("UPDATE job_results SET cost_usd = :cost WHERE job_id = :id").bindparams(bindparam("cost", type_=Usd()))
_BOOK_BATCH = text("UPDATE batches SET cost_usd = cost_usd + :more WHERE id = :id").bindparams(
    bindparam("more", type_=Usd())
)
_COUNT = text(
    """
    UPDATE batches SET ended = ended + :ended, succeeded = succeeded + :succeeded, failed = failed + :failed,
                       expired = expired + :expired, cancelled = cancelled + :cancelled, cost_usd = cost_usd + :cost,
                       seq = seq + :ended
     WHERE id = :id
    RETURNING seq, name, ended >= total AND state IN ('open', 'cancelled') AS done
    """
).bindparams(bindparam("cost", type_=Usd()))
_CANCELLED = of_ids("SELECT id FROM batches WHERE id IN :ids AND state = 'cancelled'", Integer)


class Cost(NamedTuple):
    """Cost of the settled calls of a job, USD."""

    known: Decimal
    """The sum of those with a price: what its batch counts."""
    unpriced: bool
    """True if a call has no price."""

    @property
    def whole(self) -> Decimal | None:
        """The cost that the job reports; None where that would leave a call out."""
        return None if self.unpriced else self.known


NOTHING = Cost(Decimal(0), False)


class Ending(NamedTuple):
    """Other rows that ending jobs changed."""

    batches: tuple[int, ...]
    """Batches that they belong to."""
    crowded: bool = False
    """True if more coalesced jobs may wait for them than one transaction frees: the rest is freed later."""


def end_jobs(connection: Connection, ended: Sequence[Ended], now: float) -> Ending:
    """End jobs whose rows the caller has locked. Jobs coalesced with them go back to waiting.

    Within a batch each gets the next number; the batch row's lock makes the numbers gapless in the order of commits,
    so a reader that remembers the last number misses nothing.
    """
    if not ended:
        return Ending(())
    leaders = [e.job_id for e in ended if e.led]
    # first: locked rows are skipped here, and their holders may wait for the rows that are locked below
    freed = free_coalesced(connection, leaders) if leaders else 0
    costs = costs_of(connection, [e.job_id for e in ended])
    sequence, names, done = _count(connection, ended, costs)
    note_hits(connection, ended, names, now)
    transitions.end(
        connection,
        [
            {
                "id": e.job_id,
                "state": e.end.state.value,
                "ended_at": now,
                "batch_seq": sequence.get(e.job_id),
                "last_outcome": e.end.outcome.value if e.end.outcome else None,
            }
            for e in ended
        ],
    )
    execute_rows(
        connection,
        _ADD_RESULTS,
        [
            {
                "job_id": e.job_id,
                "message": e.end.message,
                "stop_reason": clean(e.end.stop_reason, 40),
                "error_outcome": e.end.outcome.value if e.end.outcome else None,
                "error_message": clean(e.end.error, 4_000),
                "route": e.route,
                "cost_usd": costs.get(e.job_id, NOTHING).whole,
                "latency_s": max(0.0, now - e.created_at),
                "cached": e.end.hit is not None,
                "saved_usd": e.end.hit.saved_usd if e.end.hit else None,
            }
            for e in ended
        ],
    )
    deliveries.end_of(connection, [e.job_id for e in ended if e.called_back], done, now)
    of_batches = tuple(sorted({e.batch_id for e in ended if e.batch_id is not None}))
    return Ending(of_batches, freed >= FREED_AT_ONCE)


def book_again(connection: Connection, batch_of: Mapping[str, int | None], before: Mapping[str, Cost]) -> None:
    """Bring the costs of ended jobs, and of their batches, up to date after calls of theirs were settled or priced anew.

    Args:
        batch_of: the jobs, whose rows the caller holds, and the batch of each.
        before: what they cost before. A job's own record may have been pruned; its batch's sum has it all the same.
    """
    costs = costs_of(connection, list(batch_of))
    more: dict[int, Decimal] = {}
    for job_id, batch_id in batch_of.items():
        cost, was = costs.get(job_id, NOTHING), before.get(job_id, NOTHING)
        if cost == was:
            continue
        connection.execute(_BOOK, {"id": job_id, "cost": cost.whole})
        if batch_id is not None:
            more[batch_id] = more.get(batch_id, Decimal(0)) + cost.known - was.known
    for batch_id, amount in sorted(more.items()):
        connection.execute(_BOOK_BATCH, {"id": batch_id, "more": amount})


def cancelled_batches(connection: Connection, ids: Collection[int]) -> set[int]:
    """Return which of these batches were cancelled."""
    return {row.id for row in connection.execute(_CANCELLED, {"ids": sorted(ids)})} if ids else set()


def costs_of(connection: Connection, ids: Sequence[str]) -> dict[str, Cost]:
    """Return the costs of the calls of jobs. Jobs without calls are left out."""
    if not ids:
        return {}
    return {
        row.job_id: Cost(row.cost or Decimal(0), bool(row.unpriced))
        for row in query_rows(connection, _COSTS, [{"job_id": job_id} for job_id in ids])
    }


def _count(
    connection: Connection, ended: Sequence[Ended], costs: dict[str, Cost]
) -> tuple[dict[str, int], dict[int, str], list[int]]:
    """Raise the batches' counters, in the order of their ids.

    Returns each job's number, the batches' names, and the batches that are done by this.
    """
    by_batch: dict[int, list[Ended]] = {}
    for entry in ended:
        if entry.batch_id is not None:
            by_batch.setdefault(entry.batch_id, []).append(entry)
    sequence: dict[str, int] = {}
    names: dict[int, str] = {}
    done: list[int] = []
    for batch_id, entries in sorted(by_batch.items()):
        states = [entry.end.state for entry in entries]
        row = connection.execute(
            _COUNT,
            {
                "id": batch_id,
                "ended": len(entries),
                **{state.value: states.count(state) for state in END_STATES},
                "cost": sum((costs.get(entry.job_id, NOTHING).known for entry in entries), Decimal(0)),
            },
        ).one()
        names[batch_id] = row.name
        if row.done:
            done.append(batch_id)
        first = row.seq - len(entries) + 1
        sequence.update({entry.job_id: first + offset for offset, entry in enumerate(entries)})
    return sequence, names, done
