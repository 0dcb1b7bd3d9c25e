"""The pages that Trivet has in place of Flower's: broker, tasks, the queue lengths of the API, metrics."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower.api.tasks import GetQueueLengths
from flower.views import BaseHandler
from flower.views.monitor import Metrics
from flower.views.tasks import TasksView
from tornado.web import HTTPError, authenticated

from trivet.admin import Backlog, RouteUse
from trivet.flower.metrics import metrics_text
from trivet.flower.readers import PATIENCE_S, QueueDepths
from trivet.flower.schedule_rows import schedule_rows
from trivet_tasks.config.server_urls import masked
from trivet_tasks.errors import BrokerUnavailable
from trivet_tasks.latency import Latency
from trivet_tasks.messages import queue_name

_TEMPLATES = Path(__file__).with_name("templates")
# absolute paths, so that Tornado takes these files, and what they extend from Flower's own templates
BROKER_TEMPLATE = str(_TEMPLATES / "trivet_broker.html")
TASKS_TEMPLATE = str(_TEMPLATES / "trivet_tasks.html")
REFRESH_MS = 3_000


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


class _RouteQueues(BaseHandler):  # type: ignore[misc]  # Flower ships no types
    """Lists the queues of all routes, where Flower has those that workers consume at this moment."""

    def get_broker(self) -> QueueDepths:
        """Return the reader of queue depths, which Flower's pages ask."""
        depths: QueueDepths = self.application.depths
        return depths

    def get_active_queue_names(self) -> list[str]:
        """Return the queues of every route, then other queues that workers consume."""
        ours = [queue_name(route, latency) for route in self.application.route_names() for latency in Latency]
        live = set(super().get_active_queue_names()) - {self.capp.conf.task_default_queue}
        return ours + sorted(live - set(ours))


class BrokerPage(_RouteQueues):
    """Page of the jobs that wait in SQL, the queues of the routes and the schedules."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """Show the page. If broker or database is away, report that and show the rest."""
        backlog = await self.application.backlog.latest()
        routes = self.application.route_names()
        (depths, broker_impairment), proven = await asyncio.gather(
            self._depths(self.get_active_queue_names()), self.application.shared_state.uses(routes)
        )
        self.render(
            BROKER_TEMPLATE,
            backlog=backlog,
            broker_url=masked(self.application.trivet.broker_url),
            broker_impairment=broker_impairment,
            queues=queue_rows(routes, backlog, depths, proven),
            schedules=schedule_rows(self.application.backlog.schedules),
            age=age,
            count=count,
            refresh_ms=REFRESH_MS if self.application.options.auto_refresh else 0,
        )

    async def _depths(self, names: Sequence[str]) -> tuple[dict[str, int | None], str]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                found: list[dict[str, Any]] = await self.get_broker().queues(names)
        except TimeoutError:
            return {}, f"The broker has not answered for {PATIENCE_S:g} s."
        except BrokerUnavailable as error:
            return {}, str(error)
        return {queue["name"]: queue.get("messages") for queue in found}, ""


class TasksPage(TasksView):  # type: ignore[misc]
    """Flower's page of tasks, with columns wide enough for Trivet's."""

    def render(self, template_name: str, **values: Any) -> None:
        """Show the page in our layout."""
        super().render(TASKS_TEMPLATE if template_name == "tasks.html" else template_name, **values)


class QueueLengths(_RouteQueues, GetQueueLengths):  # type: ignore[misc]
    """`/api/queues/length` over the queues of every route."""

    async def get(self) -> None:
        """Answer as Flower does, after the routes have been read."""
        await self.application.backlog.latest()
        try:
            await super().get()
        except BrokerUnavailable as error:
            raise HTTPError(503, str(error)) from None


class MetricsPage(Metrics):  # type: ignore[misc]
    """`/metrics` with the backlog after Flower's own."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """Answer in Prometheus' text format."""
        backlog = await self.application.backlog.latest()
        routes, shared = self.application.route_names(), self.application.shared_state
        await super().get()
        cache, uses = await asyncio.gather(shared.cache(), shared.uses(routes))
        self.write(metrics_text(backlog, routes, cache, uses))


def age(seconds: float | None) -> str:
    """Return a duration for people, coarse enough to be compared at a glance."""
    if seconds is None:
        return "—"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def count(number: int | None) -> str:
    """Return a number for people."""
    return "—" if number is None else f"{number:,}"
