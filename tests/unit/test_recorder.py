"""The recorder's notes of routes while the database is away."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import redis
from celery import Celery
from sqlalchemy import Connection
from tests.builders import LIMITED, LimitedDirectory, call_results
from tests.unit.breakers_world import MODEL, ROUTE, World

from trivet_routing.liveness.process_impairments import ProcessImpairments
from trivet_routing.response_cache import ResponseCache
from trivet_routing.route_directory import RouteDirectory
from trivet_store.cluster import health
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.prices.cost_model import CostModel
from trivet_worker.run.cached import Cached
from trivet_worker.run.calls import WaitGroup
from trivet_worker.run.drops import Drops
from trivet_worker.run.in_progress import InProgress
from trivet_worker.run.pricing import Pricing
from trivet_worker.run.recorder import Recorder
from trivet_worker.run.route_impairments import RouteImpairments
from trivet_worker.run.slots import Slots
from trivet_worker.run.witness import Witness


class AwayAtFirst(Store):
    """A database that does not answer the first who wants to write."""

    away = True

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Connection]:
        if self.away:
            self.away = False
            raise StoreUnavailable("the database does not answer")
        with super().write(urgent=urgent) as connection:
            yield connection


class RoutesUnseen(LimitedDirectory):
    """The routes cannot be read while the database is away."""

    def candidates_of(self, models: set[str]) -> None:
        raise StoreUnavailable("the database does not answer")


def test_a_pause_that_could_not_be_written_at_once_is_written_later(world: World, tmp_path: Path) -> None:
    store = AwayAtFirst(f"sqlite:///{tmp_path / 'trivet.db'}")
    store.away = False
    ensure(store)
    store.away = True
    directory = cast("RouteDirectory", RoutesUnseen(world.limits))
    client, process_impairments = (
        cast("redis.Redis", world.client),
        ProcessImpairments(logging.getLogger("test"), "no work is taken"),
    )
    recorder = Recorder(
        store, client, directory, Celery("test", broker="memory://", set_as_current=False),
        Settings(), Slots(1), InProgress(), Pricing(CostModel(), time.time), 0.0,
        Cached(store, client, ResponseCache(client, Settings()), Settings(), process_impairments, Drops()), process_impairments,
        Witness(directory, "", RouteImpairments(logging.getLogger("test"))),
    )  # fmt: skip
    (result,) = call_results(world.breaker(), LIMITED)
    wait_group = WaitGroup()
    wait_group.add(1)
    recorder.start()
    recorder.put(replace(result, call=replace(result.call, wait_group=wait_group)))
    wait_group.wait()
    recorder.close()
    with store.read() as connection:
        (pause,) = health.closed(connection, store.now(connection))
    store.close()
    assert (pause.route, pause.models) == (ROUTE, MODEL)
