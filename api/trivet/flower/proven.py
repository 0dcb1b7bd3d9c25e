"""Time of each route's last answer, for the page and the metrics."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trivet.admin import Admin, RouteUse
from trivet_tasks.errors import BrokerUnavailable

PATIENCE_S = 3.0


class ProvenReader:
    """Reads the shared state in a thread, for pages that must not wait for it."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def of(self, routes: Sequence[str]) -> Mapping[str, RouteUse]:
        """Return the last call and the last answer of each route; nothing if the shared state does not answer."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await loop.run_in_executor(None, self._admin.routes.last_used, routes)
        except (BrokerUnavailable, TimeoutError):
            return {}


def proven_metrics(uses: Mapping[str, RouteUse]) -> bytes:
    """Return the moment of each route's last proof in Prometheus' text format; a route that never answered is left out."""
    registry = CollectorRegistry()
    registry.register(_Collector(uses.items()))
    return bytes(generate_latest(registry))


class _Collector(Collector):
    def __init__(self, uses: Iterable[tuple[str, RouteUse]]) -> None:
        self._uses = list(uses)

    def collect(self) -> Iterator[Metric]:
        proven = GaugeMetricFamily(
            "trivet_route_last_proven_timestamp_seconds",
            "When the newest call began that the route answered, a job's or a probe's.",
            labels=["route"],
        )
        now = time.time()
        for route, use in self._uses:
            if use.proven_s is not None:
                proven.add_metric([route], now - use.proven_s)
        yield proven
