"""Deliveries: the outbox of callbacks (`trivet_tasks.callbacks`), which schedulers send when jobs and batches end.

    a row is                     from                                               until
    waiting (due_at is null)     the transaction of the submit                      the job or the batch ends
    due                          the transaction of that end                        a broker has taken it
    sent                         then; due again later if it is to be confirmed     the next end, e.g. after a retry
    done                         its task has confirmed it                          its job or batch is deleted

A callback is sent for each end: once more if its job or batch ended, was retried and ended again, but not for an end that
a retry undid before the callback was sent. Once confirmed, it is not sent again. A row stays as long as its job or
batch, so that submitting the same again adds nothing.

Sending is at least once: a scheduler claims a row for a while, sends it, and marks it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Integer, text

from trivet_store import events, schema
from trivet_store.database.engine import Store
from trivet_store.database.locking import select_locked
from trivet_store.database.many_rows import RowsStatement, execute_rows, of_ids
from trivet_store.jobs import transitions
from trivet_store.schema import Usd
from trivet_tasks.callbacks import Callback
from trivet_tasks.foreign_text import clean

RESEND_S = 60.0
"""Seconds after which a callback that was not confirmed is sent again; doubles with each time."""
RESEND_MAX_S = 3_600.0
MAX_ERROR = 300


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback that a scheduler has claimed in order to send it."""

    id: int
    name: str
    app: str
    signature: dict[str, Any] = field(repr=False)
    confirmed: bool
    ended_at: float
    """End of its job or batch, in seconds since the epoch."""
    sends: int
    """Times that it was sent before."""
    failures: int
    """Failed tries since then."""
    claimed_until: float
    notice: dict[str, Any] = field(repr=False)
    """First argument of the callback: values of the job (`job`, `batch`, `key`, `status`, `outcome`, `route`, `cost_usd`,
    `metadata`) or of the batch (`batch`, `total`, `succeeded`, `failed`, `expired`, `cancelled`, `cost_usd`)."""


class AppDeliveries(NamedTuple):
    """Callbacks of one application that are on their way. Times are seconds since the epoch."""

    app: str
    due: int
    """Callbacks that the application's broker has not taken yet."""
    unconfirmed: int
    """Callbacks that were sent and that no task has confirmed yet."""
    oldest_at: float | None
    """End that the oldest of them is about; None: there are none."""
    failing_since: float | None
    """Time since which its broker takes none; None: it does, as far as is known."""
    error: str | None
    """Reason of the last failure."""


_JOB = "SELECT id, ended_at FROM jobs WHERE id = :id {FOR UPDATE}"
_BATCH = "SELECT id FROM batches WHERE id = :id {FOR UPDATE}"
_ADD = text(
    """
    INSERT INTO deliveries (job_id, batch_id, name, app, task, signature, confirmed, created_at, ended_at, due_at)
    VALUES (:job_id, :batch_id, :name, :app, :task, :signature, :confirmed, :now, :ended_at, :ended_at)
    ON CONFLICT DO NOTHING
    """
)
_END_OF_JOBS = RowsStatement(
    schema.deliveries,
    """
    UPDATE deliveries SET due_at = r.due_at, ended_at = r.due_at, sends = 0
      FROM {rows} WHERE deliveries.job_id = r.job_id AND deliveries.due_at IS NULL AND NOT deliveries.done
    """,
)
_END_OF_BATCHES = of_ids(
    """
    UPDATE deliveries SET due_at = :now, ended_at = :now, sends = 0
     WHERE batch_id IN :ids AND due_at IS NULL AND NOT done
    """,
    Integer,
)
_UNDUE = "UPDATE deliveries SET due_at = NULL, claimed_until = NULL, taken_until = NULL, failures = 0, error = NULL"
_DUE_IF_DONE = text(
    """
    UPDATE deliveries SET due_at = :now, ended_at = :now
     WHERE batch_id = :id AND name = :name AND ended_at IS NULL
       AND EXISTS (SELECT 1 FROM batches WHERE id = :id AND ended >= total AND state IN ('open', 'cancelled'))
    """
)
_JOBS_GO_ON = of_ids(f"{_UNDUE} WHERE job_id IN :ids AND due_at IS NOT NULL")
_BATCH_GOES_ON = text(f"{_UNDUE} WHERE batch_id = :id AND due_at IS NOT NULL")
_IS_DUE = """
    app = :app AND due_at <= :now AND (claimed_until IS NULL OR claimed_until <= :now)
    AND (taken_until IS NULL OR taken_until <= :now)
"""
_ANY_DUE = text(f"SELECT EXISTS (SELECT 1 FROM deliveries WHERE {_IS_DUE})")
_DUE = f"SELECT id FROM deliveries WHERE {_IS_DUE} ORDER BY due_at LIMIT :limit {{FOR UPDATE SKIP LOCKED}}"
_CLAIM = of_ids("UPDATE deliveries SET claimed_until = :until WHERE id IN :ids", Integer)
_CLAIMED = of_ids(
    """
    SELECT d.id, d.name, d.app, d.signature, d.confirmed, d.ended_at, d.sends, d.failures, d.claimed_until, d.job_id,
           j.key, j.state, j.metadata, r.error_outcome, r.route, r.cost_usd AS job_usd,
           b.name AS batch, b.total, b.succeeded, b.failed, b.expired, b.cancelled, b.cost_usd AS batch_usd
      FROM deliveries d
      LEFT JOIN jobs j ON j.id = d.job_id
      LEFT JOIN job_results r ON r.job_id = d.job_id
      LEFT JOIN batches b ON b.id = coalesce(d.batch_id, j.batch_id)
     WHERE d.id IN :ids ORDER BY d.due_at, d.id
    """,
    Integer,
).columns(job_usd=Usd(), batch_usd=Usd())
# a row that was claimed again since, or whose job goes on, is another claim's
_MARK = RowsStatement(
    schema.deliveries,
    """
    UPDATE deliveries SET due_at = r.due_at, sends = r.sends, failures = r.failures, error = r.error, claimed_until = NULL
      FROM {rows} WHERE deliveries.id = r.id AND deliveries.claimed_until = r.claimed_until
    """,
)
_TAKE = """
    UPDATE deliveries SET taken_until = :until
     WHERE {owner} = :owner AND name = :name AND due_at IS NOT NULL AND NOT done
       AND (taken_until IS NULL OR taken_until <= :now)
"""
_CONFIRM = """
    UPDATE deliveries SET done = true, signature = '', due_at = NULL, claimed_until = NULL, taken_until = NULL, error = NULL
     WHERE {owner} = :owner AND name = :name AND due_at IS NOT NULL
"""
_OF_OWNER = {
    (statement, owner): text(statement.format(owner=owner))
    for statement in (_TAKE, _CONFIRM)
    for owner in ("job_id", "batch_id")
}
_NOTE_OUTAGE = text(
    "INSERT INTO celery_apps (name, failing_since, error) VALUES (:app, :now, :error) ON CONFLICT (name) DO NOTHING"
)
_END_OUTAGE = text("DELETE FROM celery_apps WHERE name = :app RETURNING failing_since")
_ON_THEIR_WAY = text(
    """
    SELECT app, sum(CASE WHEN sends = 0 THEN 1 ELSE 0 END) AS due, sum(CASE WHEN sends > 0 THEN 1 ELSE 0 END) AS unconfirmed,
           min(ended_at) AS oldest_at, max(error) AS error
      FROM deliveries WHERE due_at IS NOT NULL GROUP BY app ORDER BY app
    """
)
_OUTAGES = text("SELECT name, failing_since, error FROM celery_apps ORDER BY name")


def add(
    store: Store,
    connection: Connection,
    callback: Callback,
    *,
    job_id: str | None = None,
    batch_id: int | None = None,
) -> bool:
    """Add a callback to a job or to a batch. False if it has one of this name.

    Call it in the transaction that submits. It locks the row of the job. If that has ended, it is due at once; a batch
    may get more requests now, so its callback is due by `due_if_done`.

    Raises:
        InvalidRequest: its signature is not fit.
    """
    signature, now = callback.to_json(), store.now(connection)
    if job_id is not None:
        rows = select_locked(connection, _JOB, id=job_id)
        ended_at = now if rows and rows[0].ended_at is not None else None
    else:
        rows, ended_at = select_locked(connection, _BATCH, id=batch_id), None
    row = {
        "job_id": job_id,
        "batch_id": batch_id,
        "name": callback.name,
        "app": callback.app,
        "task": callback.task,
        "signature": signature,
        "confirmed": callback.confirmed,
        "now": now,
        "ended_at": ended_at,
    }
    added = bool(rows) and connection.execute(_ADD, row).rowcount > 0
    if added and job_id is not None:
        transitions.call_back(connection, job_id)
    return added


def due_if_done(store: Store, connection: Connection, batch_id: int, name: str) -> None:
    """Make a callback due whose batch has all its requests and had ended before the callback was added."""
    connection.execute(_DUE_IF_DONE, {"id": batch_id, "name": name, "now": store.now(connection)})


def end_of(connection: Connection, job_ids: Sequence[str], batch_ids: Sequence[int], now: float) -> None:
    """Make the callbacks of these jobs and batches due, in the transaction that ends them."""
    if job_ids:
        execute_rows(connection, _END_OF_JOBS, [{"job_id": job_id, "due_at": now} for job_id in job_ids])
    if batch_ids:
        connection.execute(_END_OF_BATCHES, {"ids": list(batch_ids), "now": now})


def goes_on(connection: Connection, job_ids: Sequence[str], batch_id: int | None) -> None:
    """Let callbacks that were not sent yet wait for the next end, in the transaction that makes these jobs run again."""
    if job_ids:
        connection.execute(_JOBS_GO_ON, {"ids": list(job_ids)})
    if batch_id is not None:
        connection.execute(_BATCH_GOES_ON, {"id": batch_id})


def any_due(store: Store, connection: Connection, app: str) -> bool:
    """Return whether there is a callback to send to an application."""
    return bool(connection.execute(_ANY_DUE, {"app": app, "now": store.now(connection)}).scalar_one())


def claim_due(store: Store, connection: Connection, app: str, *, limit: int, seconds: float) -> list[Delivery]:
    """Claim callbacks of an application that are due, the oldest first. Those of other schedulers are skipped.

    Args:
        limit: maximum number; each may have a signature of `callbacks.MAX_SIGNATURE_BYTES`.
        seconds: time to send and mark them; later others may send them.
    """
    now = store.now(connection)
    ids = [row.id for row in select_locked(connection, _DUE, app=app, now=now, limit=limit)]
    if not ids:
        return []
    connection.execute(_CLAIM, {"ids": ids, "until": now + seconds})
    return [
        Delivery(
            row.id,
            row.name,
            row.app,
            orjson.loads(row.signature),
            bool(row.confirmed),
            row.ended_at,
            row.sends,
            row.failures,
            row.claimed_until,
            _notice(row),
        )
        for row in connection.execute(_CLAIMED, {"ids": ids})
    ]


def sent(store: Store, connection: Connection, app: str, claimed: Sequence[Delivery]) -> float | None:
    """Mark callbacks that the application's broker has taken. Those to be confirmed are due again after a while.

    Returns:
        Seconds that the outage lasted which is over by this; None: there was none.
    """
    now = store.now(connection)
    execute_rows(connection, _MARK, [_marked(one, _resend_at(one, now), sends=one.sends + 1) for one in claimed])
    failing_since = connection.execute(_END_OUTAGE, {"app": app}).scalar_one_or_none()
    if failing_since is None:
        return None
    lasted_s = max(0.0, now - float(failing_since))
    events.note(connection, "callbacks sent", f"{app}: its broker takes callbacks again after {lasted_s:.0f} s", now)
    return lasted_s


def postpone(store: Store, connection: Connection, claimed: Sequence[Delivery], error: str, seconds: float) -> None:
    """Let callbacks that were not sent be due again after some seconds. They are kept as long as their job or batch."""
    due_at, said = store.now(connection) + seconds, clean(error, MAX_ERROR)
    rows = [_marked(one, due_at, failures=one.failures + 1, error=said) for one in claimed]
    execute_rows(connection, _MARK, rows)


def note_outage(store: Store, connection: Connection, app: str, error: str) -> bool:
    """Note that an application's broker takes no callbacks. False if that is known already."""
    now, said = store.now(connection), clean(error, MAX_ERROR)
    if connection.execute(_NOTE_OUTAGE, {"app": app, "now": now, "error": said}).rowcount == 0:
        return False
    events.note(connection, "callbacks wait", f"{app}: {said}", now)
    return True


def begin(store: Store, connection: Connection, owner: str | int, name: str, seconds: float) -> bool:
    """Take a callback that is to be confirmed, for a task that runs now: it is not sent again for so many seconds.

    False when another run of the task has taken it, when it was confirmed, or when its job goes on.

    Args:
        owner: id of its job, or row id of its batch.
    """
    now = store.now(connection)
    taken = {"owner": owner, "name": name, "now": now, "until": now + seconds}
    return connection.execute(_OF_OWNER[_TAKE, _owner_column(owner)], taken).rowcount > 0


def confirm(connection: Connection, owner: str | int, name: str) -> None:
    """Confirm a callback: it is never sent again, and its signature is deleted. `owner` as for `begin`.

    Nothing is confirmed where the job goes on by now: its next end is another.
    """
    connection.execute(_OF_OWNER[_CONFIRM, _owner_column(owner)], {"owner": owner, "name": name})


def _owner_column(owner: str | int) -> str:
    return "job_id" if isinstance(owner, str) else "batch_id"


def on_their_way(connection: Connection) -> list[AppDeliveries]:
    """Return callbacks that are due or unconfirmed, by application, with the outage of its broker."""
    outages = {row.name: row for row in connection.execute(_OUTAGES)}
    found = []
    for row in connection.execute(_ON_THEIR_WAY):
        outage = outages.get(row.app)
        since, error = (outage.failing_since, outage.error) if outage else (None, row.error)
        found.append(AppDeliveries(row.app, int(row.due), int(row.unconfirmed), row.oldest_at, since, error))
    return sorted(found)


def _resend_at(sent_now: Delivery, now: float) -> float | None:
    if not sent_now.confirmed:
        return None
    return now + float(min(RESEND_MAX_S, RESEND_S * 2 ** min(sent_now.sends, 20)))


def _marked(
    one: Delivery, due_at: float | None, *, sends: int | None = None, failures: int = 0, error: str | None = None
) -> dict[str, object]:
    counts = {"sends": one.sends if sends is None else sends, "failures": failures}
    return {"id": one.id, "claimed_until": one.claimed_until, "due_at": due_at, "error": error, **counts}


def _notice(row: Any) -> dict[str, Any]:
    if row.job_id is None:
        counts = {name: getattr(row, name) for name in ("total", "succeeded", "failed", "expired", "cancelled")}
        return {"batch": row.batch, **counts, "cost_usd": _as_text(row.batch_usd)}
    return {
        "job": row.job_id,
        "batch": row.batch,
        "key": row.key,
        "status": row.state,
        "outcome": row.error_outcome,
        "route": row.route,
        "cost_usd": _as_text(row.job_usd),
        "metadata": orjson.loads(row.metadata) if row.metadata else {},
    }


def _as_text(amount: Any) -> str | None:
    return None if amount is None else f"{amount:f}"
