"""The recorder while the database is away, or refuses something of an answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Connection
from tests.builders import LIMITED, call, call_results, worker_context
from tests.directories import FixedDirectory
from tests.store.world import World as StoreWorld
from tests.store.world import spec
from tests.unit.breakers_world import MODEL, ROUTE, World

from trivet_routing.response_cache import ResponseCache
from trivet_store.cluster import health
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.outcomes import Usage, UsagePart
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer
from trivet_worker.run.cached import Cached
from trivet_worker.run.calls import CallResult
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


def record(world: World, store: Store, directory: FixedDirectory, result: CallResult) -> None:
    """Give a recorder this call, and wait until it is done with it."""
    context = worker_context(store, world.client, directory)
    app = Celery("test", broker="memory://", set_as_current=False)
    cached = Cached(context, ResponseCache(world.client, context.settings))
    recorder = Recorder(context, app, cached, gather_s=0.0)
    wait_group = WaitGroup()
    wait_group.add(1)
    recorder.start()
    recorder.put(replace(result, call=replace(result.call, wait_group=wait_group)))
    wait_group.wait()


def test_a_pause_that_could_not_be_written_at_once_is_written_later(world: World, tmp_path: Path) -> None:
    store = AwayAtFirst(f"sqlite:///{tmp_path / 'trivet.db'}")
    store.away = False
    ensure(store)
    store.away = True
    directory = FixedDirectory(limits=world.limits, leases=())
    directory.breakers_error = StoreUnavailable("the database does not answer")
    (result,) = call_results(world.breaker(), LIMITED)
    record(world, store, directory, result)
    with store.read() as connection:
        (pause,) = health.closed(connection, store.now(connection))
    store.close()
    assert (pause.route, pause.models) == (ROUTE, MODEL)


@pytest.mark.parametrize("column", ["price_parts", "model_used", "price_terms"])
def test_an_answer_is_kept_where_the_database_refuses_what_it_was_priced_by(
    world: World, tmp_path: Path, column: str
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'trivet.db'}")
    ensure(store)
    sql = StoreWorld(store)
    sql.sql(
        f"CREATE TRIGGER refuses BEFORE UPDATE ON attempts WHEN NEW.{column} IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    (accepted,) = sql.add(spec("document"))
    (job,) = sql.take(sql.lease(), sql.dispatch())
    passes = UsagePart("message", None, 2, 491), UsagePart("advisor_message", "claude-opus-4-7", 159_419, 7_805)
    answer = Answer(b"{}", "end_turn", Usage(159_421, 8_296, model="claude-opus-5", parts=passes), None)
    result = CallResult(replace(call(), job=job), answer, 0.1)
    record(world, store, FixedDirectory(limits=world.limits, leases=()), result)
    (attempt,) = sql.sql("SELECT * FROM attempts")
    assert sql.job(accepted.id).state == JobState.SUCCEEDED
    assert (attempt.price_parts, attempt.model_used, bool(attempt.estimated)) == (None, None, True)
    assert attempt.cost_usd > 0
    store.close()
