"""A route directory whose routes are as a test says, with headroom for all jobs, and do not change."""

import time
from collections.abc import Sequence

from sqlalchemy import Connection

from trivet_routing.cost_model import AnswerLengths
from trivet_routing.route_choice import Candidate
from trivet_routing.route_directory import RouteSnapshot
from trivet_store.cluster.leases import Lease
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.database.engine import Store


class FixedDirectory:
    """The part of `RouteDirectory` that a dispatcher uses."""

    def __init__(self, store: Store, routes: Sequence[Candidate]) -> None:
        self.lengths = AnswerLengths(store)
        self._routes = list(routes)

    def now(self) -> float:
        return time.time()

    def notice_workers(self, _connection: Connection) -> None:
        """They stay."""

    def known(self) -> RouteSnapshot:
        routes = {one.name: RegisteredRoute(one.name, one.settings, False) for one in self._routes}
        return RouteSnapshot(routes, (Lease("lease", "w", "bulk", tuple(routes), 100, 0, None, 0.0),), 0.0)

    def candidates_of(self, models: set[str]) -> dict[str, list[Candidate]]:
        return dict.fromkeys(models, self._routes)
