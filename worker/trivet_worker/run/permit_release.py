"""Release of permits, and the report of finished calls to the circuit breakers."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import redis

from trivet_routing.liveness.process_impairments import SHARED_STATE, WATCH, ProcessImpairments
from trivet_routing.permits import Change, PermitRelease, PermitRequest, Quota
from trivet_routing.retry_policy import proxy_errors_of
from trivet_routing.route_directory import RouteDirectory
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable, place_of
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import HealthSignal, Outcome
from trivet_tasks.shared_state import is_away, unavailable_text
from trivet_tasks.states import RouteState
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run.calls import CallResult
from trivet_worker.run.decisions import spent_of
from trivet_worker.run.witness import Witness

log = logging.getLogger("trivet.recorder")


class PermitReleaser:
    """Reports finished calls to the shared state. Undelivered reports are retried.

    Used by one thread. Waiting reports are bounded by the process's slots: while one waits, no work is taken.
    """

    def __init__(
        self, directory: RouteDirectory, settings: Settings, process_impairments: ProcessImpairments, witness: Witness
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._process_impairments = process_impairments
        self._witness = witness
        self._untold: list[_Told] = []

    @property
    def waits(self) -> bool:
        """Return whether a report still waits."""
        return bool(self._untold)

    def settle(self, group: Sequence[CallResult]) -> list[Change]:
        """Release the permits of these calls, with the waiting ones; one round trip per (route, model, class).

        Returns the changes. Raises nothing: undelivered reports wait. While the shared state is known to be away it is
        not asked: a server that hangs would delay the records for seconds.
        """
        self._untold += self._told(group)
        changes: list[Change] = []
        if self._process_impairments.seen(SHARED_STATE, WATCH):
            return changes
        try:
            while self._untold:
                changes += self._tell(self._untold[0])
                self._untold.pop(0)
            self._process_impairments.over(SHARED_STATE, "settling")
        except redis.RedisError as error:
            why = unavailable_text(self._settings.redis_url, error)
            self._process_impairments.note(SHARED_STATE, "settling", why)
        for change in changes:
            level = logging.ERROR if change.state == RouteState.OPEN else logging.WARNING
            log.log(level, "%s %s is %s: %s", change.route, change.model, change.state, change.cause)
        return changes

    def _tell(self, told: "_Told") -> list[Change]:
        try:
            return self._directory.limits.release(told.route, told.model, told.latency, told.quota, told.spent)
        except redis.RedisError as error:
            if is_away(error):
                raise
            log.error("%d permits of %s expire by themselves: %s", len(told.spent), told.route, error)
            return []
        except Exception as error:  # it would be refused again, and all later reports would wait
            log.error("%d permits of %s expire by themselves: %s", len(told.spent), told.route, place_of(error))
            return []

    def _told(self, group: Sequence[CallResult]) -> list["_Told"]:
        by_breaker: dict[tuple[str, str, Latency], list[CallResult]] = defaultdict(list)
        for result in group:
            target = result.call.target
            by_breaker[target.route, target.model, Latency(target.latency)].append(result)
        told = [
            _Told(route, model, latency, of[0].call.quota, [self._spent(result) for result in of])
            for (route, model, latency), of in by_breaker.items()
        ]
        doubted = [one for one in group if one.call.job.doubted_by and isinstance(one.response, Answer)]
        told += [found for result in doubted if (found := self._contradicted(result))]
        pages = [one for one in group if one.call.job.proxy_errors and _met_a_page(one)]
        return [*told, *(check for result in pages for check in self._checks(result))]

    def _spent(self, result: CallResult) -> PermitRelease:
        return spent_of(result, self._settings, local=self._witness.local(result))

    def _checks(self, result: CallResult) -> Iterator["_Told"]:
        """Reports for other routes where the job met a proxy's page: a probe decides whether job or route is at fault."""
        job, target = result.call.job, result.call.target
        try:
            known = self._directory.known().routes
        except StoreUnavailable:
            return
        for page in proxy_errors_of(job.proxy_errors):
            if page.route != target.route and not page.confirmed and page.route in known:
                quota = Quota.of(known[page.route].settings, target.model)
                cause = f"{Outcome.PROXY_ERROR}: {page.message}"
                spent = [PermitRelease(PermitRequest("", 0, 0), 0, 0, HealthSignal.CHECK, cause, job=job.id)]
                yield _Told(page.route, target.model, Latency(target.latency), quota, spent)

    def _contradicted(self, result: CallResult) -> "_Told | None":
        """Report for a route that refused, for an unknown reason, a request that another provider has now served."""
        job, target = result.call.job, result.call.target
        try:
            known = self._directory.known().routes
        except StoreUnavailable:
            return None
        refused = [
            name for name in job.tried.split(",") if name in known and known[name].settings.provider == job.doubted_by
        ]
        if not refused:
            return None
        quota = Quota.of(known[refused[-1]].settings, target.model)
        cause = f"unusable: it refused what {target.provider} served, time and again"
        spent = [PermitRelease(PermitRequest("", 0, 0), 0, 0, HealthSignal.CONTRADICTED, cause)]
        return _Told(refused[-1], target.model, Latency(target.latency), quota, spent)


def _met_a_page(result: CallResult) -> bool:
    return isinstance(result.response, Failure) and result.response.outcome is Outcome.PROXY_ERROR


class _Told(NamedTuple):
    route: str
    model: str
    latency: Latency
    quota: Quota
    spent: list[PermitRelease]
