"""Records the results of calls and jobs for a whole group in one transaction: attempts, jobs, results, counters."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, text

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_store.jobs.ending import book_again, costs_of, end_jobs
from trivet_store.ledger import spending
from trivet_store.steps import End, Ended, GoOn, Next, Settlement, Transition, Wait, Written
from trivet_tasks.foreign_text import clean
from trivet_tasks.jobs import proxy_errors_text, tried_text
from trivet_tasks.outcomes import Usage
from trivet_tasks.states import END_STATES, JobState

_FENCE = RowsStatement(
    schema.jobs,
    """
    SELECT id, claim, lease_id, state, batch_id, created_at, route, cancel_requested, cache_key FROM jobs
     WHERE id IN (SELECT r.id FROM {rows}) ORDER BY id {FOR UPDATE}
    """,
)
_GO_ON = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'dispatched', lease_id = NULL, route = r.route, dispatched_until = r.dispatched_until,
                    claim = jobs.claim + 1, tried = r.tried, round_spent_s = r.round_spent_s,
                    doubted_by = r.doubted_by, proxy_errors = r.proxy_errors,
                    last_outcome = r.last_outcome, last_error = r.last_error
      FROM {rows}
     WHERE jobs.id = r.id
    """,
)
_WAIT = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = r.state, lease_id = NULL, route = NULL, dispatched_until = NULL, not_before = r.not_before,
                    round = r.round, tried = r.tried, round_spent_s = r.round_spent_s, doubted_by = r.doubted_by,
                    proxy_errors = r.proxy_errors, last_outcome = coalesce(r.last_outcome, jobs.last_outcome),
                    last_error = coalesce(r.last_error, jobs.last_error)
      FROM {rows}
     WHERE jobs.id = r.id
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
                        price_terms = r.price_terms, price_parts = r.price_parts, model_used = r.model_used
      FROM {rows}
     WHERE attempts.id = r.id
    """,
)
_HOLD_BATCHES = "SELECT id FROM batches WHERE id IN :ids ORDER BY id"
_IDS = bindparam("ids", expanding=True, type_=Integer())
_CANCELLED_BATCHES = text("SELECT id FROM batches WHERE id IN :ids AND state = 'cancelled'").bindparams(
    bindparam("ids", expanding=True)
)


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
        # all batches at once, by id, as below they are counted: not these first and the others then
        ids = {row.batch_id for row in current.values() if row.batch_id is not None}
        connection.execute(text(_HOLD_BATCHES + store.for_update).bindparams(_IDS), {"ids": sorted(ids)})
        book_again(connection, late, before)
    cancelled = _cancelled_batches(connection, {row.batch_id for row in current.values() if row.batch_id is not None})
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
                route, led = job.target.route, row.cache_key is not None
                ended.append(Ended(row.id, row.batch_id, row.created_at, step, route, led=led))
            case GoOn():
                gone_on.append(transition)
            case Wait():
                waits.append(
                    {
                        "id": row.id,
                        "state": (JobState.WAITING if step.not_before is None else JobState.DELAYED).value,
                        "not_before": step.not_before,
                        "round": step.round,
                        "tried": tried_text(step.tried),
                        "round_spent_s": step.spent_s,
                        "doubted_by": step.doubted_by,
                        "proxy_errors": proxy_errors_text(step.proxy_errors),
                        "last_outcome": step.outcome,
                        "last_error": clean(step.error, 2_000),
                    }
                )
    execute_rows(connection, _GO_ON, [_go_on_row(transition) for transition in gone_on])
    execute_rows(connection, _WAIT, waits)
    ending = end_jobs(connection, ended, now)
    spending.book_settled(connection, counted, (transition.settlement for transition in group))
    return Written(
        tuple(e.job_id for e in ended), ending.batches, tuple(gone_on), tuple(refused), crowded=ending.crowded
    )


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Write the results of calls into their attempt rows."""
    execute_rows(connection, _SETTLE, [_settled_row(settlement) for settlement in settlements])


def _cancelled_batches(connection: Connection, ids: set[int]) -> set[int]:
    """End cancelled jobs: one claimed at the moment of the cancel was not asked, and nobody would claim it again."""
    return {row.id for row in connection.execute(_CANCELLED_BATCHES, {"ids": sorted(ids)})} if ids else set()


def _go_on_row(transition: Transition) -> dict[str, object]:
    step = transition.next
    assert isinstance(step, GoOn)
    return {
        "id": transition.job.id,
        "route": step.route,
        "dispatched_until": step.until,
        "tried": tried_text(step.tried),
        "round_spent_s": step.spent_s,
        "doubted_by": step.doubted_by,
        "proxy_errors": proxy_errors_text(step.proxy_errors),
        "last_outcome": step.outcome.value,
        "last_error": clean(step.error, 2_000),
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
    }
    return row
