"""The pages that Trivet has in place of Flower's: broker, tasks, the queue lengths of the API, metrics."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flower.api.tasks import GetQueueLengths
from flower.views import BaseHandler
from flower.views.monitor import Metrics
from flower.views.tasks import TasksView
from tornado.web import HTTPError, authenticated

from trivet.flower.cache_metrics import cache_metrics
from trivet.flower.depths import QueueDepths
from trivet.flower.metrics import backlog_metrics
from trivet.flower.proven import proven_metrics
from trivet.flower.queues import queue_names, queue_rows
from trivet_tasks.config.server_urls import masked
from trivet_tasks.errors import BrokerUnavailable

_TEMPLATES = Path(__file__).with_name("templates")
# absolute paths, so that Tornado takes these files, and what they extend from Flower's own templates
BROKER_TEMPLATE = str(_TEMPLATES / "trivet_broker.html")
TASKS_TEMPLATE = str(_TEMPLATES / "trivet_tasks.html")
BROKER_PATIENCE_S = 3.0
REFRESH_MS = 3_000


class _RouteQueues(BaseHandler):  # type: ignore[misc]  # Flower ships no types
    """Lists the queues of all routes, where Flower has those that workers consume at this moment."""

    def get_broker(self) -> QueueDepths:
        """Return the reader of queue depths, which Flower's pages ask."""
        depths: QueueDepths = self.application.depths
        return depths

    def get_active_queue_names(self) -> list[str]:
        """Return the queues of every route, then other queues that workers consume."""
        ours = queue_names(self.application.route_names())
        live = set(super().get_active_queue_names()) - {self.capp.conf.task_default_queue}
        return ours + sorted(live - set(ours))


class BrokerPage(_RouteQueues):
    """Page of the jobs that wait in SQL and the queues of the routes."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """Show the page; where broker or database is away it says so and shows the rest."""
        backlog = await self.application.backlog.latest()
        routes = self.application.route_names()
        (depths, broker_impairment), proven = await asyncio.gather(
            self._depths(self.get_active_queue_names()), self.application.proven.of(routes)
        )
        self.render(
            BROKER_TEMPLATE,
            backlog=backlog,
            broker_url=masked(self.application.trivet.broker_url),
            broker_impairment=broker_impairment,
            queues=queue_rows(routes, backlog, depths, proven),
            age=age,
            count=count,
            refresh_ms=REFRESH_MS if self.application.options.auto_refresh else 0,
        )

    async def _depths(self, names: Sequence[str]) -> tuple[dict[str, int | None], str]:
        try:
            async with asyncio.timeout(BROKER_PATIENCE_S):
                found: list[dict[str, Any]] = await self.get_broker().queues(names)
        except TimeoutError:
            return {}, f"The broker has not answered for {BROKER_PATIENCE_S:g} s."
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
        await super().get()
        self.write(backlog_metrics(backlog, self.application.route_names()))
        loop = asyncio.get_running_loop()
        self.write(await loop.run_in_executor(None, cache_metrics, self.application.admin))
        self.write(proven_metrics(await self.application.proven.of(self.application.route_names())))


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
