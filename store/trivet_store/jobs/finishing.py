"""Records the results of calls and jobs for a whole group in one transaction: attempts, jobs, results, counters."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.locking import select_locked
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_store.jobs import transitions
from trivet_store.jobs.ending import book_again, cancelled_batches, costs_of, end_jobs
from trivet_store.ledger import spending
from trivet_store.steps import End, Ended, GoOn, JobRound, Next, Settlement, Transition, Wait, Written
from trivet_tasks.foreign_text import clean
from trivet_tasks.jobs import proxy_errors_text, tried_text
from trivet_tasks.outcomes import Usage
from trivet_tasks.states import END_STATES, JobState

_FENCE = RowsStatement(
    schema.jobs,
    """
    SELECT id, claim, lease_id, state, batch_id, created_at, route, cancel_requested, cache_key, called_back
      FROM jobs
     WHERE id IN (SELECT r.id FROM {rows}) ORDER BY id {FOR UPDATE}
    """,
)
_SETTLE = RowsStatement(
    schema.attempts,
    """
    UPDATE attempts SET outcome = r.outcome, latency_s = r.latency_s, status = r.status, request_id = r.request_id,
                        message = r.message, input_tokens = r.input_tokens, output_tokens = r.output_tokens,
                        cache_read_tokens = r.cache_read_tokens, cache_write_5m_tokens = r.cache_write_5m_tokens,
                        cache_write_1h_tokens = r.cache_write_1h_tokens, cost_usd = r.cost_usd, estimated = r.estimated,
                        list_price = r.list_price, multipliers = r.multipliers, price_version = r.price_version,
                        price_terms = r.price_terms, price_parts = r.price_parts, model_used = r.model_used,
                        list_usd = r.list_usd, negotiated_price = r.negotiated_price
      FROM {rows}
     WHERE attempts.id = r.id
    """,
)
_LOCK_BATCHES = "SELECT id FROM batches WHERE id IN :ids ORDER BY id {FOR UPDATE}"


def finish(store: Store, connection: Connection, group: Sequence[Transition]) -> Written:
    """Record a group of finished calls. Attempts are settled in any case; jobs only under valid claim numbers."""
    now = store.now(connection)
    # lock jobs before attempts, as a rescuer does
    fenced = query_rows(connection, _FENCE, [{"id": transition.job.id} for transition in group])
    current = {row.id: row for row in fenced}
    late = {row.id: row.batch_id for row in current.values() if row.state in END_STATES}
    before = costs_of(connection, list(late))
    counted = spending.calls(connection, [transition.settlement.attempt_id for transition in group])
    settle(connection, [transition.settlement for transition in group])
    if late:
        # lock all batches of the group at once, by id: they are counted in that order below
        ids = {row.batch_id for row in current.values() if row.batch_id is not None}
        if ids:
            select_locked(connection, _LOCK_BATCHES, ids=sorted(ids))
        book_again(connection, late, before)
    # a job claimed while its batch was cancelled has no cancel request of its own, and nobody would claim it again
    cancelled = cancelled_batches(connection, {row.batch_id for row in current.values() if row.batch_id is not None})
    ended: list[Ended] = []
    gone_on: list[Transition] = []
    waits: list[dict[str, object]] = []
    refused: list[str] = []
    for transition in group:
        if transition.next is None:
            continue
        job = transition.job
        row = current.get(job.id)
        if row is None or (row.claim, row.lease_id, row.state) != (job.claim, job.target.lease_id, JobState.RUNNING):
            refused.append(job.id)
            continue
        step: Next = transition.next
        if (row.cancel_requested or row.batch_id in cancelled) and not (
            isinstance(step, End) and step.state is JobState.SUCCEEDED
        ):
            step = End(JobState.CANCELLED)
        match step:
            case End():
                # a hedge's call went elsewhere than the job was dispatched to
                led, called_back = row.cache_key is not None, bool(row.called_back)
                end = Ended(row.id, row.batch_id, row.created_at, step, job.target.route, led, called_back)
                ended.append(end)
            case GoOn():
                gone_on.append(transition)
            case Wait():
                waits.append(
                    {
                        "id": row.id,
                        "not_before": step.not_before,
                        "round": step.round.number,
                        **_round_columns(step.round),
                        "last_outcome": step.outcome,
                        "last_error": clean(step.error, 2_000),
                    }
                )
    transitions.fail_over(connection, [_go_on_row(transition) for transition in gone_on])
    transitions.wait(connection, waits)
    ending = end_jobs(connection, ended, now)
    spending.book_settled(connection, counted, (transition.settlement for transition in group))
    return Written(
        tuple(e.job_id for e in ended), ending.batches, tuple(gone_on), tuple(refused), crowded=ending.crowded
    )


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Write the results of calls into their attempt rows."""
    execute_rows(connection, _SETTLE, [_settled_row(settlement) for settlement in settlements])


def _go_on_row(transition: Transition) -> dict[str, object]:
    step = transition.next
    assert isinstance(step, GoOn)
    return {
        "id": transition.job.id,
        "route": step.route,
        "dispatched_until": step.until,
        **_round_columns(step.round),
        "last_outcome": step.outcome.value,
        "last_error": clean(step.error, 2_000),
    }


def _round_columns(so_far: JobRound) -> dict[str, object]:
    return {
        "round_spent_s": so_far.spent_s,
        "tried": tried_text(so_far.tried),
        "doubted_by": so_far.doubted_by,
        "proxy_errors": proxy_errors_text(so_far.proxy_errors),
        "too_slow": tried_text(so_far.too_slow),
    }


def _settled_row(settlement: Settlement) -> dict[str, Any]:
    usage = settlement.usage or Usage()
    row: dict[str, Any] = {
        "id": settlement.attempt_id,
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
        "price_terms": settlement.price_terms,
        "price_parts": settlement.price_parts,
        "model_used": clean(settlement.model_used, 120),
        "list_usd": settlement.list_usd,
        "negotiated_price": settlement.negotiated_price,
    }
    return row
