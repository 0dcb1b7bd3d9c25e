"""Distinguishes a job that a proxy refuses from a proxy that refuses everything. Pure functions.

A page that came instead of an answer says nothing certain: neither of the route's key nor of the job. A job is at fault
where two routes refused it so, each twice, and between these two pages each route answered another call or a probe. Until
then it waits, and no round of it is over.
"""

from collections.abc import Mapping, Sequence

from trivet_routing.permits import BreakerView
from trivet_tasks.jobs import ProxyError

ROUTES_THAT_AGREE = 2
_LONGEST_MESSAGE = 200


def with_another(
    errors: Sequence[ProxyError],
    route: str,
    message: str,
    *,
    now: float,
    generation: str,
    breakers: Mapping[str, BreakerView] | None,
) -> tuple[ProxyError, ...]:
    """Return the pages that still count, with the one that has just come from `route`.

    Args:
        now: the database's time.
        generation: of the route's breakers when the call was begun.
        breakers: the routes' breakers for the job's model; None where they cannot be read.
    """
    others = [
        error
        for error in errors
        if error.route != route and (breakers is None or _generation(breakers, error.route) == error.generation)
    ]
    before = next((error for error in errors if error.route == route and error.generation == generation), None)
    if before is None:
        return (*others, ProxyError(route, now, generation, 1, False, message[:_LONGEST_MESSAGE]))
    proven = breakers is not None and _is_proven(before, breakers, now)
    return (*others, before._replace(times=before.times + 1, confirmed=before.confirmed or proven))


def worth_asking_again(errors: Sequence[ProxyError], breakers: Mapping[str, BreakerView], now: float) -> frozenset[str]:
    """Return the routes that answered others since the job met a page there: a second page would tell whose fault it is."""
    return frozenset(error.route for error in errors if not error.confirmed and _is_proven(error, breakers, now))


def _is_proven(error: ProxyError, breakers: Mapping[str, BreakerView], now: float) -> bool:
    return error.route in breakers and breakers[error.route].proven_s < now - error.at


def _generation(breakers: Mapping[str, BreakerView], route: str) -> str | None:
    return breakers[route].generation if route in breakers else None


def at_fault(errors: Sequence[ProxyError]) -> str | None:
    """Return why the proxies refuse the job itself, with the reasons of the routes; None = that is not known."""
    confirmed = [error for error in errors if error.confirmed]
    if len(confirmed) < ROUTES_THAT_AGREE:
        return None
    said = "; ".join(f"{error.route}: {error.message}" for error in confirmed)
    return f"Proxies before {len(confirmed)} routes refuse this request and let others through: {said}"
