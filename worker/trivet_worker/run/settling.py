"""Giving permits back, and telling the gates what came of the calls."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import redis

from trivet_routing.fleet import Fleet
from trivet_routing.liveness.troubles import SHARED_STATE, WATCH, Troubles
from trivet_routing.permits import Change, Quota, Spent, Verdict, Want
from trivet_routing.proxy_errors import proxy_errors_of
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.faults import place_of
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.shared_state import is_away, unavailable_text
from trivet_tasks.states import RouteState
from trivet_worker.adapters.calls import Answer, Failure
from trivet_worker.run.decisions import spent_of
from trivet_worker.run.flights import Landing
from trivet_worker.run.witness import Witness

log = logging.getLogger("trivet.recorder")


class Settling:
    """Tells the shared state what came of finished calls. What it could not hear is told again later.

    Used by one thread. What waits is bounded by the process's places: while anything does, no work is taken.
    """

    def __init__(self, fleet: Fleet, settings: Settings, troubles: Troubles, witness: Witness) -> None:
        self._fleet = fleet
        self._settings = settings
        self._troubles = troubles
        self._witness = witness
        self._untold: list[_Told] = []

    @property
    def waits(self) -> bool:
        """Whether something is still to be told."""
        return bool(self._untold)

    def settle(self, group: Sequence[Landing]) -> list[Change]:
        """Give the permits of these calls back, with what waited; one round trip per (route, model, class).

        Returns what changed. Raises nothing: what cannot be told waits. While the shared state is known to be away nobody
        asks it: a server that hangs would hold up the writing down for seconds.
        """
        self._untold += self._told(group)
        changes: list[Change] = []
        if self._troubles.seen(SHARED_STATE, WATCH):
            return changes
        try:
            while self._untold:
                changes += self._tell(self._untold[0])
                self._untold.pop(0)
            self._troubles.over(SHARED_STATE, "settling")
        except redis.RedisError as error:
            why = unavailable_text(self._settings.redis_url, error)
            self._troubles.note(SHARED_STATE, "settling", why)
        for change in changes:
            level = logging.ERROR if change.state == RouteState.OPEN else logging.WARNING
            log.log(level, "%s %s is %s: %s", change.route, change.model, change.state, change.cause)
        return changes

    def _tell(self, told: "_Told") -> list[Change]:
        try:
            return self._fleet.limits.settle(told.route, told.model, told.latency, told.quota, told.spent)
        except redis.RedisError as error:
            if is_away(error):
                raise
            log.error("%d permits of %s expire by themselves: %s", len(told.spent), told.route, error)
            return []
        except Exception as error:  # it would be refused again, and all that comes after it would wait
            log.error("%d permits of %s expire by themselves: %s", len(told.spent), told.route, place_of(error))
            return []

    def _told(self, group: Sequence[Landing]) -> list["_Told"]:
        by_gate: dict[tuple[str, str, Latency], list[Landing]] = defaultdict(list)
        for landing in group:
            site = landing.flight.site
            by_gate[site.route, site.model, Latency(site.latency)].append(landing)
        told = [
            _Told(route, model, latency, of[0].flight.quota, [self._spent(landing) for landing in of])
            for (route, model, latency), of in by_gate.items()
        ]
        doubted = [one for one in group if one.flight.job.doubted_by and isinstance(one.result, Answer)]
        told += [found for landing in doubted if (found := self._contradicted(landing))]
        pages = [one for one in group if one.flight.job.proxy_errors and _met_a_page(one)]
        return [*told, *(check for landing in pages for check in self._checks(landing))]

    def _spent(self, landing: Landing) -> Spent:
        return spent_of(landing, self._settings, local=self._witness.local(landing))

    def _checks(self, landing: Landing) -> Iterator["_Told"]:
        """For the gates of the other routes where the job met a proxy's page, too: job or routes, a probe shall say."""
        job, site = landing.flight.job, landing.flight.site
        try:
            known = self._fleet.known().routes
        except StoreUnavailable:
            return
        for page in proxy_errors_of(job.proxy_errors):
            if page.route != site.route and not page.confirmed and page.route in known:
                quota = Quota.of(known[page.route].settings, site.model)
                cause = f"{Outcome.PROXY_ERROR}: {page.message}"
                spent = [Spent(Want("", 0, 0), 0, 0, Verdict.CHECK, cause, job=job.id)]
                yield _Told(page.route, site.model, Latency(site.latency), quota, spent)

    def _contradicted(self, landing: Landing) -> "_Told | None":
        """For the gate of a route that refused, for a reason nobody knew, what another provider has now served."""
        job, site = landing.flight.job, landing.flight.site
        try:
            known = self._fleet.known().routes
        except StoreUnavailable:
            return None
        refused = [
            name for name in job.tried.split(",") if name in known and known[name].settings.provider == job.doubted_by
        ]
        if not refused:
            return None
        quota = Quota.of(known[refused[-1]].settings, site.model)
        cause = f"unusable: it refused what {site.provider} served, time and again"
        spent = [Spent(Want("", 0, 0), 0, 0, Verdict.CONTRADICTED, cause)]
        return _Told(refused[-1], site.model, Latency(site.latency), quota, spent)


def _met_a_page(landing: Landing) -> bool:
    return isinstance(landing.result, Failure) and landing.result.outcome is Outcome.PROXY_ERROR


class _Told(NamedTuple):
    route: str
    model: str
    latency: Latency
    quota: Quota
    spent: list[Spent]
