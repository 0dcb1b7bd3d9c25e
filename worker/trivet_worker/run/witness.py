"""This worker as a witness against routes: which failures are its own until another worker has the same."""

from trivet_routing.route_directory import RouteDirectory
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.latency import Lane, Latency
from trivet_worker.adapters.protocol import Failure, LocalCause
from trivet_worker.run.calls import CallResult
from trivet_worker.run.route_impairments import RouteImpairments


class Witness:
    """One per process.

    Args:
        origin: of this process (`trivet_worker.process.origin`).
        impairments: of this process.
    """

    def __init__(self, directory: RouteDirectory, origin: str, impairments: RouteImpairments) -> None:
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
        lane = Latency(target.latency).lane
        return self._impairments.of(target.route) is not None and self._is_served_elsewhere(target.route, lane)

    def _is_served_elsewhere(self, route: str, lane: Lane | None = None) -> bool:
        try:
            known = self._directory.known()
        except StoreUnavailable:
            return False
        return known.serves_elsewhere(route, self._origin, lane)
