"""Submitting single jobs together while the database fails: an error of one request says nothing of those before it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery import Celery
from tests.directories import FixedDirectory
from tests.store.world import ROUTE, World, spec

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
def client(sqlite_world: World, tmp_path: Path) -> Iterator[Client]:
    """A client of a Trivet with a budget: each job has a transaction of its own."""
    with sqlite_world.store.write() as connection:
        budgets.register(
            sqlite_world.store, connection, [BudgetSettings.model_validate({"name": "all", "usd": 1, "per": "day"})]
        )
    terms = {"store": {"url": sqlite_world.store.url}, "redis": {"url": NOWHERE}, "broker": {"url": NOWHERE}}
    with Client(settings=Settings.model_validate(terms)) as made:
        yield made


def request(key: str) -> tuple[dict[str, Any], bool]:
    return {"model": "claude-haiku-4-5", "max_tokens": 20, "prompt": "Say yes.", "key": key}, False


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
        send_accepted(
            connections, [(spec(), "one", DirectDispatch("gone", 4e9)), (spec(), "two", DirectDispatch(ROUTE, 4e9))]
        )
        for fault in (StoreUnavailable("The database is away."), ValueError("a prompt")):
            directory.database_error = fault
            send_accepted(connections, [(spec(), "three", DirectDispatch(ROUTE, 4e9))])
    said = [record.getMessage() for record in caplog.records if record.name.startswith("trivet")]
    assert said[0] == "job one waits for a scheduler: the route gone is gone"
    words = "1 accepted jobs wait for a scheduler, the first of them is three: "
    assert said[1] == f"{words}The database is away."
    assert said[2].startswith(f"{words}ValueError at ")
