"""Routes of one worker process: their places come from its own file, their figures are those in force for everybody.

A thread compares both with what is registered, once a second. Where the registered place is another than this file's, the
route is impaired here until the workers that serve it are gone, and this file's becomes the definition.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from trivet_store.cluster import registry
from trivet_store.cluster.leases import ELSEWHERE
from trivet_store.cluster.registry import Finding, Kind, RegisteredRoute
from trivet_store.database.engine import Store
from trivet_tasks.config.route_settings import OWN, PLACE, RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable, place_of
from trivet_worker.run.process_state import RouteImpairments

log = logging.getLogger("trivet.worker")

LOOK_EVERY_S = 1.0

_FIXED = PLACE | OWN
"""Settings that a process keeps from its start to its end: callers and credentials are made of them."""


class _Served(NamedTuple):
    """One route as this process uses it."""

    own: RouteSettings
    """Settings in this process's file at the start. Its callers and credentials are made of them."""
    place: str
    file: RouteSettings
    """Settings in the file when it was read last."""
    now: RouteSettings
    """Place of this process, with the figures in force."""
    agreed: bool = False
    """True if its place was the registered one at some time. If it is not any more, a person or a later process moved the
    route, and this process does not move it back."""


class ServedRoutes:
    """The routes of one worker process. Safe to share between threads; reading one costs no query."""

    def __init__(
        self,
        store: Store,
        routes: Mapping[str, RouteSettings],
        impairments: RouteImpairments,
        *,
        by: str,
        defines: bool,
        lease_id: Callable[[], str],
        on_change: Callable[[], None],
    ) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            by: this process and the file it read, for events.
            defines: whether this process registers its routes; one for isolated jobs only reads what is registered.
            lease_id: of this process, once it has one.
            on_change: called when a route became impaired, or is no more.
        """
        self._store = store
        self._impairments = impairments
        self._by = by
        self._defines = defines
        self._lease_id = lease_id
        self._on_change = on_change
        self._routes = {name: _Served(own, own.place_digest, own, own) for name, own in routes.items()}
        self._changing = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="trivet-routes", daemon=True)

    def now(self, route: str) -> RouteSettings:
        """Return the route as calls are made on it now."""
        return self._routes[route].now

    def takes(self, route: str) -> bool:
        """Return whether this process serves the route and may make calls on it now."""
        return route in self._routes and self._impairments.of(route) is None

    def register(self) -> None:
        """Register the routes, and find which of them this process may serve.

        Raises:
            StoreUnavailable: nothing was written.
        """
        if self._defines:
            self._register({name: served.own for name, served in self._routes.items()})
        self.look()

    def start(self) -> None:
        """Start to compare with the registered routes once a second."""
        self._thread.start()

    def close(self) -> None:
        """Stop comparing."""
        self._stopping.set()

    def reload(self, settings: Settings) -> None:
        """Apply the file as it is now. A changed place or key counts from the next start on, and is logged.

        The figures of a route whose place was changed belong to that place, so they count from then on, too.

        Raises:
            StoreUnavailable: nothing was written.
        """
        with self._changing:
            same: dict[str, RouteSettings] = {}
            for name, served in list(self._routes.items()):
                again = settings.routes.get(name)
                if again is None or _differing(served.own, again, _FIXED):
                    log.warning("%s", _needs_restart(name, served.own, again, settings.source))
                if again is not None and again.place_digest == served.place:
                    same[name] = again
                    self._routes[name] = served._replace(file=again)
            if same:
                self._register(same)
            self.look()
        if new := [name for name in settings.routes if name not in self._routes]:
            log.info("not served by this process until it is restarted: %s", ", ".join(new))
        self._on_change()

    def look(self) -> None:
        """Compare with what is registered: take over figures, begin and end impairments. Raises StoreUnavailable."""
        with self._changing:
            before = self._impairments.current()
            for name, found in self._registered().items():
                served = self._routes[name]
                agrees = found.place == served.place
                if agrees:
                    self._impairments.end(name, ELSEWHERE)
                else:
                    self._impairments.begin(name, ELSEWHERE, self._elsewhere(name, served, found))
                now = served.own.with_figures_of(found.settings)
                self._routes[name] = served._replace(now=now, agreed=served.agreed or agrees)
            if self._impairments.current() != before:
                self._on_change()

    def _registered(self) -> dict[str, RegisteredRoute]:
        """Return the registered routes, after registering this process's places that no other worker serves."""
        known = self._known()
        missing = {
            name: served.file
            for name, served in self._routes.items()
            if self._defines and (name not in known or (known[name].place != served.place and self._may_define(name)))
        }
        if missing:
            self._register(missing, kinds=(Kind.CHANGED,))
            known = self._known()
        return {name: known[name] for name in self._routes if name in known}

    def _known(self) -> dict[str, RegisteredRoute]:
        with self._store.read() as connection:
            return registry.registered(self._store, connection)

    def _register(
        self, routes: Mapping[str, RouteSettings], *, kinds: Sequence[Kind] = (Kind.CHANGED, Kind.OUTDATED)
    ) -> None:
        findings: list[Finding] = []
        with self._store.write() as connection:
            for defines in (True, False):
                some = {name: route for name, route in routes.items() if self._may_define(name) is defines}
                findings += registry.register(
                    self._store, connection, some, by=self._by, serves=defines, lease_id=self._lease_id()
                )
        for finding in findings:
            if finding.kind in kinds:  # of a place elsewhere the impairment tells
                level = logging.WARNING if finding.kind is Kind.OUTDATED else logging.INFO
                log.log(level, "%s", finding.text)

    def _may_define(self, name: str) -> bool:
        """Return whether this process may move the registered place.

        It does not move a place away from its own, nor one that it could not serve.
        """
        return not self._routes[name].agreed and self._impairments.kinds(name) <= {ELSEWHERE}

    def _elsewhere(self, name: str, served: _Served, found: RegisteredRoute) -> str:
        fields = _differing(served.own, found.settings) or "setting that this version does not know"
        if served.agreed:
            return (
                f"[routes.{name}] was redefined while {self._by} served it: it has another {fields} now. Restart this worker "
                "with the same file, or run `trivet config apply --places` with its own."
            )
        return (
            f"[routes.{name}] of {self._by} has another {fields} than the workers that serve the route now. It is served "
            f"from here once they are gone, or after `trivet config apply --places` with this file."
        )

    def _keep(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self.look()
            except StoreUnavailable:
                continue  # the lease tells of it
            except Exception as error:  # figures of a second ago are better than none
                log.error("the routes were not compared by a fault of Trivet's own: %s", place_of(error))


def _differing(own: RouteSettings, other: RouteSettings, fields: Iterable[str] = PLACE) -> str:
    """Return the fields that differ, by name alone: a URL may hold what is not for a log."""
    before, after = own.place(), other.place()
    differ = {name for name in PLACE if before.get(name) != after.get(name)}
    differ |= {name for name in OWN if getattr(own, name) != getattr(other, name)}
    return ", ".join(sorted(differ & set(fields)))


def _needs_restart(name: str, own: RouteSettings, again: RouteSettings | None, source: object) -> str:
    """Name the parts of a file, read again, that do not count yet."""
    head = f"[routes.{name}] of {source}, read again,"
    if again is None:
        return f"{head} is not there any more: this worker serves it until it is restarted."
    whole = "; so do the figures of that place" if _differing(own, again) else ""
    return f"{head} has another {_differing(own, again, _FIXED)}: it counts once this worker is restarted{whole}."
