"""The lease of each living process: workers hold jobs under theirs, schedulers only show that they are alive.

A process is silent when its lease ran out without an orderly end. A stopped process (SIGSTOP), a killed one and one that is
cut off from the database look alike from here. Each is remembered until it renews its lease, another takes its place, or
`REMEMBERED_S` have passed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, TextClause, text

from trivet_store.database.engine import Store

ISOLATED = "isolated"
"""The lane of a process that a worker starts for quarantined jobs: nobody dispatches to it."""
ELSEWHERE = "definition"
"""Kind of impairment: the worker's file has another place for the route than the one that is registered."""
WORKER = "worker"
SCHEDULER = "scheduler"
REMEMBERED_S = 600.0
"""Seconds for which a process that never came back is reported."""


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


class Silent(NamedTuple):
    """A process whose lease ran out."""

    process: str
    part: str
    """`worker` or `scheduler`."""
    lane: str
    routes: tuple[str, ...]
    expired_at: float
    """Seconds since the epoch, by the database's clock."""
    covered: bool = False
    """True if its jobs have been rescued and other processes do its work: it blocks nothing."""


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
_SERVES = f"expires_at >= :now AND part = '{WORKER}' AND lane <> '{ISOLATED}'"
_TAKING = text(f"SELECT id, impaired FROM leases WHERE {_SERVES} AND impairment IS NULL")
_COLUMNS = "id, worker, lane, routes, slots, in_flight, impairment, started_at, impaired, origin, part"
_LIVING = text(f"SELECT {_COLUMNS} FROM leases WHERE {_SERVES} ORDER BY worker")
_NOT_DROPPED = text(f"SELECT {_COLUMNS} FROM leases WHERE part = '{WORKER}' AND lane <> '{ISOLATED}' ORDER BY worker")
_SCHEDULERS = text(f"SELECT {_COLUMNS} FROM leases WHERE expires_at >= :now AND part = '{SCHEDULER}' ORDER BY worker")
_REMEMBER = text(
    f"""
    INSERT INTO lost_processes (lease_id, process, part, lane, routes, expired_at)
    SELECT id, worker, part, lane, routes, expires_at FROM leases WHERE id = :lease_id AND lane <> '{ISOLATED}'
    """
)
_FORGET_OLD = text("DELETE FROM lost_processes WHERE expired_at < :before")
_FORGET = text("DELETE FROM lost_processes WHERE process = :process")
# a lease that ran out is kept until a scheduler has rescued its jobs
_SILENT = text(
    f"""
    SELECT worker AS process, part, lane, routes, expires_at AS expired_at, 0 AS rescued FROM leases
     WHERE expires_at < :now AND lane <> '{ISOLATED}'
    UNION ALL
    SELECT process, part, lane, routes, expired_at, 1 AS rescued FROM lost_processes WHERE expired_at >= :since
    """
)


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


def remember(store: Store, connection: Connection, lease_id: str) -> None:
    """Remember the process of a lease that ran out and is about to be dropped; forget those of long ago."""
    connection.execute(_FORGET_OLD, {"before": store.now(connection) - REMEMBERED_S})
    connection.execute(_REMEMBER, {"lease_id": lease_id})


def is_back(connection: Connection, process: str) -> None:
    """Forget a process that lives again."""
    connection.execute(_FORGET, {"process": process})


def silent(store: Store, connection: Connection, living: Iterable[Lease], ttl_s: float) -> list[Silent]:
    """Return the processes that fell silent and were not replaced, by name.

    Args:
        living: workers and schedulers that are alive.
        ttl_s: seconds that a lease lasts: its holder gave its last sign of life that long before the lease ran out.
    """
    now = store.now(connection)
    alive = list(living)
    found = []
    for row in connection.execute(_SILENT, {"now": now, "since": now - REMEMBERED_S}):
        one = Silent(row.process, row.part, row.lane, tuple(orjson.loads(row.routes)), row.expired_at)
        found.append(one._replace(covered=bool(row.rescued) and _is_covered(one, alive)))
    return _not_replaced(found, alive, ttl_s) if found else []


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


def _is_covered(one: Silent, living: Iterable[Lease]) -> bool:
    """Return whether others take the work of all its routes in its lane; of a scheduler, whether another one works."""
    peers = [lease for lease in living if (lease.part, lease.lane) == (one.part, one.lane) and not lease.impairment]
    return bool(peers) and all(any(lease.takes(route) for lease in peers) for route in one.routes)


def _not_replaced(found: Sequence[Silent], living: list[Lease], ttl_s: float) -> list[Silent]:
    """Leave out each that was replaced: another of its kind has been started since its last sign of life."""
    left = []
    for one in sorted(found, key=lambda one: one.expired_at):
        kind = (one.part, one.lane, set(one.routes))
        heard_at = one.expired_at - ttl_s
        for lease in living:
            if lease.worker == one.process or (
                (lease.part, lease.lane, set(lease.routes)) == kind and lease.started_at > heard_at
            ):
                living.remove(lease)
                break
        else:
            left.append(one)
    return sorted(left)
