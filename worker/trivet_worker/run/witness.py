"""This worker as a witness against routes: which failures are its own until another worker has the same."""

from trivet_routing.fleet import Fleet
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.latency import Lane, Latency
from trivet_worker.adapters.calls import Failure, LocalCause
from trivet_worker.run.flights import Landing
from trivet_worker.run.route_impairments import RouteImpairments


class Witness:
    """One per process.

    Args:
        origin: of this process (`trivet_worker.process.origin`).
        impairments: of this process.
    """

    def __init__(self, fleet: Fleet, origin: str, impairments: RouteImpairments) -> None:
        self._fleet = fleet
        self._origin = origin
        self._impairments = impairments

    def local(self, landing: Landing) -> bool:
        """Return whether a call failed for a reason that is this worker's own, as far as it can tell.

        A refused key or a network that lets nothing through is the route's trouble where no worker elsewhere serves it,
        in any lane: a breaker is of all lanes.
        """
        if not isinstance(landing.result, Failure) or landing.result.local_cause is None:
            return False
        if landing.result.local_cause is LocalCause.NO_CREDENTIALS:
            return True
        return self._is_served_elsewhere(landing.flight.site.route)

    def hands_over(self, landing: Landing) -> bool:
        """Return whether a job that this worker could not serve may go back to the same route: others take it there."""
        site = landing.flight.site
        lane = Latency(site.latency).lane
        return self._impairments.of(site.route) is not None and self._is_served_elsewhere(site.route, lane)

    def _is_served_elsewhere(self, route: str, lane: Lane | None = None) -> bool:
        try:
            known = self._fleet.known()
        except StoreUnavailable:
            return False
        return known.serves_elsewhere(route, self._origin, lane)
