"""What became of calls and of jobs, written for a whole group in one transaction: attempts, jobs, results, counters."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, bindparam, insert, text, update

from trivet_tasks.outcomes import JobState, Outcome
from trivet_tasks.store.engine import Store
from trivet_tasks.store.schema import Usd, attempts, job_results
from trivet_tasks.usage import Usage


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of one provider call."""

    attempt_id: str
    outcome: Outcome
    latency_s: float
    status: int | None = None
    request_id: str | None = None
    message: str | None = None
    """The provider's words, of a call that failed."""
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    estimated: bool = False
    list_price: str | None = None
    multipliers: str | None = None
    price_version: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The job is over."""

    state: JobState
    message: bytes | None = None
    """The provider's answer, JSON."""
    stop_reason: str | None = None
    outcome: Outcome | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GoOn:
    """The job's next attempt goes to `route` at once, in the same round."""

    route: str
    until: float
    tried: str
    spent_s: float
    doubted_by: str | None
    outcome: Outcome
    error: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The job goes back to waiting: until `not_before`, or until a route has room."""

    not_before: float | None
    round: int
    tried: str
    spent_s: float
    doubted_by: str | None
    outcome: Outcome | None
    error: str | None


Next = End | GoOn | Wait


@dataclass(frozen=True, slots=True)
class Finished:
    """A call that is over and what follows for its job; nothing does where another call of it decides."""

    job_id: str
    take_up: int
    lease_id: str
    settlement: Settlement
    next: Next | None
    route: str | None = None
    """Where the call went; None: where the job was dispatched to. A rival's call went elsewhere."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has just ended. `route` is where its last call went."""

    job_id: str
    batch_id: int | None
    created_at: float
    end: End
    route: str | None


@dataclass(frozen=True, slots=True)
class Written:
    """What a group's transaction did."""

    ended_jobs: tuple[str, ...]
    ended_batches: tuple[int, ...]
    gone_on: tuple[Finished, ...]
    """Those whose next message is to be sent now, under take-up `take_up + 1`."""
    refused: tuple[str, ...]
    """Jobs whose token no longer held: their result was not written, their cost was."""


_FENCE = """
    SELECT id, take_up, lease_id, state, batch_id, created_at, route, cancel_requested FROM jobs
     WHERE id IN :ids ORDER BY id
"""
_GO_ON = text(
    """
    UPDATE jobs SET state = 'dispatched', lease_id = NULL, route = :route, dispatched_until = :until,
                    take_up = take_up + 1, tried = :tried, round_spent_s = :spent_s, doubted_by = :doubted_by,
                    last_outcome = :outcome, last_error = :error
     WHERE id = :id
    """
)
_WAIT = text(
    """
    UPDATE jobs SET state = :state, lease_id = NULL, route = NULL, dispatched_until = NULL, not_before = :not_before,
                    round = :round, tried = :tried, round_spent_s = :spent_s, doubted_by = :doubted_by,
                    last_outcome = coalesce(:outcome, last_outcome), last_error = coalesce(:error, last_error)
     WHERE id = :id
    """
)
_END = text(
    """
    UPDATE jobs SET state = :state, ended_at = :now, batch_seq = :batch_seq, lease_id = NULL, dispatched_until = NULL,
                    not_before = NULL, last_outcome = coalesce(:outcome, last_outcome)
     WHERE id = :id
    """
)
_CANCELLED_BATCHES = text("SELECT id FROM batches WHERE id IN :ids AND state = 'cancelled'").bindparams(
    bindparam("ids", expanding=True)
)
_COSTS = (
    text(
        """
    SELECT job_id, sum(cost_usd) AS cost,
           sum(CASE WHEN cost_usd IS NULL AND outcome = 'succeeded' THEN 1 ELSE 0 END) AS unpriced
      FROM attempts WHERE job_id IN :ids AND (NOT estimated OR outcome = 'succeeded') GROUP BY job_id
    """
    )
    .bindparams(bindparam("ids", expanding=True))
    .columns(cost=Usd())
)
_COUNT = text(
    """
    UPDATE batches SET ended = ended + :ended, succeeded = succeeded + :succeeded, failed = failed + :failed,
                       expired = expired + :expired, cancelled = cancelled + :cancelled, cost_usd = cost_usd + :cost
     WHERE id = :id
    RETURNING ended, total, state
    """
).bindparams(bindparam("cost", type_=Usd()))


def finish(store: Store, connection: Connection, group: Sequence[Finished]) -> Written:
    """Write what became of a group of calls. Attempts are settled in any case; jobs only under tokens that still hold."""
    now = store.now(connection)
    # jobs are locked before attempts, as a rescuer does it
    statement = text(_FENCE + store.for_update).bindparams(bindparam("ids", expanding=True))
    current = {row.id: row for row in connection.execute(statement, {"ids": [f.job_id for f in group]})}
    settle(connection, [finished.settlement for finished in group])
    cancelled = _cancelled_batches(connection, {row.batch_id for row in current.values() if row.batch_id is not None})
    ended: list[Ended] = []
    gone_on: list[Finished] = []
    waits: list[dict[str, object]] = []
    refused: list[str] = []
    for finished in group:
        if finished.next is None:
            continue
        row = current.get(finished.job_id)
        if row is None or (row.take_up, row.lease_id, row.state) != (finished.take_up, finished.lease_id, "running"):
            refused.append(finished.job_id)
            continue
        step: Next = finished.next
        if (row.cancel_requested or row.batch_id in cancelled) and not (
            isinstance(step, End) and step.state is JobState.SUCCEEDED
        ):
            step = End(JobState.CANCELLED)
        match step:
            case End():
                ended.append(Ended(row.id, row.batch_id, row.created_at, step, finished.route or row.route))
            case GoOn():
                gone_on.append(finished)
            case Wait():
                waits.append(
                    {
                        "id": row.id,
                        "state": "waiting" if step.not_before is None else "delayed",
                        "not_before": step.not_before,
                        "round": step.round,
                        "tried": step.tried,
                        "spent_s": step.spent_s,
                        "doubted_by": step.doubted_by,
                        "outcome": step.outcome,
                        "error": clean(step.error, 2_000),
                    }
                )
    if gone_on:
        connection.execute(_GO_ON, [_go_on_row(finished) for finished in gone_on])
    if waits:
        connection.execute(_WAIT, waits)
    batches_done = end_jobs(connection, ended, now)
    return Written(tuple(e.job_id for e in ended), batches_done, tuple(gone_on), tuple(refused))


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Write what came of calls into their attempt rows."""
    if not settlements:
        return
    statement = update(attempts).where(attempts.c.id == bindparam("attempt_id"))
    connection.execute(statement, [_settled_row(settlement) for settlement in settlements])


def end_jobs(connection: Connection, ended: Sequence[Ended], now: float) -> tuple[int, ...]:
    """End jobs whose rows the caller holds. Returns the batches they belong to.

    Within a batch each gets the next number; the batch row's lock makes the numbers gapless in the order of commits,
    so a reader that remembers the last number misses nothing.
    """
    if not ended:
        return ()
    costs = _costs(connection, [e.job_id for e in ended])
    sequence = _count(connection, ended, costs)
    connection.execute(
        _END,
        [
            {
                "id": e.job_id,
                "state": e.end.state.value,
                "now": now,
                "batch_seq": sequence.get(e.job_id),
                "outcome": e.end.outcome.value if e.end.outcome else None,
            }
            for e in ended
        ],
    )
    connection.execute(
        insert(job_results),
        [
            {
                "job_id": e.job_id,
                "message": e.end.message,
                "stop_reason": clean(e.end.stop_reason, 40),
                "error_outcome": e.end.outcome.value if e.end.outcome else None,
                "error_message": clean(e.end.error, 4_000),
                "route": e.route,
                "cost_usd": costs.get(e.job_id, Decimal(0)),
                "latency_s": max(0.0, now - e.created_at),
                "cached": False,
            }
            for e in ended
        ],
    )
    return tuple(sorted({e.batch_id for e in ended if e.batch_id is not None}))


def _cancelled_batches(connection: Connection, ids: set[int]) -> set[int]:
    """Those that were cancelled: a job claimed at that very moment was not asked, and nobody would claim it again."""
    return {row.id for row in connection.execute(_CANCELLED_BATCHES, {"ids": sorted(ids)})} if ids else set()


def _costs(connection: Connection, ids: Sequence[str]) -> dict[str, Decimal | None]:
    return {
        row.job_id: None if row.unpriced else row.cost or Decimal(0)
        for row in connection.execute(_COSTS, {"ids": list(ids)})
    }


def _count(connection: Connection, ended: Sequence[Ended], costs: dict[str, Decimal | None]) -> dict[str, int]:
    """Raise the batches' counters, in the order of their ids; give each job its number."""
    by_batch: dict[int, list[Ended]] = {}
    for entry in ended:
        if entry.batch_id is not None:
            by_batch.setdefault(entry.batch_id, []).append(entry)
    sequence: dict[str, int] = {}
    for batch_id, entries in sorted(by_batch.items()):
        states = [entry.end.state for entry in entries]
        row = connection.execute(
            _COUNT,
            {
                "id": batch_id,
                "ended": len(entries),
                **{state.value: states.count(state) for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED)},
                "cost": sum((costs.get(entry.job_id) or Decimal(0) for entry in entries), Decimal(0)),
            },
        ).one()  # fmt: skip
        first = row.ended - len(entries) + 1
        sequence.update({entry.job_id: first + offset for offset, entry in enumerate(entries)})
    return sequence


def _go_on_row(finished: Finished) -> dict[str, object]:
    step = finished.next
    assert isinstance(step, GoOn)
    return {
        "id": finished.job_id,
        "route": step.route,
        "until": step.until,
        "tried": step.tried,
        "spent_s": step.spent_s,
        "doubted_by": step.doubted_by,
        "outcome": step.outcome.value,
        "error": clean(step.error, 2_000),
    }


def _settled_row(settlement: Settlement) -> dict[str, object]:
    usage = settlement.usage or Usage()
    row: dict[str, object] = {
        "attempt_id": settlement.attempt_id,
        "outcome": settlement.outcome.value,
        "latency_s": settlement.latency_s,
        "status": settlement.status,
        "request_id": clean(settlement.request_id, 200),
        "message": clean(settlement.message, 2_000),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_5m_tokens": usage.cache_write_5m_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "cost_usd": settlement.cost_usd,
        "estimated": settlement.estimated,
        "list_price": settlement.list_price,
        "multipliers": settlement.multipliers,
        "price_version": settlement.price_version,
    }
    return row


def clean(words: str | None, longest: int) -> str | None:
    """A provider's words as a column takes them: cut to length, without NUL (PostgreSQL) and lone surrogates (all)."""
    return None if words is None else words[:longest].replace("\0", "").encode("utf-8", "replace").decode("utf-8")
