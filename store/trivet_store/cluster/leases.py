"""The lease of each living process: workers hold jobs under theirs, schedulers only show that they are alive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, TextClause, bindparam, text

from trivet_store.database.engine import Store
from trivet_store.ledger import spending

ISOLATED = "isolated"
"""The lane of a process that a worker starts for quarantined jobs: nobody dispatches to it."""
ELSEWHERE = "definition"
"""Kind of impairment: the worker's file has another place for the route than the one that is registered."""
WORKER = "worker"
SCHEDULER = "scheduler"


class Lease(NamedTuple):
    """A living process and what it serves; a scheduler has neither lane nor routes."""

    id: str
    worker: str
    lane: str
    routes: tuple[str, ...]
    slots: int
    in_flight: int
    impairment: str | None
    """Reason for which it takes no work at all; None when it does."""
    started_at: float
    impaired: Mapping[str, str] = MappingProxyType({})
    """Reasons for which it takes no work of some of its routes, by route."""
    origin: str = ""
    """Equal for worker processes that share machine, configuration file and network settings: they are one witness."""
    part: str = WORKER
    elsewhere: tuple[str, ...] = ()
    """Impaired routes that it does not serve at the registered place."""

    def takes(self, route: str) -> bool:
        """Return whether it takes work of the route now."""
        return route in self.routes and not self.impairment and route not in self.impaired


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a heartbeat. `held` is False when the lease was dropped: its jobs are no longer its own."""

    held: bool
    cancelled: tuple[str, ...] = ()
    """Jobs running under this lease that somebody asked to cancel."""
    running: tuple[str, ...] = ()
    """All jobs running under this lease."""


_OPEN = text(
    """
    INSERT INTO leases (id, part, worker, lane, routes, slots, in_flight, impaired, started_at, expires_at, origin)
    VALUES (:id, :part, :worker, :lane, :routes, :slots, 0, :impaired, :now, :now + :ttl, :origin)
    """
)
_RENEW = text(
    """
    UPDATE leases SET expires_at = :now + :ttl, in_flight = :in_flight, impairment = :impairment,
                      impaired = :impaired
     WHERE id = :id
    """
)
# SQLite uses a partial index only where the statement repeats its condition word for word
_HELD = "state IN ('dispatched', 'running') AND state = 'running' AND lease_id = :id"
_RUNNING = text(f"SELECT id, cancel_requested FROM jobs WHERE {_HELD}")
_PUT_BACK = text(
    """
    UPDATE jobs SET state = 'waiting', lease_id = NULL, route = NULL, dispatched_until = NULL
     WHERE id IN :ids AND state = 'running' AND lease_id = :id
    """
).bindparams(bindparam("ids", expanding=True))
_UNKNOWN = text(
    """
    UPDATE attempts SET outcome = 'unknown', estimated = true
     WHERE job_id IN :ids AND lease_id = :id AND outcome IS NULL
    RETURNING id
    """
).bindparams(bindparam("ids", expanding=True))
_SERVES = f"expires_at >= :now AND part = '{WORKER}' AND lane <> '{ISOLATED}'"
_TAKING = text(f"SELECT id, impaired FROM leases WHERE {_SERVES} AND impairment IS NULL")
_COLUMNS = "id, worker, lane, routes, slots, in_flight, impairment, started_at, impaired, origin, part"
_LIVING = text(f"SELECT {_COLUMNS} FROM leases WHERE {_SERVES} ORDER BY worker")
_NOT_DROPPED = text(f"SELECT {_COLUMNS} FROM leases WHERE part = '{WORKER}' AND lane <> '{ISOLATED}' ORDER BY worker")
_SCHEDULERS = text(f"SELECT {_COLUMNS} FROM leases WHERE expires_at >= :now AND part = '{SCHEDULER}' ORDER BY worker")


def open_lease(
    store: Store,
    connection: Connection,
    lease_id: str,
    worker: str,
    lane: str,
    routes: Sequence[str],
    slots: int,
    ttl_s: float,
    part: str = WORKER,
    origin: str = "",
    impaired: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Announce a process.

    Args:
        impaired: reasons why it takes no work of some of its routes, by route and kind.
    """
    connection.execute(
        _OPEN,
        {
            "id": lease_id,
            "part": part,
            "worker": worker,
            "lane": lane,
            "routes": orjson.dumps(list(routes)).decode(),
            "slots": slots,
            "impaired": orjson.dumps(dict(impaired), option=orjson.OPT_NON_STR_KEYS).decode(),
            "now": store.now(connection),
            "ttl": ttl_s,
            "origin": origin,
        },
    )


def renew(
    store: Store,
    connection: Connection,
    lease_id: str,
    in_flight: int,
    impairment: str | None,
    ttl_s: float,
    impaired: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Renewal:
    """One heartbeat. A lease that has run out is renewed as long as nobody has rescued its jobs and dropped it.

    Where only some of its jobs were rescued, it keeps the rest.
    """
    now = store.now(connection)
    parameters = {
        "id": lease_id,
        "now": now,
        "ttl": ttl_s,
        "in_flight": in_flight,
        "impairment": impairment,
        "impaired": orjson.dumps(dict(impaired), option=orjson.OPT_NON_STR_KEYS).decode(),
    }
    if connection.execute(_RENEW, parameters).rowcount == 0:
        return Renewal(held=False)
    rows = connection.execute(_RUNNING, {"id": lease_id}).all()
    return Renewal(True, tuple(row.id for row in rows if row.cancel_requested), tuple(row.id for row in rows))


def put_back(connection: Connection, lease_id: str, ids: Sequence[str]) -> None:
    """Jobs that run under the lease by name only wait again; whether their calls were made is unknown."""
    connection.execute(_PUT_BACK, {"id": lease_id, "ids": list(ids)})
    lost = connection.execute(_UNKNOWN, {"id": lease_id, "ids": list(ids)}).scalars().all()
    spending.book_lost(connection, lost)


def taking_work(store: Store, connection: Connection) -> dict[str, frozenset[str]]:
    """Return the leases of workers that are alive, serve queues and take work, each with its impaired routes."""
    rows = connection.execute(_TAKING, {"now": store.now(connection)})
    return {row.id: frozenset(orjson.loads(row.impaired)) for row in rows}


def living(store: Store, connection: Connection) -> list[Lease]:
    """Return the worker processes that are alive and serve queues; isolated processes are left out."""
    return _leases(connection, _LIVING, store.now(connection))


def not_dropped(connection: Connection) -> list[Lease]:
    """Return the leases of living workers, and those that ran out and that no scheduler has dropped yet.

    A scheduler that comes back from an outage of the database gives leases a whole term to be renewed, so the workers of
    these may be alive.
    """
    return _leases(connection, _NOT_DROPPED)


def schedulers(store: Store, connection: Connection) -> list[Lease]:
    """Return the scheduler processes that are alive."""
    return _leases(connection, _SCHEDULERS, store.now(connection))


def _leases(connection: Connection, statement: TextClause, now: float | None = None) -> list[Lease]:
    return [_lease(row) for row in connection.execute(statement, {} if now is None else {"now": now})]


def _lease(row: Row[Any]) -> Lease:
    impaired: dict[str, dict[str, str]] = orjson.loads(row.impaired)
    return Lease(
        row.id,
        row.worker,
        row.lane,
        tuple(orjson.loads(row.routes)),
        row.slots,
        row.in_flight,
        row.impairment,
        row.started_at,
        {route: " ".join(kinds.values()) for route, kinds in impaired.items()},
        row.origin,
        row.part,
        tuple(route for route, kinds in impaired.items() if ELSEWHERE in kinds),
    )
