"""Warnings that nothing takes what was just accepted: no scheduler, no worker of its lane, no route that ever could."""

import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

from cachetools import TTLCache

from trivet.client.impairments import ImpairmentKind, impairments, read_processes
from trivet_store.cluster.registry import registered
from trivet_store.database.engine import Store
from trivet_store.reports.backlog import FlowRequirements
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreError
from trivet_tasks.latency import Latency
from trivet_tasks.requests.eligibility import misfit, name_on_wire

log = logging.getLogger("trivet.unattended")

LOOK_EVERY_S = 5.0
"""Seconds for which a look serves all jobs of its kind."""
REPEAT_S = 3_600.0
"""Seconds after which a warning that still holds is logged again."""
MAX_KEPT = 256
"""Kinds of jobs, and warnings, that are remembered."""


class Unattended:
    """Looks, for one client, whether anybody takes jobs: at the database alone, once for all jobs of a kind."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._lock = threading.Lock()
        self._seen: TTLCache[frozenset[FlowRequirements], tuple[str, ...]] = TTLCache(MAX_KEPT, LOOK_EVERY_S)
        self._logged: TTLCache[str, bool] = TTLCache(MAX_KEPT, REPEAT_S)

    def warnings(self, required: Iterable[FlowRequirements]) -> tuple[str, ...]:
        """Return why jobs with these requirements wait until a person does something; empty where they are taken.

        Nothing is raised: the jobs were accepted.
        """
        kinds = frozenset(required)
        with self._lock:
            found = self._seen.get(kinds)
            if found is None:
                found = ()
                with suppress(StoreError):
                    found = self._look(kinds)
                self._seen[kinds] = found
        return found

    def log(self, warnings: Iterable[str]) -> None:
        """Log each warning, but none again within `REPEAT_S`."""
        for warning in warnings:
            with self._lock:
                if warning in self._logged:
                    continue
                self._logged[warning] = True
            log.warning(warning)

    def _look(self, kinds: frozenset[FlowRequirements]) -> tuple[str, ...]:
        store, settings, lanes = self._store, self._settings, {one.latency.lane for one in kinds}
        with store.read() as connection:
            processes = read_processes(store, connection, settings.leases.ttl_s)
            routes = {name: route.settings for name, route in registered(store, connection).items()}
            now = store.now(connection)
        # a realtime job does not wait; an interactive one that does is dispatched by a scheduler, too
        waits = any(one.latency is not Latency.REALTIME for one in kinds)
        needed = {ImpairmentKind.LANE, *([ImpairmentKind.SCHEDULER] if waits else [])}
        absent = impairments(processes, {}, settings.worker.lanes, now)
        return (
            *(one.text for one in absent if one.kind in needed and one.concerns(lanes)),
            *dict.fromkeys(said for one in kinds if (said := _hopeless(one, routes))),
        )


def _hopeless(one: FlowRequirements, routes: Mapping[str, RouteSettings]) -> str:
    """Return that no known route ever takes such jobs, with the reason of each; empty where one does, or none is known."""
    reasons = [
        f"{name}: {why}"
        for name, route in routes.items()
        if (
            why := misfit(route, name_on_wire(route, one.model), one.model, one.residency, one.compliance, one.features)
        )
    ]
    return (
        f"No route can ever take these jobs ({'; '.join(reasons)})." if reasons and len(reasons) == len(routes) else ""
    )
