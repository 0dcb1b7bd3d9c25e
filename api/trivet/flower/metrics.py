"""The backlog in Prometheus' text format, to follow Flower's own metrics on `/metrics`."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trivet.admin import Backlog, ImpairmentKind
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.states import JobState


def backlog_metrics(backlog: Backlog, routes: Iterable[str]) -> bytes:
    """Return the metrics of this backlog. If it is not current, only `trivet_backlog_current 0`: no old figures."""
    registry = CollectorRegistry()
    registry.register(_Collector(backlog, list(routes)))
    return bytes(generate_latest(registry))


class _Collector(Collector):
    def __init__(self, backlog: Backlog, routes: list[str]) -> None:
        self._backlog = backlog
        self._routes = routes

    def collect(self) -> Iterator[Metric]:
        current = not self._backlog.impairment
        yield GaugeMetricFamily(
            "trivet_backlog_current", "1 if the database answered when it was asked last.", value=float(current)
        )
        if current:
            yield from self._processes()
            yield from self._waiting()
            yield self._at_routes()
            yield self._spent()
            yield from self._budgets()

    def _processes(self) -> Iterator[Metric]:
        alive = GaugeMetricFamily("trivet_processes", "Processes that are alive.", labels=["part", "lane"])
        wrong = GaugeMetricFamily(
            "trivet_impairments",
            "Impairments of processes and servers that block work, by kind; all 0: none.",
            labels=["kind"],
        )
        alive.add_metric(["scheduler", ""], len(self._backlog.schedulers))
        for lane in Lane:
            alive.add_metric(["worker", lane], sum(lease.lane == lane for lease in self._backlog.leases))
        for kind in ImpairmentKind:
            wrong.add_metric([kind.value], sum(one.kind is kind and one.holds_up for one in self._backlog.impairments))
        yield from (alive, wrong)

    def _waiting(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("trivet_waiting_jobs", "Jobs that wait in SQL.", labels=["class", "state"])
        age = GaugeMetricFamily(
            "trivet_oldest_waiting_seconds", "How long ago the oldest waiting job was submitted.", labels=["class"]
        )
        rows = {row.latency: row for row in self._backlog.classes}
        for latency in Latency:
            row = rows.get(latency.value)
            for state in (JobState.WAITING.value, JobState.DELAYED.value, "held", JobState.COALESCED.value):
                jobs.add_metric([latency.value, state], getattr(row, state) if row else 0)
            age.add_metric([latency.value], self._backlog.age_s(row.oldest_at) or 0.0 if row else 0.0)
        yield jobs
        yield age

    def _at_routes(self) -> Metric:
        jobs = GaugeMetricFamily(
            "trivet_route_jobs", "Jobs dispatched to a route and not ended.", labels=["route", "class", "state"]
        )
        rows = {(row.route, row.latency): row for row in self._backlog.routes}
        for route in self._routes:
            for latency in Latency:
                row = rows.get((route, latency.value))
                jobs.add_metric([route, latency.value, JobState.DISPATCHED], row.dispatched if row else 0)
                jobs.add_metric([route, latency.value, JobState.RUNNING], row.running if row else 0)
        return jobs

    def _spent(self) -> Metric:
        usd = GaugeMetricFamily(
            "trivet_route_spent_today_usd",
            "What the calls of this day (UTC) cost, by route; estimated: at most, beside what is settled.",
            labels=["route", "kind"],
        )
        for route in self._routes:
            spent = self._backlog.spent.get(route)
            usd.add_metric([route, "settled"], float(spent.settled_usd) if spent else 0.0)
            usd.add_metric([route, "estimated"], float(spent.estimated_usd) if spent else 0.0)
        return usd

    def _budgets(self) -> Iterator[Metric]:
        limit = GaugeMetricFamily(
            "trivet_budget_limit_usd", "What may be spent in the window that is now.", labels=["budget"]
        )
        usd = GaugeMetricFamily(
            "trivet_budget_usd",
            "What of a budget is settled, estimated (at most), and reserved for calls and jobs on their way.",
            labels=["budget", "kind"],
        )
        warn = GaugeMetricFamily(
            "trivet_budget_warn_share", "The share of the limit at which a warning is given.", labels=["budget"]
        )
        holding = GaugeMetricFamily("trivet_budget_holding", "Whether it holds its jobs.", labels=["budget"])
        held = GaugeMetricFamily("trivet_budget_held_jobs", "Jobs that wait for it.", labels=["budget"])
        for one in self._backlog.budgets:
            limit.add_metric([one.name], float(one.limit_usd))
            usd.add_metric([one.name, "settled"], float(one.settled_usd))
            usd.add_metric([one.name, "estimated"], float(one.estimated_usd))
            usd.add_metric([one.name, "reserved"], float(one.reserved_usd))
            warn.add_metric([one.name], one.warn_at)
            holding.add_metric([one.name], float(one.holding))
            held.add_metric([one.name], one.jobs_held)
        yield from (limit, usd, warn, holding, held)
