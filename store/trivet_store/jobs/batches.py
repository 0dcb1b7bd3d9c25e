"""Batches: filling them (an interrupted fill can be resumed), their names, and their progress."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import blake2b
from shlex import quote
from typing import Any

from sqlalchemy import Connection, Row, bindparam, text

from trivet_store import controls
from trivet_store.controls import Control, ControlKind
from trivet_store.database.engine import Store
from trivet_store.database.locking import lock_flows, select_locked
from trivet_store.jobs import deliveries
from trivet_store.schema import Usd, usd_sum
from trivet_tasks.errors import BatchTaken, InvalidRequest, NotFound
from trivet_tasks.states import BatchState
from trivet_tasks.tenant_scope import TenantScope, in_scope


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a batch. All counts are jobs; `cost_usd` is the settled cost of the ended ones."""

    name: str
    state: BatchState
    created_at: float
    total: int
    waiting: int
    running: int
    succeeded: int
    failed: int
    expired: int
    cancelled: int
    cost_usd: Decimal
    taken: int
    """Requests read from the producer so far."""
    error: str | None
    estimated_usd: Decimal = Decimal(0)
    """Maximum further cost: calls that are over and whose cost is not known, such as timeouts."""
    dedupe: bool = False
    """True if its keys are those of their tenants: requests join earlier jobs of theirs."""
    paused: tuple[Control, ...] = ()
    """Pauses of the batch, and of tenants and classes that it has jobs of; none once it is done."""
    priority: int = 0
    """Priority of the batch, beside those of tenants and classes."""
    tenant: str | None = None
    """Tenant of all its requests; None: they have none, or it is mixed."""
    mixed: bool = False
    """True if it has requests of several tenants."""

    @property
    def ended(self) -> int:
        """Jobs in an end state."""
        return self.succeeded + self.failed + self.expired + self.cancelled

    @property
    def joined(self) -> int:
        """Requests that got no job of their own: an earlier request with the same key has it."""
        return max(0, self.taken - self.total)

    @property
    def done(self) -> bool:
        """True when everything was taken in and every job has ended."""
        return self.state in (BatchState.OPEN, BatchState.CANCELLED) and self.ended >= self.total


@dataclass(frozen=True, slots=True)
class Loading:
    """A batch that is being filled: the number of requests read before, and the digest over them.

    `dedupe`: a key is that of a job of its tenant, as for single jobs; else it is that of a line of this batch.
    """

    id: int
    name: str
    taken: int
    digest: str
    dedupe: bool = False
    tenant: str | None = None
    """Tenant of the requests read before, unless it is mixed."""
    mixed: bool = False
    """True if they are of several tenants, or some have none."""


_CREATE = text(
    """
    INSERT INTO batches (name, state, created_at, dedupe, tenant) VALUES (:name, 'loading', :now, :dedupe, :tenant)
    ON CONFLICT (name) DO NOTHING
    """
)
_BY_IDS = (
    text("SELECT * FROM batches WHERE id IN :ids ORDER BY id")
    .bindparams(bindparam("ids", expanding=True))
    .columns(cost_usd=Usd())
)
_BY_NAME = text("SELECT * FROM batches WHERE name = :name").columns(cost_usd=Usd())
_LIST = "SELECT * FROM batches WHERE true{} ORDER BY created_at DESC, id DESC LIMIT :limit"
_OLDER = " AND (created_at < :created_at OR created_at = :created_at AND id < :id)"
_OWN = text("UPDATE batches SET tenant = :tenant, mixed = :mixed WHERE id = :id")
_ADVANCE = text(
    """
    UPDATE batches SET taken = :taken, digest = :digest, state = 'loading', error = NULL
     WHERE id = :id AND taken = :before AND digest = :digest_before AND state NOT IN ('cancelled', 'discarding')
    """
)
_OPEN = text(
    """
    UPDATE batches SET state = 'open', error = NULL, opened = true
     WHERE id = :id AND state NOT IN ('cancelled', 'discarding')
    """
)
_STOP = text(
    """
    UPDATE batches SET state = 'incomplete', error = :error
     WHERE id = :id AND state NOT IN ('cancelled', 'discarding')
    """
)
# locked whatever it holds: a transaction that ends its last job may be under way
_ENDED_UNOPENED = """
    SELECT ended >= total AND state IN ('loading', 'incomplete') AS ended_unopened FROM batches WHERE id = :id {FOR UPDATE}
"""
_CANCELLED = text("SELECT 1 FROM batches WHERE id = :id AND state = 'cancelled'")
_HOLD = text("UPDATE flows SET held = :held WHERE batch_id = :id")
_RUNNING = text(
    "SELECT count(*) FROM jobs WHERE state IN ('dispatched', 'running') AND route IS NOT NULL AND batch_id = :id"
)
_ESTIMATED = "SELECT {} AS estimated FROM spend WHERE batch_id = :id"


def begin_loading(
    store: Store, connection: Connection, name: str, *, dedupe: bool = False, scope: TenantScope | None = None
) -> Loading:
    """Create the batch, or go on with the one of this name; nothing of it runs until it is opened.

    Args:
        dedupe: see `Loading`.
        scope: its requests are of this tenant; the batch of this name must be of it, too.

    Raises:
        InvalidRequest: the batch was cancelled, is being discarded, or was begun with another `dedupe`.
        BatchTaken: it is out of scope.
    """
    tenant = None if scope is None else scope.tenant
    connection.execute(_CREATE, {"name": name, "now": store.now(connection), "dedupe": dedupe, "tenant": tenant})
    row = connection.execute(_BY_NAME, {"name": name}).one()
    if not _sees(scope, row):
        raise BatchTaken(f"name: the name {name!r} is taken.", field="name", hint="Choose another name.")
    if row.state == BatchState.CANCELLED:
        hint = "Choose another name; `trivet bulk --again` does."
        raise InvalidRequest(f"name: the batch {name!r} was cancelled.", field="name", hint=hint)
    if row.state == BatchState.DISCARDING:
        hint = f"Let the discard end first: `trivet batch discard {quote(name)}`; the name is free then."
        raise InvalidRequest(f"name: the batch {name!r} is being discarded.", field="name", hint=hint)
    if bool(row.dedupe) != dedupe:
        begun = "with" if row.dedupe else "without"
        raise InvalidRequest(
            f"dedupe: the batch {name!r} was begun {begun} it.",
            field="dedupe",
            hint="Submit it as before, or choose another name.",
        )
    return Loading(row.id, name, row.taken, row.digest, dedupe, row.tenant, bool(row.mixed))


def advance(connection: Connection, before: Loading, fingerprints: Sequence[str]) -> Loading:
    """Note the requests that have been read, in the transaction that inserts them. What is new is held.

    Raises:
        BatchTaken: another process has filled, cancelled or discarded the batch since; roll back, or its jobs would
            double.
    """
    after = replace(before, taken=before.taken + len(fingerprints), digest=chain(before.digest, fingerprints))
    hold(connection, before.id, held=True)
    parameters = {"id": before.id, "taken": after.taken, "digest": after.digest}
    known = {"before": before.taken, "digest_before": before.digest}
    if connection.execute(_ADVANCE, {**parameters, **known}).rowcount == 0:
        raise changed_elsewhere(before.name)
    return after


def note_tenants(connection: Connection, before: Loading, tenants: Collection[str | None]) -> Loading:
    """Note the tenants of the requests that are read next, in the transaction that inserts them, before `advance`."""
    if before.mixed:
        return before
    owners = set(tenants) | ({before.tenant} if before.taken else set())
    after = replace(before, tenant=next(iter(owners)) if len(owners) == 1 else None, mixed=len(owners) > 1)
    if after != before:
        connection.execute(_OWN, {"id": before.id, "tenant": after.tenant, "mixed": after.mixed})
    return after


def changed_elsewhere(name: str) -> BatchTaken:
    """Return the error of a process that fills a batch which is another's by now, or gone."""
    return BatchTaken(
        f"name: the batch {name!r} is being filled, or was cancelled or discarded, by another process.",
        field="name",
        hint="Let one process fill it at a time; run again, it continues where the batch stopped.",
    )


def chain(digest: str, fingerprints: Sequence[str]) -> str:
    """Return the digest over the requests read so far and these further ones."""
    state = bytes.fromhex(digest)
    for fingerprint in fingerprints:
        state = blake2b(state + bytes.fromhex(fingerprint), digest_size=16).digest()
    return state.hex()


def open_batch(store: Store, connection: Connection, batch_id: int) -> None:
    """Let the batch's jobs run once everything has been read. A batch that was cancelled meanwhile stays so.

    Raises:
        NotFound: it was discarded meanwhile.
    """
    lock_flows(connection, batch_id)
    done_by_this = all_ended_unopened(connection, batch_id)
    if connection.execute(_OPEN, {"id": batch_id}).rowcount:
        hold(connection, batch_id, held=False)
        if done_by_this:
            deliveries.end_of(connection, [], [batch_id], store.now(connection))
    elif connection.execute(_CANCELLED, {"id": batch_id}).one_or_none() is None:
        raise NotFound("The batch was discarded.", hint="Submit it again if it is to run.")


def all_ended_unopened(connection: Connection, batch_id: int) -> bool:
    """Return whether opening or cancelling the batch is its end: it is not complete yet, and none of its jobs goes on."""
    return any(row.ended_unopened for row in select_locked(connection, _ENDED_UNOPENED, id=batch_id))


def hold(connection: Connection, batch_id: int, *, held: bool) -> None:
    """Let no job of an incomplete or cancelled batch be dispatched, or let them go. A pause is another thing."""
    connection.execute(_HOLD, {"id": batch_id, "held": held})


def mark_incomplete(connection: Connection, batch_id: int, error: str) -> None:
    """Mark the batch incomplete after an error: nothing runs until it is resumed or accepted as it is."""
    connection.execute(_STOP, {"id": batch_id, "error": error})


def free_name(connection: Connection, name: str) -> str:
    """Return the first of NAME, NAME-2, NAME-3, … that no batch has, or a batch that broke off before it was complete."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(one for one in names if _is_free(connection, one))


def progress(connection: Connection, name: str, scope: TenantScope | None = None) -> Progress:
    """Return the progress of a batch, from its counters.

    Args:
        scope: only a batch all of whose requests are of this tenant.

    Raises:
        NotFound: there is no batch of this name.
    """
    return _progress(connection, _named(connection, name, scope))


def latest(
    connection: Connection, limit: int, *, scope: TenantScope | None = None, before: str | None = None
) -> list[Progress]:
    """Return batches, the newest first.

    Args:
        scope: as of `progress`.
        before: name of a batch: only older ones.

    Raises:
        NotFound: there is no batch of that name.
    """
    condition, parameters = in_scope(scope, "tenant")
    given: dict[str, object] = {"limit": limit, **parameters}
    if scope is not None:
        condition += " AND NOT mixed"
    if before is not None:
        row = _named(connection, before, scope)
        condition += _OLDER
        given |= {"created_at": row.created_at, "id": row.id}
    rows = connection.execute(text(_LIST.format(condition)).columns(cost_usd=Usd()), given).all()
    return [_progress(connection, row) for row in rows]


def id_of(connection: Connection, name: str, scope: TenantScope | None = None) -> int:
    """Return the batch's row id. NotFound when there is none (in the scope)."""
    return int(_named(connection, name, scope).id)


def done_among(connection: Connection, ids: Sequence[int]) -> list[Progress]:
    """Return the progress of those of these batches (row ids) of which every job has ended."""
    rows = connection.execute(_BY_IDS, {"ids": list(ids)}).all()
    return [found for row in rows if (found := _progress(connection, row)).done]


def _is_free(connection: Connection, name: str) -> bool:
    row = connection.execute(_BY_NAME, {"name": name}).one_or_none()
    return row is None or (not row.opened and row.state in (BatchState.LOADING, BatchState.INCOMPLETE))


def _sees(scope: TenantScope | None, row: Row[Any]) -> bool:
    """Return whether a batch is in a scope: one with requests of several tenants is in none."""
    return scope is None or (not row.mixed and scope.sees(row.tenant))


def _named(connection: Connection, name: str, scope: TenantScope | None = None) -> Row[Any]:
    row = connection.execute(_BY_NAME, {"name": name}).one_or_none()
    if row is None or not _sees(scope, row):
        raise NotFound(f"No batch is called {name!r}.", hint="`trivet batch list` shows the latest.")
    return row


def _progress(connection: Connection, row: Row[Any]) -> Progress:
    running = connection.execute(_RUNNING, {"id": row.id}).scalar_one()
    of_batch = controls.of_batch(connection, row.id)
    estimated = text(_ESTIMATED.format(usd_sum(connection.dialect, "estimated_usd"))).columns(estimated=Usd())
    return Progress(
        name=row.name,
        state=BatchState(row.state),
        created_at=row.created_at,
        total=row.total,
        waiting=max(0, row.total - row.ended - running),
        running=running,
        succeeded=row.succeeded,
        failed=row.failed,
        expired=row.expired,
        cancelled=row.cancelled,
        cost_usd=row.cost_usd or Decimal(0),
        taken=row.taken,
        error=row.error,
        estimated_usd=connection.execute(estimated, {"id": row.id}).scalar_one() or Decimal(0),
        dedupe=bool(row.dedupe),
        paused=tuple(one for one in of_batch if one.paused_at is not None and row.ended < row.total),
        priority=sum(one.priority for one in of_batch if one.kind is ControlKind.BATCH),
        tenant=row.tenant,
        mixed=bool(row.mixed),
    )
