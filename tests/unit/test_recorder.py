"""The recorder's notes of routes while the database is away."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from celery import Celery
from sqlalchemy import Connection
from tests.builders import LIMITED, call_results, worker_context
from tests.directories import FixedDirectory
from tests.unit.breakers_world import MODEL, ROUTE, World

from trivet_routing.response_cache import ResponseCache
from trivet_store.cluster import health
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.errors import StoreUnavailable
from trivet_worker.run.cached import Cached
from trivet_worker.run.process_state import WaitGroup
from trivet_worker.run.recorder import Recorder


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


def test_a_pause_that_could_not_be_written_at_once_is_written_later(world: World, tmp_path: Path) -> None:
    store = AwayAtFirst(f"sqlite:///{tmp_path / 'trivet.db'}")
    store.away = False
    ensure(store)
    store.away = True
    directory = FixedDirectory(limits=world.limits, leases=())
    directory.breakers_error = StoreUnavailable("the database does not answer")
    context = worker_context(store, world.client, directory)
    app = Celery("test", broker="memory://", set_as_current=False)
    cached = Cached(context, ResponseCache(world.client, context.settings))
    recorder = Recorder(context, app, cached, gather_s=0.0)
    (result,) = call_results(world.breaker(), LIMITED)
    wait_group = WaitGroup()
    wait_group.add(1)
    recorder.start()
    recorder.put(replace(result, call=replace(result.call, wait_group=wait_group)))
    wait_group.wait()
    with store.read() as connection:
        (pause,) = health.closed(connection, store.now(connection))
    store.close()
    assert (pause.route, pause.models) == (ROUTE, MODEL)
