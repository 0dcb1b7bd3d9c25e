"""Controls: pauses and priorities that an operator set for a batch, a tenant or a latency class.

A control acts on flows, so it costs a dispatcher nothing per job and counts for new jobs, too. Jobs of a tenant share flows
with those of others until the tenant gets its first control. From then on its new jobs go to flows of its own, and
schedulers move the others there (`jobs/separating.py`); a pause counts at once for those that are yet to be moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import Connection, Row, text

from trivet_store import events
from trivet_store.database.engine import Store
from trivet_tasks.errors import InvalidRequest, SetByOperator
from trivet_tasks.foreign_text import clean

HIGHEST_PRIORITY = 10
"""Maximum priority; the minimum is its negative, the default 0."""
LONGEST_REASON = 300
"""Maximum characters of a reason."""

OF_FLOW: Final = """
    (c.kind = 'batch' AND c.batch_id = f.batch_id OR c.kind = 'tenant' AND c.value = f.tenant
     OR c.kind = 'class' AND c.value = f.latency)
"""
"""SQL: the control `c` is one of the flow `f`."""
PAUSED: Final = f"EXISTS (SELECT 1 FROM controls c WHERE c.paused_at IS NOT NULL AND {OF_FLOW})"
"""SQL: the flow `f` is paused."""
PAUSED_TENANT: Final = """EXISTS (
    SELECT 1 FROM controls c WHERE c.kind = 'tenant' AND c.value = {}.tenant AND c.paused_at IS NOT NULL
)"""
"""SQL: the tenant of a row of this table is paused, whether its jobs are in flows of their own already or not."""
PRIORITY: Final = f"(SELECT coalesce(sum(c.priority), 0) FROM controls c WHERE {OF_FLOW})"
"""SQL: the priority of the flow `f`, the sum of those of its batch, its tenant and its class."""


class ControlKind(StrEnum):
    """Kind of work that a control is for."""

    BATCH = "batch"
    TENANT = "tenant"
    CLASS = "class"
    """A latency class."""


class Work(NamedTuple):
    """The work that a control is for: a batch, a tenant or a latency class.

    Work(ControlKind.TENANT, "acme")
    """

    kind: ControlKind
    value: str
    """Name of the batch, the tenant or the class."""
    batch_id: int | None = None
    """The batch's row id."""

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True, slots=True)
class Control:
    """A pause, a priority or both. Times are seconds since the epoch."""

    kind: ControlKind
    value: str
    """Name of the batch, the tenant or the class."""
    priority: int
    paused_at: float | None
    """None: it is not paused."""
    paused_by: str | None
    reason: str | None

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """Return the control in a row."""
        return cls(ControlKind(row.kind), row.value, row.priority, row.paused_at, row.paused_by, row.reason)

    def words(self, since: str = "", *, named: bool = True) -> str:
        """Return who paused it and why, e.g. `batch contracts is paused by ana@build-7: the prompt is wrong`.

        Args:
            since: the time, in words.
            named: false leaves out who it was.
        """
        who = f" by {self.paused_by}" if named else ""
        time = f" since {since}" if since else ""
        return f"{self.kind} {self.value} is paused{who}{time}{f': {self.reason}' if self.reason else ''}"


_COLUMNS = "c.kind, c.value, c.priority, c.paused_at, c.paused_by, c.reason"
_ALL = text(
    f"""
    SELECT {_COLUMNS} FROM controls c
     WHERE NOT EXISTS (SELECT 1 FROM batches b
                        WHERE b.id = c.batch_id AND b.state IN ('open', 'cancelled') AND b.ended >= b.total)
     ORDER BY c.kind, c.value
    """
)
_OF_BATCH = text(
    f"""
    SELECT {_COLUMNS} FROM controls c
     WHERE c.batch_id = :id
        OR EXISTS (SELECT 1 FROM flows f WHERE f.batch_id = :id AND f.active AND c.kind <> 'batch' AND {OF_FLOW})
     ORDER BY c.kind, c.value
    """
)
_OF_JOB = text(
    f"""
    SELECT {_COLUMNS} FROM jobs j JOIN flows f ON f.id = j.flow_id JOIN controls c ON {OF_FLOW}
     WHERE j.id = :id AND c.paused_at IS NOT NULL AND NOT f.probe ORDER BY c.kind, c.value
    """
)
_OF_NEW_JOB = text(
    f"""
    SELECT {_COLUMNS} FROM controls c
     WHERE c.paused_at IS NOT NULL
       AND (c.kind = 'tenant' AND c.value = :tenant OR c.kind = 'class' AND c.value = :latency)
     ORDER BY c.kind LIMIT 1
    """
)
_OF_TENANT = text("SELECT 1 FROM jobs WHERE tenant = :tenant AND ended_at IS NULL LIMIT 1")
_ANY_TENANT_PAUSED = text("SELECT EXISTS (SELECT 1 FROM controls WHERE kind = 'tenant' AND paused_at IS NOT NULL)")
_TENANTS = text("SELECT value FROM controls WHERE kind = 'tenant'")
_PAUSE = text(
    """
    INSERT INTO controls (kind, value, batch_id, priority, paused_at, paused_by, reason, paused_by_owner)
    VALUES (:kind, :value, :batch_id, 0, :now, :by, :reason, :owner)
    ON CONFLICT (kind, value) DO UPDATE SET paused_at = :now, paused_by = :by, reason = :reason, paused_by_owner = :owner
     WHERE controls.paused_at IS NULL OR controls.paused_by_owner AND NOT :owner
    """
)
_DONE = text("SELECT 1 FROM batches WHERE id = :id AND state IN ('open', 'cancelled') AND ended >= total")
_RESUME = text(
    """
    UPDATE controls SET paused_at = NULL, paused_by = NULL, reason = NULL, paused_by_owner = false
     WHERE kind = :kind AND value = :value AND paused_at IS NOT NULL AND (paused_by_owner OR NOT :owner)
    """
)
_IS_PAUSED = text("SELECT 1 FROM controls WHERE kind = :kind AND value = :value AND paused_at IS NOT NULL")
_PRIORITIZE = text(
    """
    INSERT INTO controls (kind, value, batch_id, priority, max_priority)
    VALUES (:kind, :value, :batch_id, :priority, :most)
    ON CONFLICT (kind, value) DO UPDATE SET priority = :priority, max_priority = :most
    """
)
_PRIORITIZE_OWN = text(
    """
    INSERT INTO controls (kind, value, batch_id, priority) VALUES (:kind, :value, :batch_id, :priority)
    ON CONFLICT (kind, value) DO UPDATE SET priority = :priority WHERE :priority <= coalesce(controls.max_priority, 0)
    """
)
_FORGET = text("DELETE FROM controls WHERE kind = :kind AND value = :value AND paused_at IS NULL AND priority = 0")


def pause(store: Store, connection: Connection, work: Work, *, by: str, reason: str = "", owner: bool = False) -> bool:
    """Let none of the work begin until it is resumed. Returns False when it was paused already, and changes nothing then.

    Args:
        owner: this is the work's owner. The pause of an operator takes the place of an owner's.

    Raises:
        InvalidRequest: the batch is done, so that the pause would be for a later retry, and shown nowhere.
    """
    if work.batch_id is not None and connection.execute(_DONE, {"id": work.batch_id}).one_or_none() is not None:
        raise InvalidRequest(
            f"The batch {work.value!r} is done: nothing of it waits.",
            field="batch",
            hint="A batch is paused while jobs of it wait or run.",
        )
    said = clean(reason, LONGEST_REASON) or None
    now = store.now(connection)
    if not connection.execute(_PAUSE, {**_row(work), "now": now, "by": by, "reason": said, "owner": owner}).rowcount:
        return False
    events.note(connection, "work paused", f"{work} by {by}{f': {said}' if said else ''}", now)
    return True


def is_idle(connection: Connection, work: Work) -> bool:
    """Return whether this is a tenant of which no job waits or runs: mostly one whose name was mistyped."""
    if work.kind is not ControlKind.TENANT:
        return False
    return connection.execute(_OF_TENANT, {"tenant": work.value}).one_or_none() is None


def resume(store: Store, connection: Connection, work: Work, *, by: str, owner: bool = False) -> bool:
    """Let the work go on. Returns False when it was not paused.

    Args:
        owner: this is the work's owner, who lifts no pause of an operator.

    Raises:
        SetByOperator: an operator paused it.
    """
    if not connection.execute(_RESUME, {**_row(work), "owner": owner}).rowcount:
        if owner and connection.execute(_IS_PAUSED, _row(work)).one_or_none() is not None:
            raise SetByOperator(f"The {work} was paused by an operator, who alone resumes it.", field=work.kind.value)
        return False
    connection.execute(_FORGET, _row(work))
    events.note(connection, "work resumed", f"{work} by {by}", store.now(connection))
    return True


def prioritize(
    store: Store, connection: Connection, work: Work, priority: int, *, by: str, owner: bool = False
) -> None:
    """Dispatch the work before all of lower priority; 0 is the default.

    Args:
        owner: this is the work's owner, who may not go above 0, nor above a lower priority that an operator set.

    Raises:
        InvalidRequest: the priority is not from -10 to 10.
        SetByOperator: the owner may not go so high.
    """
    if not -HIGHEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise InvalidRequest(
            f"priority: must be from {-HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}, is {priority}.", field="priority"
        )
    given = {**_row(work), "priority": priority}
    if not owner:
        connection.execute(_PRIORITIZE, {**given, "most": priority if priority < 0 else None})
    elif priority > 0 or not connection.execute(_PRIORITIZE_OWN, given).rowcount:
        raise SetByOperator(f"priority: only an operator may raise that of the {work} to {priority}.", field="priority")
    connection.execute(_FORGET, _row(work))
    events.note(connection, "work priority", f"{work}: {priority} by {by}", store.now(connection))


def every(connection: Connection) -> list[Control]:
    """Return all controls in force, without those of batches that are done."""
    return [Control.of(row) for row in connection.execute(_ALL)]


def of_batch(connection: Connection, batch_id: int) -> tuple[Control, ...]:
    """Return the controls of a batch, and of tenants and classes that it has jobs of."""
    return tuple(Control.of(row) for row in connection.execute(_OF_BATCH, {"id": batch_id}))


def pauses_of_job(connection: Connection, job_id: str) -> tuple[Control, ...]:
    """Return the pauses that keep a job from beginning; none of a probe."""
    return tuple(Control.of(row) for row in connection.execute(_OF_JOB, {"id": job_id}))


def pause_of_new(connection: Connection, tenant: str | None, latency: str) -> Control | None:
    """Return a pause that a single new job of this tenant and class would meet."""
    row = connection.execute(_OF_NEW_JOB, {"tenant": tenant or "", "latency": latency}).one_or_none()
    return None if row is None else Control.of(row)


def any_tenant_paused(connection: Connection) -> bool:
    """Return whether a tenant is paused."""
    return bool(connection.execute(_ANY_TENANT_PAUSED).scalar_one())


def controlled_tenants(connection: Connection) -> frozenset[str]:
    """Return the tenants that have a control, whose jobs go to flows of their own."""
    return frozenset(connection.execute(_TENANTS).scalars())


def _row(work: Work) -> Mapping[str, object]:
    return {"kind": work.kind.value, "value": work.value, "batch_id": work.batch_id}
