"""Submitting single jobs together while the database fails: an error of one request says nothing of those before it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery import Celery
from tests.directories import FixedDirectory
from tests.store.world import ROUTE, InThread, World, spec, until_blocked

from trivet import Client, Job
from trivet.client.connections import Connections
from trivet.client.submitting import send_accepted
from trivet_scheduler.dispatch import Dispatcher
from trivet_store.jobs.enqueue import DirectDispatch
from trivet_store.ledger import budgets
from trivet_tasks.config.budgets import BudgetSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable, TrivetError

NOWHERE = "redis://127.0.0.1:1/0"
FAULTS = {"SELECT json('{')": StoreUnavailable, "SELECT RAISE(ABORT, 'not this one')": TrivetError}
"""Statements that fail while SQLite runs, and what is said of them."""


@pytest.fixture
def client(sqlite_world: World) -> Iterator[Client]:
    """A client of a Trivet with a budget: each job has a transaction of its own."""
    with sqlite_world.store.write() as connection:
        given = BudgetSettings.model_validate({"name": "all", "usd": 1, "per": "day"})
        budgets.register(sqlite_world.store, connection, [given])
    with client_of(sqlite_world) as made:
        yield made


def client_of(world: World) -> Client:
    """Return a client without a broker: interactive jobs wait for another reason than those of a batch."""
    terms = {"store": {"url": world.store.url}, "redis": {"url": NOWHERE}, "broker": {"url": NOWHERE}}
    return Client(settings=Settings.model_validate(terms))


def request(key: str, latency: str = "batch") -> tuple[dict[str, Any], bool]:
    model = {"model": "claude-haiku-4-5", "max_tokens": 20}
    return {**model, "prompt": "Say yes.", "key": key, "latency": latency}, False


@pytest.mark.parametrize(("fault", "kind"), FAULTS.items())
def test_an_error_after_some_were_accepted_is_told_to_the_others_alone(
    sqlite_world: World, client: Client, fault: str, kind: type[TrivetError]
) -> None:
    sqlite_world.sql(f"CREATE TRIGGER fault BEFORE INSERT ON jobs WHEN NEW.key = 'third' BEGIN {fault}; END")
    first, second, third, fourth = client.submit_together([request(key) for key in ("first", "second", "third", "4th")])
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert type(third) is kind
    assert isinstance(fourth, StoreUnavailable if kind is StoreUnavailable else Job)
    stored = {row.key for row in sqlite_world.sql("SELECT key FROM jobs")}
    assert stored == {"first", "second"} | ({"4th"} if isinstance(fourth, Job) else set())


def test_jobs_that_are_accepted_raise_nothing_when_they_are_published(
    sqlite_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    directory = FixedDirectory()
    with Celery("test", broker="memory://", set_as_current=False) as app:
        dispatcher = Dispatcher(sqlite_world.store, directory, app, Settings())
        connections = cast(Connections, SimpleNamespace(dispatcher=dispatcher))
        send_accepted(connections, [(spec(), "one", DirectDispatch("gone", 4e9))])
        for fault in (StoreUnavailable("The database is away."), ValueError("a prompt")):
            directory.database_error = fault
            send_accepted(connections, [(spec(), "three", DirectDispatch(ROUTE, 4e9))])
    said = [record.getMessage() for record in caplog.records if record.name.startswith("trivet")]
    assert said[0] == "job one waits for a scheduler: the route gone is gone"
    words = "1 accepted jobs wait for a scheduler, the first of them is three: "
    assert said[1] == f"{words}The database is away."
    assert said[2].startswith(f"{words}ValueError at ")


def test_groups_that_came_in_different_orders_wait_for_each_other(postgres_world: World) -> None:
    world = postgres_world
    with client_of(world) as client, client_of(world) as other:
        client.submit_together([request("a"), request("b", "interactive")])  # both flows are there
        with world.store.write() as connection:
            connection.exec_driver_sql("SELECT id FROM flows ORDER BY id FOR UPDATE")
            first = InThread(lambda: client.submit_together([request("c"), request("d", "interactive")]))
            until_blocked(world, first)
            second = InThread(lambda: other.submit_together([request("e", "interactive"), request("f")]))
            until_blocked(world, second, 2)
        assert [type(one) for one in (*first.result(), *second.result())] == [Job] * 4
