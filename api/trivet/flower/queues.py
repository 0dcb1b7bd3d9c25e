"""The queues of the routes as a table: one row per route and class, whether or not a worker is there to consume it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trivet.admin import Backlog, RouteUse
from trivet_tasks.latency import Latency
from trivet_tasks.messages import queue_name


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue. `route` and `latency` are empty for a queue that is not Trivet's but that some worker consumes."""

    name: str
    messages: int | None
    """Messages in the broker's queue, a chunk of jobs each; None: the broker did not say."""
    route: str = ""
    latency: str = ""
    dispatched: int = 0
    """Jobs in those messages that no worker has claimed."""
    running: int = 0
    oldest_s: float | None = None
    """Seconds since the oldest of both was submitted."""
    workers: int = 0
    """Living worker processes that take work from it now."""
    drained: bool = False
    proven_s: float | None = None
    """Seconds since the route last answered a call; None: it never did, or that is not known."""
    unproven: bool = False
    """True if it never did."""


def route_names(configured: Iterable[str], backlog: Backlog) -> list[str]:
    """Return every route that the configuration, the registry or a job under way names."""
    return sorted({*configured, *backlog.drained, *(row.route for row in backlog.routes)})


def queue_names(routes: Iterable[str]) -> list[str]:
    """Return the queues of these routes, one for each class."""
    return [queue_name(route, latency) for route in routes for latency in Latency]


def queue_rows(
    routes: Iterable[str], backlog: Backlog, depths: Mapping[str, int | None], uses: Mapping[str, RouteUse]
) -> list[QueueRow]:
    """Return the table: the queues of the routes, then any other queue with a depth.

    Args:
        depths: messages by queue, as far as the broker said.
        uses: when routes answered last, as far as the shared state said.
    """
    under_way = {(row.route, row.latency): row for row in backlog.routes}
    rows: list[QueueRow] = []
    for route in routes:
        use = uses.get(route)
        for latency in Latency:
            name = queue_name(route, latency)
            jobs = under_way.get((route, latency.value))
            rows.append(
                QueueRow(
                    name=name,
                    messages=depths.get(name),
                    route=route,
                    latency=latency.value,
                    dispatched=jobs.dispatched if jobs else 0,
                    running=jobs.running if jobs else 0,
                    oldest_s=backlog.age_s(jobs.oldest_at) if jobs else None,
                    workers=sum(1 for lease in backlog.leases if lease.takes(route) and lease.lane == latency.lane),
                    drained=backlog.drained.get(route, False),
                    proven_s=use.proven_s if use else None,
                    unproven=use is not None and use.proven_s is None,
                )
            )
    ours = {row.name for row in rows}
    return rows + [QueueRow(name, depth) for name, depth in sorted(depths.items()) if name not in ours]
