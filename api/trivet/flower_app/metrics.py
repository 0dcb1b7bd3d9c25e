"""The backlog in Prometheus' text format, to follow Flower's own metrics on `/metrics`."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trivet.flower_app.backlog import Backlog
from trivet_tasks.latency import Latency


def backlog_metrics(backlog: Backlog, routes: Iterable[str]) -> bytes:
    """The metrics of this backlog. Where it is not current there is `trivet_backlog_current 0` alone, no old figures."""
    registry = CollectorRegistry()
    registry.register(_Collector(backlog, list(routes)))
    return bytes(generate_latest(registry))


class _Collector(Collector):
    def __init__(self, backlog: Backlog, routes: list[str]) -> None:
        self._backlog = backlog
        self._routes = routes

    def collect(self) -> Iterator[Metric]:
        current = not self._backlog.trouble
        yield GaugeMetricFamily(
            "trivet_backlog_current", "Whether the database answered when it was asked last.", value=float(current)
        )
        if current:
            yield from self._waiting()
            yield self._at_routes()

    def _waiting(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("trivet_waiting_jobs", "Jobs that wait in SQL.", labels=["class", "state"])
        age = GaugeMetricFamily(
            "trivet_oldest_waiting_seconds", "How long ago the oldest waiting job was submitted.", labels=["class"]
        )
        rows = {row.latency: row for row in self._backlog.classes}
        for latency in Latency:
            row = rows.get(latency.value)
            for state in ("waiting", "delayed", "held", "following"):
                jobs.add_metric([latency.value, state], getattr(row, state) if row else 0)
            age.add_metric([latency.value], self._backlog.age_s(row.oldest_at) or 0.0 if row else 0.0)
        yield jobs
        yield age

    def _at_routes(self) -> Metric:
        jobs = GaugeMetricFamily("trivet_route_jobs", "Jobs that stand at a route.", labels=["route", "class", "state"])
        rows = {(row.route, row.latency): row for row in self._backlog.routes}
        for route in self._routes:
            for latency in Latency:
                row = rows.get((route, latency.value))
                jobs.add_metric([route, latency.value, "dispatched"], row.dispatched if row else 0)
                jobs.add_metric([route, latency.value, "running"], row.running if row else 0)
        return jobs
