"""Faults of this worker that stop it from using routes which others may use: no credentials, a refused key, no way out.

Each impairs the route here (`RouteImpairments`) until it is over. Credentials are looked for every few seconds. The way out
is tested by a request without a key, which costs nothing. A refused key is tried again by a job, ever more seldom.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from trivet_routing.permits import Change
from trivet_routing.route_directory import RouteSnapshot
from trivet_tasks.config.addresses import DIRECTLY, api_address, way_out
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.errors import StoreUnavailable, place_of
from trivet_tasks.latency import Lane
from trivet_tasks.states import RouteState
from trivet_worker.adapters.protocol import Answer, Credentials, Failure, LocalCause
from trivet_worker.run.calls import CallResult
from trivet_worker.run.process_state import RouteImpairments

log = logging.getLogger("trivet.worker")

LOOK_EVERY_S = 0.5
CREDENTIALS_EVERY_S = 3.0
"""Seconds between two looks for credentials, also of routes that have them, so that no job has to find them gone."""
WAY_OUT_FIRST_S = 1.0
WAY_OUT_MOST_S = 15.0
"""First and longest pause before a test of the way out."""
MAX_IN_A_ROW = 5
"""Calls in a row that must fail to get out, where `[health] open_after_failures` is no less."""
UNREACHED_SHARE = 0.25
"""Share of calls that fail to get out above which the same holds, of at least `min_calls` since the first such failure within
`[health] window_s`. Calls on kept connections succeed even where no new one can be made."""
_MAX_CALLS = 500


class KnownRoutes(Protocol):
    """The part of a `RouteDirectory` that a witness needs."""

    def known(self) -> RouteSnapshot:
        """Return routes and workers."""
        ...


class Witness:
    """A worker's word against routes: a failure is its own until another worker has the same. One per process.

    Args:
        origin: of this process (`trivet_worker.run.context`).
        impairments: of this process.
    """

    def __init__(self, directory: KnownRoutes, origin: str, impairments: RouteImpairments) -> None:
        self._directory = directory
        self._origin = origin
        self._impairments = impairments

    def local(self, result: CallResult) -> bool:
        """Return whether a call failed for a reason of this worker's own, as far as it can tell.

        A refused key or a network that lets nothing through is the route's fault where no worker elsewhere serves it,
        in any lane: a breaker is of all lanes.
        """
        if not isinstance(result.response, Failure) or result.response.local_cause is None:
            return False
        if result.response.local_cause is LocalCause.NO_CREDENTIALS:
            return True
        return self._is_served_elsewhere(result.call.target.route)

    def hands_over(self, result: CallResult) -> bool:
        """Return whether a job that this worker could not serve may go back to the same route: others take it there."""
        target = result.call.target
        return self._impairments.of(target.route) is not None and self._is_served_elsewhere(
            target.route, target.latency.lane
        )

    def _is_served_elsewhere(self, route: str, lane: Lane | None = None) -> bool:
        try:
            known = self._directory.known()
        except StoreUnavailable:
            return False
        return known.serves_elsewhere(route, self._origin, lane)


@dataclass(slots=True)
class _Retry:
    """Schedule of the looks at an impairment."""

    times: int = 0
    """Pauses since a call was answered; each is twice as long as the one before."""
    due_at: float | None = None
    """On the monotonic clock; None while there is no impairment."""

    def pause(self, first_s: float, most_s: float) -> float:
        """Begin the next pause, and return its seconds."""
        seconds = min(most_s, first_s * 2.0 ** min(self.times, 30))
        self.times += 1
        self.due_at = time.monotonic() + seconds
        return seconds


@dataclass(slots=True)
class _Route:
    """Observations of one route from this worker."""

    settings: RouteSettings
    row: int = 0
    """Calls in a row that did not get as far as the provider."""
    recent: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=_MAX_CALLS))
    """Calls since the first that did not reach it: the end of each, and whether it failed to. Empty while there is none."""
    impaired_at: float = 0.0
    """Start of the last impairment: calls that were under way then say nothing of it."""
    words: str = ""
    """Outcome of the last of them."""
    way_out: _Retry = field(default_factory=_Retry)
    key: _Retry = field(default_factory=_Retry)


class Looks(Protocol):
    """A look at the routes from this machine (`Calls`)."""

    def credentials(self) -> dict[str, Credentials]:
        """Return the state of each route's credentials."""
        ...

    def reach(self, routes: Sequence[str]) -> dict[str, str]:
        """Return the reason why each endpoint gives no answer; empty where it answers."""
        ...


class LocalFaults:
    """Begins and ends this worker's impairments of its routes. One per process; safe to share between threads."""

    def __init__(
        self,
        served: Mapping[str, RouteSettings],
        looks: Looks,
        impairments: RouteImpairments,
        witness: Witness,
        health: HealthSettings,
        *,
        on_change: Callable[[], None],
    ) -> None:
        """Prepare; nothing is looked at yet.

        Args:
            on_change: called when an impairment began, ended or got another reason, so that others learn of it at once.
        """
        self._routes = {name: _Route(settings) for name, settings in served.items()}
        self._looks = looks
        self._impairments = impairments
        self._witness = witness
        self._health = health
        self._on_change = on_change
        self._credentials_at = 0.0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._soon = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trivet-local-faults", daemon=True)

    def start(self) -> None:
        """Look for the credentials of every route, which may take seconds, then go on in a thread."""
        self._look_for_credentials()
        self._thread.start()

    def close(self) -> None:
        """End the thread; what is under way is not waited for."""
        self._stopping.set()
        self._soon.set()

    def look_now(self) -> None:
        """Look for credentials, and test what is impaired, at once."""
        with self._lock:
            self._credentials_at = 0.0
            for route in self._routes.values():
                for retry in (route.way_out, route.key):
                    retry.due_at = None if retry.due_at is None else 0.0
        self._soon.set()

    def observe(self, group: Sequence[CallResult], changes: Iterable[Change]) -> None:
        """Apply the results of finished calls. No request is made here.

        Args:
            changes: circuit-breaker changes by these calls: where one opened, the fault is the route's.
        """
        if not any(isinstance(one.response, Failure) for one in group) and not self._doubted:
            return
        opened = {change.route for change in changes if change.state == RouteState.OPEN}
        with self._lock:
            before = self._impairments.current()
            for result in group:
                name = result.call.target.route
                if name in self._routes:
                    self._apply(name, result, opened)
            for name in opened & self._routes.keys():
                self._clear(name)
        self._announce(before)

    @property
    def _doubted(self) -> bool:
        """Return True if an answer can change anything."""
        return any(
            route.row or route.recent or route.way_out.times or route.key.times for route in self._routes.values()
        )

    def _apply(self, name: str, result: CallResult, opened: set[str]) -> None:
        route = self._routes[name]
        match result.response:
            case Answer():
                self._count(route, unreached=False)
                route.row = 0
                if result.call.born_at >= route.impaired_at:
                    self._clear(name)
                    route.way_out.times = route.key.times = 0
            case Failure(local_cause=LocalCause.NO_CREDENTIALS, message=words):
                self._begin_without_credentials(name, words)
            case Failure(local_cause=LocalCause.KEY_REFUSED, message=words):
                self._count(route, unreached=False)
                route.row = 0
                if name not in opened and self._witness.local(result):
                    self._begin_refused(name, words)
            case Failure(local_cause=LocalCause.UNREACHED, message=words):
                self._count(route, unreached=True)
                route.row += 1
                route.words = words
                enough = self._often_unreached(route) or result.call.target.probe
                if enough and name not in opened and self._witness.local(result):
                    self._begin_unreached(name)
            case Failure(status=int()):
                self._count(route, unreached=False)
                route.row = 0

    def _count(self, route: _Route, *, unreached: bool) -> None:
        now, recent = time.monotonic(), route.recent
        if unreached or recent:
            recent.append((now, unreached))
        while recent and (now - recent[0][0] > self._health.window_s or not recent[0][1]):
            recent.popleft()

    def _often_unreached(self, route: _Route) -> bool:
        """Return whether so many calls did not get as far as the provider that more would not, either."""
        if route.row >= min(self._health.open_after_failures, MAX_IN_A_ROW):
            return True
        failed = sum(unreached for _, unreached in route.recent)
        return len(route.recent) >= self._health.min_calls and failed > UNREACHED_SHARE * len(route.recent)

    def _clear(self, name: str) -> None:
        """End the impairments found by calls: one got through, or the fault is the route's."""
        route = self._routes[name]
        route.row = 0
        route.impaired_at = 0.0
        route.way_out.due_at = route.key.due_at = None
        self._impairments.end(name, LocalCause.UNREACHED)
        self._impairments.end(name, LocalCause.KEY_REFUSED)

    # -- what is wrong here -------------------------------------------------------------------------------------------

    def _begin_without_credentials(self, name: str, words: str) -> None:
        reference = self._routes[name].settings.api_key
        if reference and reference.scheme == "env":
            then = "Set it, and restart the worker."
        else:
            then = f"It looks again every {CREDENTIALS_EVERY_S:g} s."
        reason = f"No credentials on this machine: {words.rstrip('.')}. {then}"
        self._impairments.begin(name, LocalCause.NO_CREDENTIALS, reason)

    def _begin_refused(self, name: str, words: str) -> None:
        route = self._routes[name]
        if route.key.due_at is not None:
            return
        route.impaired_at = time.monotonic()
        wait_s = route.key.pause(self._health.probe_interval_s, self._health.unusable_probe_max_s)
        where = route.settings.api_key or "the credentials of this machine"
        reason = (
            f"Its key was refused ({words.rstrip('.')}), while other workers serve the route: check {where}. "
            f"It tries again in {wait_s:.0f} s."
        )
        self._impairments.begin(name, LocalCause.KEY_REFUSED, reason)

    def _begin_unreached(self, name: str) -> None:
        route = self._routes[name]
        if route.way_out.due_at is None:
            route.impaired_at = time.monotonic()
            route.recent.clear()
            route.way_out.pause(WAY_OUT_FIRST_S, WAY_OUT_MOST_S)
        cut_off = [one for one, route in self._routes.items() if route.way_out.due_at is not None]
        everywhere = len(cut_off) == len(self._routes) > 1
        for one in cut_off if everywhere else [name]:
            self._impairments.begin(one, LocalCause.UNREACHED, self._unreached_reason(one, everywhere=everywhere))

    def _unreached_reason(self, name: str, *, everywhere: bool) -> str:
        route = self._routes[name]
        url = api_address(route.settings) or ""
        way = way_out(url)
        if everywhere:
            failed = "It reaches none of its routes"
        else:
            failed = f"It does not reach {urlsplit(url).hostname or 'the route'} ({route.words.rstrip('.')})"
        check = (
            "this machine's name service, firewall and network" if way == DIRECTLY else "that proxy, or set NO_PROXY"
        )
        return f"{failed}, though other workers may; its calls go out {way}. Check {check}."

    # -- looking again ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._soon.wait(LOOK_EVERY_S)
            self._soon.clear()
            if self._stopping.is_set():
                return
            self.look()

    def look(self) -> None:
        """Look for credentials, try refused keys and test ways out, where due; a fault of one stops no other."""
        for step in (self._look_for_credentials_when_due, self._try_refused_keys, self._test_ways_out):
            try:
                step()
            except Exception as error:
                log.error("a look at this worker's own faults failed by a fault of Trivet's own: %s", place_of(error))

    def _look_for_credentials_when_due(self) -> None:
        if time.monotonic() >= self._credentials_at:
            self._look_for_credentials()

    def _look_for_credentials(self) -> None:
        self._credentials_at = time.monotonic() + CREDENTIALS_EVERY_S
        found = self._looks.credentials()
        with self._lock:
            before = self._impairments.current()
            for name, state in found.items():
                route = self._routes[name]
                if state.missing:
                    self._begin_without_credentials(name, state.missing)
                    continue
                self._impairments.end(name, LocalCause.NO_CREDENTIALS)
                # tokens that are exchanged for others all the time are no new key
                if state.renewed and route.settings.api_key is not None and route.key.due_at is not None:
                    route.key.due_at = 0.0
        self._announce(before)

    def _try_refused_keys(self) -> None:
        with self._lock:
            before = self._impairments.current()
            for name, route in self._routes.items():
                if route.key.due_at is not None and route.key.due_at <= time.monotonic():
                    route.key.due_at = None
                    self._impairments.end(name, LocalCause.KEY_REFUSED)
        self._announce(before)

    def _test_ways_out(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [
                name
                for name, one in self._routes.items()
                if one.way_out.due_at is not None and one.way_out.due_at <= now
            ]
        if not due:
            return
        found = self._looks.reach(due)
        with self._lock:
            before = self._impairments.current()
            for name, why in found.items():
                route = self._routes[name]
                if route.way_out.due_at is None:  # a call got through meanwhile
                    continue
                if why:
                    route.words = why
                    route.way_out.pause(WAY_OUT_FIRST_S, WAY_OUT_MOST_S)
                    self._begin_unreached(name)
                else:
                    route.row, route.way_out.due_at = 0, None
                    self._impairments.end(name, LocalCause.UNREACHED)
        self._announce(before)

    def _announce(self, before: Mapping[str, str]) -> None:
        if self._impairments.current() != before:
            self._on_change()
