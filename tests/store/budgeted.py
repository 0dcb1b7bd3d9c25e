"""A world with budgets, as its tests drive it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from celery import Celery
from tests.directories import TWO_ROUTES, FixedDirectory
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, finished, spec

from trivet_routing import budget_headroom
from trivet_scheduler.budget_monitor import BudgetMonitor
from trivet_scheduler.dispatch import Dispatcher
from trivet_store.ledger import budgets
from trivet_store.ledger.budgets import AskedLabels
from trivet_store.steps import ClaimedJob
from trivet_tasks.config.budgets import BudgetSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import DispatchedJob, JobSpec
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.requests.eligibility import name_on_wire

COSTS = CostModel()
_wire_model = name_on_wire(TWO_ROUTES[0].settings, MODEL)
assert _wire_model is not None
_most = COSTS.maximum(TWO_ROUTES[0].settings, MODEL, _wire_model, time.time(), len("document 0"), 100)
assert _most is not None
MOST: Decimal = _most


def alike(count: int, **terms: Any) -> list[JobSpec]:
    """Return jobs with a maximum cost of `MOST` each."""
    return [spec("document 0", **terms)] * count


def budget(name: str = "all", jobs: float = 10, **terms: Any) -> BudgetSettings:
    """Return a budget for the maximum cost of this many jobs."""
    return BudgetSettings.model_validate({"name": name, "usd": MOST * Decimal(str(jobs)), "per": "day", **terms})


class Budgeted:
    """A world with budgets, and a dispatcher and a watch that know of them."""

    def __init__(self, world: World, app: Celery, slots: int = 100) -> None:
        self.world = world
        directory = FixedDirectory(store=world.store, slots=slots, budgets=True)
        self.costs = directory.costs
        self.dispatcher = Dispatcher(world.store, directory, app, Settings())
        self._directory = directory
        self.lease = world.lease()

    def register(self, *given: BudgetSettings) -> list[str]:
        with self.world.store.write() as connection:
            return budgets.register(self.world.store, connection, given)

    def add(self, *group: JobSpec, **how: Any) -> None:
        labels = AskedLabels(self.world.store).now()
        with self.world.store.write() as connection:
            self.world.insert(connection, group, labels=labels, **how)

    def dispatched(self) -> int:
        """Return the number of jobs dispatched, pass by pass, until a pass dispatches none."""
        count = 0
        while done := self.dispatcher.run_once().dispatched:
            count += done
        return count

    def watch(self) -> None:
        BudgetMonitor(self.world.store, self._directory).run()

    def take(self) -> list[ClaimedJob]:
        """Everything in the queues of both routes."""
        taken = []
        for route in (ROUTE, OTHER_ROUTE):
            rows = self.world.sql("SELECT * FROM jobs WHERE state = 'dispatched' AND route = :route", route=route)
            claimed = [DispatchedJob(row.id, row.claim, row.input_estimate, row.max_tokens) for row in rows]
            if claimed:
                taken += self.world.take(self.lease, claimed, route=route, estimate=MOST)
        return taken

    def end(self, jobs: list[ClaimedJob], each: float = 1.0) -> None:
        """End the jobs at this share of their maximum cost."""
        if jobs:
            self.world.finish(*(finished(job, self.lease, cost=str(MOST * Decimal(str(each)))) for job in jobs))

    def balance(self, name: str = "all") -> budget_headroom.Balance:
        with self.world.store.read() as connection:
            found = budget_headroom.read(
                connection, self.world.store.now(connection), self._directory.known().routes, COSTS
            )
        assert found is not None
        return next(balance for balance in found.balances if balance.name == name)

    def events(self) -> list[str]:
        return [row.kind for row in self.world.sql("SELECT kind FROM events ORDER BY id")]


@contextmanager
def budgeted_world(world: World, slots: int = 100) -> Iterator[Budgeted]:
    """The world with a dispatcher for two routes."""
    app = Celery("test", broker="memory://", set_as_current=False)
    yield Budgeted(world, app, slots)
    app.close()
