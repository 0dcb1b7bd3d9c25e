"""A route directory whose routes are as a test says, and a dispatcher over it."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from celery import Celery
from sqlalchemy import Connection
from tests.builders import route

from trivet_routing.answer_paces import AnswerPaces
from trivet_routing.limits import Limits
from trivet_routing.route_choice import Candidate
from trivet_routing.route_directory import AnswerLengths, RouteDirectory, RouteSnapshot
from trivet_scheduler.dispatch import Dispatcher
from trivet_store.cluster.leases import Lease
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.database.engine import Store
from trivet_tasks.config.settings import Settings
from trivet_tasks.prices.cost_model import CostModel

TWO_ROUTES = (
    route("bedrock-us-east-1", lanes=("bulk",), cost=None),
    route("vertex-us-east5", lanes=("bulk",), cost=None),
)
"""Equal but for their names."""


class FixedDirectory(RouteDirectory):
    """Routes in the states that the test sets, and the workers that serve them.

    Args:
        leases: of the workers; None: one worker with so many slots serves all routes.
    """

    def __init__(
        self,
        routes: Sequence[Candidate] = TWO_ROUTES,
        *,
        store: Store | None = None,
        limits: Limits | None = None,
        leases: Sequence[Lease] | None = None,
        slots: int = 100,
        budgets: bool = False,
    ) -> None:
        self.limits = cast("Limits", limits)
        self.lengths = AnswerLengths(cast("Store", store))
        self.paces = AnswerPaces(cast("Store", store))
        self.costs = CostModel()
        self.database_error: Exception | None = None
        """Raised where routes and workers are read."""
        self.breakers_error: Exception | None = None
        """Raised where the routes' states are read."""
        lease = Lease("lease", "w", "bulk", tuple(one.name for one in routes), slots, 0, None, 0.0)
        known = {one.name: RegisteredRoute(one.name, one.settings, False) for one in routes}
        self._fixed = RouteSnapshot(known, (lease,) if leases is None else tuple(leases), 0.0, budgets=budgets)
        self._routes = list(routes)

    def now(self) -> float:
        return time.time()

    def notice_workers(self, connection: Connection) -> None:
        """They stay."""

    def known(self, *, fresh: bool = False) -> RouteSnapshot:
        if self.database_error:
            raise self.database_error
        return self._fixed

    def candidates_of(self, models: Iterable[str]) -> dict[str, list[Candidate]]:
        if self.breakers_error:
            raise self.breakers_error
        return {model: [replace(one, model=model) for one in self._routes] for model in models}


@contextmanager
def dispatcher(
    store: Store, routes: Sequence[Candidate] = TWO_ROUTES, *, slots: int = 100, settings: Settings | None = None
) -> Iterator[Dispatcher]:
    """A dispatcher over these routes, whose broker is this process's memory."""
    app = Celery("test", broker="memory://", set_as_current=False)
    yield Dispatcher(store, FixedDirectory(routes, store=store, slots=slots), app, settings or Settings())
    app.close()
