"""A route directory whose routes are as a test says and do not change, and a dispatcher over it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from celery import Celery
from sqlalchemy import Connection
from tests.builders import route
from tests.store.world import OTHER_ROUTE, ROUTE, World

from trivet_routing.route_choice import Candidate
from trivet_routing.route_directory import AnswerLengths, RouteDirectory, RouteSnapshot
from trivet_scheduler.dispatch import Dispatcher
from trivet_store.cluster.leases import Lease
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.database.engine import Store
from trivet_tasks.config.settings import Settings
from trivet_tasks.prices.cost_model import CostModel

UNPRICED = tuple(route(name, lanes=("bulk",), cost=None) for name in (ROUTE, OTHER_ROUTE))
"""Two equal routes."""


class FixedDirectory:
    """The part of `RouteDirectory` that a dispatcher uses: one worker with this many slots serves all routes."""

    def __init__(
        self, store: Store, routes: Sequence[Candidate] = UNPRICED, *, slots: int = 100, budgets: bool = False
    ) -> None:
        self.lengths = AnswerLengths(store)
        self.costs = CostModel()
        self._routes = routes
        self._slots = slots
        self._budgets = budgets

    def now(self) -> float:
        return time.time()

    def notice_workers(self, _connection: Connection) -> None:
        """They stay."""

    def known(self) -> RouteSnapshot:
        routes = {one.name: RegisteredRoute(one.name, one.settings, False) for one in self._routes}
        lease = Lease("lease", "w", "bulk", tuple(routes), self._slots, 0, None, 0.0)
        return RouteSnapshot(routes, (lease,), 0.0, budgets=self._budgets)

    def candidates_of(self, models: set[str]) -> dict[str, list[Candidate]]:
        return {model: [replace(one, model=model) for one in self._routes] for model in models}


@contextmanager
def dispatcher(
    world: World, routes: Sequence[Candidate] = UNPRICED, *, slots: int = 100, budgets: bool = False
) -> Iterator[Dispatcher]:
    """A dispatcher over these routes, whose broker is this process's memory."""
    app = Celery("test", broker="memory://", set_as_current=False)
    directory = FixedDirectory(world.store, routes, slots=slots, budgets=budgets)
    yield Dispatcher(world.store, cast("RouteDirectory", directory), app, Settings())
    app.close()
