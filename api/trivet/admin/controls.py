"""Pauses and priorities: holding work back, letting it go on, and letting it go before other work."""

from typing import NamedTuple

from trivet.admin.group import Group
from trivet.client.connections import current_operator
from trivet_store import controls
from trivet_store.controls import Control, ControlKind, Work
from trivet_store.jobs import batches
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.latency import Latency


class ControlChange(NamedTuple):
    """The result of an operation on controls."""

    kind: ControlKind
    value: str
    """Name of the batch, the tenant or the latency class."""
    changed: bool
    """False: it was so before."""
    idle: bool = False
    """True of a tenant of which no job waits or runs now."""


class Controls(Group):
    """Pauses and priorities of batches, tenants and latency classes. They last over restarts and count for new jobs, too.

    Each operation takes one of `batch`, `tenant` and `latency`, and records an event with its author.
    """

    def list(self) -> tuple[Control, ...]:
        """Return all that is paused or has a priority.

        paused = [control.value for control in admin.controls.list() if control.paused_at]
        """
        with self._connections.store.read() as connection:
            return tuple(controls.every(connection))

    def pause(
        self,
        *,
        batch: str | None = None,
        tenant: str | None = None,
        latency: str | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> ControlChange:
        """Let none of this work begin until it is resumed. Running calls end; jobs in queues wait again within a second.

            admin.controls.pause(tenant="acme", reason="their prompt is wrong")

        Args:
            reason: shown wherever the pause is; 300 characters at most.
            by: None: the user and machine of this process.

        Raises:
            InvalidRequest: not one of the three is named, there is no such class, or the batch is done.
            NotFound: there is no such batch.
        """
        store, who = self._connections.store, by or current_operator()
        with store.write() as connection:
            work = _work(batches.id_of(connection, batch) if batch else None, batch, tenant, latency)
            changed = controls.pause(store, connection, work, by=who, reason=reason)
            idle = controls.is_idle(connection, work)
        return ControlChange(work.kind, work.value, changed, idle)

    def resume(
        self,
        *,
        batch: str | None = None,
        tenant: str | None = None,
        latency: str | None = None,
        by: str | None = None,
    ) -> ControlChange:
        """Let paused work go on.

            admin.controls.resume(tenant="acme")

        Raises:
            InvalidRequest, NotFound: as `pause`.
        """
        store, who = self._connections.store, by or current_operator()
        with store.write() as connection:
            work = _work(batches.id_of(connection, batch) if batch else None, batch, tenant, latency)
            changed = controls.resume(store, connection, work, by=who)
        self._connections.tell_work()
        return ControlChange(work.kind, work.value, changed)

    def prioritize(
        self,
        priority: int,
        *,
        batch: str | None = None,
        tenant: str | None = None,
        latency: str | None = None,
        by: str | None = None,
    ) -> ControlChange:
        """Dispatch this work before all of lower priority. That of a job is the sum over its batch, tenant and class.

            admin.controls.prioritize(5, batch="contracts")

        Args:
            priority: from -10 to 10; 0 is the default.

        Raises:
            InvalidRequest, NotFound: as `pause`; the priority is out of bounds.
        """
        store, who = self._connections.store, by or current_operator()
        with store.write() as connection:
            work = _work(batches.id_of(connection, batch) if batch else None, batch, tenant, latency)
            controls.prioritize(store, connection, work, priority, by=who)
            idle = controls.is_idle(connection, work)
        self._connections.tell_work()
        return ControlChange(work.kind, work.value, True, idle)


def _work(batch_id: int | None, batch: str | None, tenant: str | None, latency: str | None) -> Work:
    given = [
        Work(kind, value, batch_id)
        for kind, value in ((ControlKind.BATCH, batch), (ControlKind.TENANT, tenant), (ControlKind.CLASS, latency))
        if value
    ]
    if len(given) != 1:
        raise InvalidRequest("Name one batch, one tenant or one latency class.", field="batch")
    if latency is not None and latency not in set(Latency):
        raise InvalidRequest(f"class: {latency!r} is none.", field="latency", hint=f"Use one of {', '.join(Latency)}.")
    return given[0]
