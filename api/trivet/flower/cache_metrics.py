"""The response cache in Prometheus' text format, to follow the backlog on `/metrics`."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from trivet.admin import Admin, CacheStats
from trivet_tasks.errors import BrokerUnavailable

_COUNTED = {
    "hits": "Look-ups that found an answer.",
    "misses": "Look-ups after which the job was called for.",
    "coalesced": "Jobs that waited for an equal one.",
    "stored": "Answers that were kept.",
    "evicted": "Answers that left before their time, for want of room.",
}
_GAUGES = {
    "entries": "Answers that are kept.",
    "bytes": "Approximate size of these answers in Redis.",
    "max_bytes": "Maximum size.",
}


def cache_metrics(admin: Admin) -> bytes:
    """Return the metrics of the cache; none where Redis does not answer."""
    try:
        stats = admin.cache.stats()
    except BrokerUnavailable:
        return b""
    registry = CollectorRegistry()
    registry.register(_Collector(stats))
    return bytes(generate_latest(registry))


class _Collector(Collector):
    def __init__(self, stats: CacheStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        for name, said in _COUNTED.items():
            yield CounterMetricFamily(f"trivet_cache_{name}", said, value=getattr(self._stats, name))
        for name, said in _GAUGES.items():
            yield GaugeMetricFamily(f"trivet_cache_{name}", said, value=getattr(self._stats, name))
