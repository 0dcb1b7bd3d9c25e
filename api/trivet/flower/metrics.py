"""Trivet's metrics in Prometheus' text format, to follow Flower's own on `/metrics`."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from trivet.admin import Backlog, CacheStats, ImpairmentKind, RouteUse
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.states import JobState

_COUNTED = {
    "hits": "Look-ups that found an answer.",
    "misses": "Look-ups after which the job was called for.",
    "coalesced": "Jobs that waited for an equal one.",
    "stored": "Answers that were kept.",
    "evicted": "Answers that left before their time, to make room.",
}
_GAUGES = {
    "entries": "Answers that are kept.",
    "bytes": "Approximate size of these answers in Redis.",
    "max_bytes": "Maximum size.",
}


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def metrics_text(
    backlog: Backlog, routes: Sequence[str], cache: CacheStats | None, uses: Mapping[str, RouteUse]
) -> bytes:
    """Return all metrics. If the backlog is not current, it is only `trivet_backlog_current 0`: no old figures.

    Args:
        cache: None: the shared state did not answer.
        uses: when routes answered last, as far as the shared state said.
    """
    metrics = [*_backlog(backlog, routes), *(_cache(cache) if cache else ()), _proven(uses)]
    return generate_latest(_Collected(metrics))


def _backlog(backlog: Backlog, routes: Sequence[str]) -> Iterator[Metric]:
    current = not backlog.stale
    yield GaugeMetricFamily(
        "trivet_backlog_current", "1 if the database answered when it was asked last.", value=float(current)
    )
    if current:
        yield from _processes(backlog)
        yield from _waiting(backlog)
        yield _at_routes(backlog, routes)
        yield _spent(backlog, routes)
        yield from _budgets(backlog)
        yield from _callbacks(backlog)
        yield _dropped(backlog)


def _processes(backlog: Backlog) -> Iterator[Metric]:
    alive = GaugeMetricFamily("trivet_processes", "Processes that are alive.", labels=["part", "lane"])
    wrong = GaugeMetricFamily(
        "trivet_impairments",
        "Impairments of processes and servers that block work, by kind; all 0: none.",
        labels=["kind"],
    )
    alive.add_metric(["scheduler", ""], len(backlog.schedulers))
    for lane in Lane:
        alive.add_metric(["worker", lane], sum(lease.lane == lane for lease in backlog.leases))
    for kind in ImpairmentKind:
        wrong.add_metric([kind.value], sum(one.kind is kind and one.holds_up for one in backlog.impairments))
    yield from (alive, wrong)


def _waiting(backlog: Backlog) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("trivet_waiting_jobs", "Jobs that wait in SQL.", labels=["class", "state"])
    age = GaugeMetricFamily(
        "trivet_oldest_waiting_seconds", "Seconds since the oldest waiting job was submitted.", labels=["class"]
    )
    rows = {row.latency: row for row in backlog.classes}
    for latency in Latency:
        row = rows.get(latency.value)
        for state in (JobState.WAITING.value, JobState.DELAYED.value, "held", "paused", JobState.COALESCED.value):
            jobs.add_metric([latency.value, state], getattr(row, state) if row else 0)
        age.add_metric([latency.value], backlog.age_s(row.oldest_at) or 0.0 if row else 0.0)
    yield jobs
    yield age


def _at_routes(backlog: Backlog, routes: Sequence[str]) -> Metric:
    jobs = GaugeMetricFamily(
        "trivet_route_jobs", "Jobs dispatched to a route and not ended.", labels=["route", "class", "state"]
    )
    rows = {(row.route, row.latency): row for row in backlog.routes}
    for route in routes:
        for latency in Latency:
            row = rows.get((route, latency.value))
            jobs.add_metric([route, latency.value, JobState.DISPATCHED], row.dispatched if row else 0)
            jobs.add_metric([route, latency.value, JobState.RUNNING], row.running if row else 0)
    return jobs


def _spent(backlog: Backlog, routes: Sequence[str]) -> Metric:
    usd = GaugeMetricFamily(
        "trivet_route_spent_today_usd",
        "Cost of the calls of this day (UTC), by route; estimated: at most, beside the settled cost.",
        labels=["route", "kind"],
    )
    for route in routes:
        spent = backlog.spent.get(route)
        usd.add_metric([route, "settled"], float(spent.settled_usd) if spent else 0.0)
        usd.add_metric([route, "estimated"], float(spent.estimated_usd) if spent else 0.0)
    return usd


def _callbacks(backlog: Backlog) -> Iterator[Metric]:
    counts = GaugeMetricFamily(
        "trivet_callbacks", "Callbacks on their way to a Celery application.", labels=["app", "state"]
    )
    oldest = GaugeMetricFamily(
        "trivet_callbacks_oldest_seconds", "Age of the oldest end that they are about.", labels=["app"]
    )
    failing = GaugeMetricFamily("trivet_callbacks_failing", "1 while its broker takes none.", labels=["app"])
    for one in backlog.callbacks:
        counts.add_metric([one.app, "due"], one.due)
        counts.add_metric([one.app, "unconfirmed"], one.unconfirmed)
        oldest.add_metric([one.app], backlog.age_s(one.oldest_at) or 0.0)
        failing.add_metric([one.app], float(one.failing_since is not None))
    return iter((counts, oldest, failing))


def _budgets(backlog: Backlog) -> Iterator[Metric]:
    limit = GaugeMetricFamily("trivet_budget_limit_usd", "Limit of the current window.", labels=["budget"])
    usd = GaugeMetricFamily(
        "trivet_budget_usd",
        "Parts of a budget: settled, estimated (at most), and reserved for calls and jobs on their way.",
        labels=["budget", "kind"],
    )
    warn = GaugeMetricFamily(
        "trivet_budget_warn_share", "The share of the limit at which a warning is given.", labels=["budget"]
    )
    holding = GaugeMetricFamily("trivet_budget_holding", "1 if it holds its jobs.", labels=["budget"])
    held = GaugeMetricFamily("trivet_budget_held_jobs", "Jobs that wait for it.", labels=["budget"])
    for one in backlog.budgets:
        limit.add_metric([one.name], float(one.limit_usd))
        usd.add_metric([one.name, "settled"], float(one.settled_usd))
        usd.add_metric([one.name, "estimated"], float(one.estimated_usd))
        usd.add_metric([one.name, "reserved"], float(one.reserved_usd))
        warn.add_metric([one.name], one.warn_at)
        holding.add_metric([one.name], float(one.holding))
        held.add_metric([one.name], one.jobs_held)
    yield from (limit, usd, warn, holding, held)


def _dropped(backlog: Backlog) -> Metric:
    times = CounterMetricFamily(
        "trivet_dropped", "Messages and answers that were not acted on, by kind and route.", labels=["kind", "route"]
    )
    for one in backlog.dropped:
        times.add_metric([one.kind.value, one.route], one.times)
    return times


def _cache(stats: CacheStats) -> Iterator[Metric]:
    for name, said in _COUNTED.items():
        yield CounterMetricFamily(f"trivet_cache_{name}", said, value=getattr(stats, name))
    for name, said in _GAUGES.items():
        yield GaugeMetricFamily(f"trivet_cache_{name}", said, value=getattr(stats, name))


def _proven(uses: Mapping[str, RouteUse]) -> Metric:
    """Return the moment of each route's last proof; a route that never answered is left out."""
    proven = GaugeMetricFamily(
        "trivet_route_last_proven_timestamp_seconds",
        "Start of the newest call that the route answered, a job's or a probe's.",
        labels=["route"],
    )
    now = time.time()
    for route, use in uses.items():
        if use.proven_s is not None:
            proven.add_metric([route], now - use.proven_s)
    return proven
