"""Restores limits and health after the shared state lost its memory (a flush, a new server, a first start).

Until then no permits are granted: the epoch's key is missing. SQL has all that the guarantees need: the unhealthy
routes, the pauses that providers asked for, and the calls under way. The buckets of limits that were used in the last
minute start empty.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import redis
from redis.client import Pipeline

from trivet_routing.limits import EPOCH, PERMIT_GRACE_S, UNHEALTHY, keys_of
from trivet_routing.permits import Quota
from trivet_routing.route_directory import RouteDirectory
from trivet_store.cluster import health
from trivet_store.cluster.health import CallRow, HealthRow, LimitRow
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.database.engine import Store
from trivet_tasks.call_times import longest_call_s
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import permit_id
from trivet_tasks.latency import Latency
from trivet_tasks.shared_state import PREFIX
from trivet_tasks.states import RouteState

log = logging.getLogger("trivet.scheduler")

LOCK = f"{PREFIX}restoring"
LOCK_S = 10
LATELY_S = 60.0
"""The minute over which providers count."""


class _Recorded(NamedTuple):
    """The part of the shared state that SQL knows."""

    routes: Mapping[str, RegisteredRoute]
    read_at: float
    """The database's time."""
    unhealthy: Sequence[HealthRow]
    closed: Sequence[LimitRow]
    calls: Sequence[CallRow]
    used: Sequence[tuple[str, str]]
    """Routes and models that were used in the last minute."""


class Restorer:
    """Restores the shared state when its epoch is missing; one process at a time."""

    def __init__(self, store: Store, client: redis.Redis, directory: RouteDirectory, settings: Settings) -> None:
        self._store = store
        self._redis = client
        self._directory = directory
        self._settings = settings
        self._wrong: set[tuple[str, str]] = set()

    def run(self) -> bool:
        """Restore the shared state if it was lost. One round trip when it was not. Returns whether it was restored.

        Raises:
            StoreUnavailable, redis.RedisError: no calls are made until it was done.
        """
        if self._redis.exists(EPOCH) or not self._redis.set(LOCK, b"", nx=True, ex=LOCK_S):
            return False
        try:
            return self._put_back()
        finally:
            self._redis.delete(LOCK)

    def reconcile(self) -> None:
        """Correct the recorded health of routes where it is wrong: recording a change failed or came too late.

        Only differences seen twice are corrected: a change may be about to be recorded.

        Raises:
            StoreUnavailable, redis.RedisError.
        """
        with self._store.read() as connection:
            written = {(row.route, row.model): row.state for row in health.noted(connection)}
        pairs = {pair for pair, state in written.items() if state != RouteState.HEALTHY} | set(
            self._directory.limits.unhealthy()
        )
        breakers = self._directory.limits.health(sorted(pairs))
        wrong = {pair for pair in pairs if breakers[pair].state != written.get(pair, RouteState.HEALTHY)}
        twice, self._wrong = wrong & self._wrong, wrong
        if not twice or not self._redis.exists(EPOCH):
            return
        with self._store.write() as connection:
            now = self._store.now(connection)
            for route, model in sorted(twice):
                breaker = breakers[route, model]
                health.note(connection, route, model, breaker.state, breaker.cause, now, breaker.wait_s, breaker.share)
        log.warning("the health of %d routes or models was written down anew", len(twice))

    def _put_back(self) -> bool:
        recorded = self._read()
        seconds, micros = self._redis.time()
        with self._redis.pipeline(transaction=True) as pipeline:
            limiters = [_limiter(pause.route, pause.models) for pause in recorded.closed]
            pipeline.watch(EPOCH, *limiters)  # type: ignore[no-untyped-call]
            if pipeline.exists(EPOCH):
                return False  # reading took longer than the lock lasts, and another has done it
            # calls that ended meanwhile may have been told to wait still longer
            told = [float(pipeline.hget(limiter, "closed_until") or 0) for limiter in limiters]
            pipeline.multi()
            self._write(pipeline, recorded, told, seconds + micros / 1e6)
            pipeline.set(EPOCH, seconds)
            try:
                pipeline.execute()
            except redis.WatchError:
                return False
        if not (recorded.unhealthy or recorded.closed or recorded.calls or recorded.used):
            log.info("limits and health begin empty")
            return True
        log.warning(
            "the shared state had lost its memory: %d routes or models out of service, %d pauses and %d calls put back",
            len(recorded.unhealthy), len(recorded.closed), len(recorded.calls),
        )  # fmt: skip
        return True

    def _read(self) -> _Recorded:
        routes = self._directory.known(fresh=True).routes
        with self._store.read() as connection:
            now = self._store.now(connection)
            return _Recorded(
                routes,
                now,
                [row for row in health.noted(connection) if row.state != RouteState.HEALTHY],
                health.closed(connection, now),
                health.under_way(connection),
                health.used_lately(connection, now - LATELY_S),
            )

    def _write(self, pipeline: Pipeline, recorded: _Recorded, told: Sequence[float], now: float) -> None:
        """Queue the commands that restore it.

        Args:
            told: until when each pause lasts by the shared state itself.
            now: Redis' time.
        """
        for row in recorded.unhealthy:
            breaker = keys_of(row.route, row.model, row.model)[0]
            fields: Mapping[Any, Any] = {
                "state": RouteState.OPEN.value,
                "cause": row.cause,
                "since": row.since,
                "gen": int(now),  # a generation that no call under way has
                "retry_at": now + random.uniform(0, self._settings.health.probe_interval_s),
            }
            pipeline.hset(breaker, mapping=fields)
            pipeline.sadd(UNHEALTHY, breaker)
        routes = recorded.routes
        for route, model in recorded.used:
            if route in routes:
                limiter = _limiter(route, Quota.of(routes[route].settings, model).group)
                pipeline.hset(limiter, mapping={"r": 0, "i": 0, "o": 0, "at": now})
        for pause, told_until in zip(recorded.closed, told, strict=True):
            until = max(now + pause.closed_until - recorded.read_at, told_until)
            pause_fields: Mapping[Any, Any] = {"closed_until": until, "cause": pause.cause, "at": until}
            pipeline.hset(_limiter(pause.route, pause.models), mapping=pause_fields)
        for call in recorded.calls:
            if call.route in routes:
                keys = keys_of(call.route, call.model, Quota.of(routes[call.route].settings, call.model).group)
                longest_s = longest_call_s(self._settings.classes, Latency(call.latency), call.model, call)
                lost_at = now + longest_s + PERMIT_GRACE_S
                for key in {keys[3], keys[6]}:
                    pipeline.zadd(key, {permit_id(call.lease_id, call.id): lost_at})


def _limiter(route: str, group: str) -> str:
    return keys_of(route, group, group)[2]
