"""Impairments of the processes of a Trivet, read here for all that reports them.

`trivet routes`, `trivet batch status`, commands that wait, Flower's page and the metrics all show `impairments`.
"""

import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import redis

from trivet.times import ago
from trivet_routing.liveness.process_impairments import IS_STOPPING, Announced, announced
from trivet_store.cluster import leases, registry
from trivet_store.cluster.leases import SCHEDULER, Lease, Silent
from trivet_store.database.engine import Connection, Store
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Lane
from trivet_tasks.shared_state import check_writable, unavailable_text

FULL_BYTES = 1_000_000
"""A SQLite database can hardly be written with fewer free bytes than this on its disk."""


class ImpairmentKind(StrEnum):
    """Kind of impairment."""

    SCHEDULER = "scheduler"
    """No scheduler is alive."""
    LANE = "lane"
    """No worker of a lane is alive."""
    ROUTE = "route"
    """No worker takes work of a route that is in service."""
    SILENT = "silent"
    """A process is stopped, dead or cut off."""
    IDLE = "idle"
    """A living process does not work."""
    SERVER = "server"
    """The shared state does not answer, or the database's disk is full."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """One impairment."""

    kind: ImpairmentKind
    subject: str
    """The process, lane or route it is about."""
    text: str
    """One sentence or two: what is wrong, and what to do."""
    lane: str = ""
    """The only lane whose jobs it blocks; empty: both."""
    holds_up: bool = True
    """False if it is only a remark, because others do the work."""

    @property
    def key(self) -> tuple[str, str]:
        """Return a key that identifies it for as long as it lasts."""
        return self.kind, self.subject

    def concerns(self, lanes: Container[str]) -> bool:
        """Return whether it blocks jobs of these lanes. An unserved route blocks them only if it is the last one."""
        return self.holds_up and self.kind is not ImpairmentKind.ROUTE and (not self.lane or self.lane in lanes)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that are alive, and those that fell silent."""

    workers: tuple[Lease, ...] = ()
    schedulers: tuple[Lease, ...] = ()
    silent: tuple[Silent, ...] = ()

    def idle(self, said: Iterable[Announced] = ()) -> tuple[Announced, ...]:
        """Return the living processes that do not work, by name: as their leases say, and as they announce it."""
        by_lease = {
            lease.worker: Announced(lease.worker, lease.part, lease.impairment, None)
            for lease in (*self.workers, *self.schedulers)
            if lease.impairment
        }
        found = by_lease | {one.process: one for one in said}
        return tuple(found[process] for process in sorted(found))


def read_processes(store: Store, connection: Connection, ttl_s: float) -> Processes:
    """Read which processes are alive, by their leases.

    Args:
        ttl_s: seconds that a lease lasts: `[leases] ttl_s`.
    """
    workers, schedulers = leases.living(store, connection), leases.schedulers(store, connection)
    silent = leases.silent(store, connection, [*workers, *schedulers], ttl_s)
    return Processes(tuple(workers), tuple(schedulers), tuple(silent))


def read_impairments(store: Store, settings: Settings, client: redis.Redis) -> tuple[Impairment, ...]:
    """Read all present impairments: a few rows of SQL and two round trips to the shared state.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    with store.read() as connection:
        processes = read_processes(store, connection, settings.leases.ttl_s)
        drained = {name: route.drained for name, route in registry.registered(store, connection).items()}
        now = store.now(connection)
    said: Sequence[Announced] = ()
    server = full_disk(store)
    try:
        said = announced(client)
        check_writable(client)  # a Redis that is out of memory answers, and yet nothing moves
    except redis.RedisError as error:
        why = unavailable_text(settings.redis_url, error)
        server = f"{server} {why}" if server else why
    return impairments(processes, drained, settings.worker.lanes, now, said=said, server=server)


def impairments(
    processes: Processes,
    drained: Mapping[str, bool],
    lanes: Sequence[str],
    now: float,
    *,
    said: Iterable[Announced] = (),
    server: str | None = None,
) -> tuple[Impairment, ...]:
    """Return all impairments, the most general first.

    Args:
        drained: the known routes, each with whether an operator took it out of service.
        lanes: the lanes that workers are to serve: `[worker] lanes`.
        now: the database's clock.
        said: the processes' announcements in the shared state.
        server: the reason why the shared state or the database cannot be used, if so.
    """
    found = [] if server is None else [Impairment(ImpairmentKind.SERVER, "", server)]
    if not processes.schedulers:
        found.append(
            Impairment(
                ImpairmentKind.SCHEDULER,
                SCHEDULER,
                "No scheduler is alive: waiting jobs are not dispatched, and jobs of dead workers are not rescued."
                " Start one: trivet scheduler, or all of it: trivet up",
            )
        )
    served = {lease.lane for lease in processes.workers}
    found += [_no_worker_of(lane) for lane in lanes if lane not in served]
    if served:
        found += [one for name, out in drained.items() if not out and (one := _unserved(name, processes.workers))]
    found += [_silent(one, now) for one in processes.silent]
    lane_of = {lease.worker: lease.lane for lease in processes.workers}
    found += [
        Impairment(ImpairmentKind.IDLE, one.process, idle_words(one, now), lane_of.get(one.process, ""))
        for one in processes.idle(said)
        if one.impairment != IS_STOPPING
    ]
    return tuple(found)


def lacking_lanes(route: str, workers: Iterable[Lease], lanes: Iterable[str]) -> tuple[str, ...]:
    """Return the lanes in which no living worker takes work of a route."""
    served = {lease.lane for lease in workers if lease.takes(route)}
    return tuple(lane for lane in lanes if lane not in served)


def full_disk(store: Store) -> str | None:
    """Return an impairment if the disk of a SQLite database is full: then no process may be able to record it."""
    if store.path is None:
        return None
    try:
        free = shutil.disk_usage(store.path.parent).free
    except OSError:
        return None
    if free >= FULL_BYTES:
        return None
    return f"The disk of the database {store.shown_url} is full: nothing can be written down, so no work is done. Make room; it goes on by itself."


def idle_words(one: Announced, now: float) -> str:
    """Return the sentence that a process does no work, with its reason."""
    since = "" if one.since is None else f" for {ago(now - one.since)}"
    what = "dispatches nothing" if one.part == SCHEDULER else "takes no work"
    return f"{one.part} {one.process} {what}{since}: {one.impairment}"


def _no_worker_of(lane: str) -> Impairment:
    fast = "realtime jobs fail, interactive ones wait"
    jobs = fast if lane == Lane.REALTIME else "batch, async and deferred jobs wait"
    return Impairment(
        ImpairmentKind.LANE,
        lane,
        f"No {lane} worker is alive: {jobs}. Start one: trivet worker --lane {lane}, or all of it: trivet up",
        lane,
    )


def _unserved(route: str, workers: Iterable[Lease]) -> Impairment | None:
    """Return the impairment that no worker takes a route's work; None where one does, or each gives its own reason."""
    serving = [lease for lease in workers if route in lease.routes]
    if any(lease.impairment or lease.takes(route) for lease in serving):
        return None
    if reasons := dict.fromkeys(lease.impaired[route] for lease in serving):
        text = f"No worker takes work of {route}: {' '.join(reasons)}"
    else:
        text = f"No living worker serves {route}. Start one: trivet worker --routes {route}"
    return Impairment(ImpairmentKind.ROUTE, route, text)


def _silent(one: Silent, now: float) -> Impairment:
    since = f"{one.part} {one.process} has been silent since its lease ran out {ago(now - one.expired_at)} ago"
    if one.covered:
        text = f"{since}. Its work is done by others, so nothing waits for it."
    else:
        text = f"{since}: it is stopped, dead or cut off from the database. Continue or restart it."
    return Impairment(ImpairmentKind.SILENT, one.process, text, one.lane, holds_up=not one.covered)
