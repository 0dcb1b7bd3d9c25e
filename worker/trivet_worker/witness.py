"""This worker as a witness against routes: which failures are its own until another worker has the same."""

from trivet_scheduler.fleet import Fleet
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.latency import Latency
from trivet_worker.calls import Failure, LocalCause
from trivet_worker.flights import Landing


class Witness:
    """One per process.

    Args:
        origin: of this process (`trivet_worker.origin`).
    """

    def __init__(self, fleet: Fleet, origin: str) -> None:
        self._fleet = fleet
        self._origin = origin

    def local(self, landing: Landing) -> bool:
        """Return whether a call failed for a reason that is this worker's own, as far as it can tell.

        A refused key or a network that lets nothing through is the route's trouble where no worker elsewhere serves it.
        """
        if not isinstance(landing.result, Failure) or landing.result.local_cause is None:
            return False
        if landing.result.local_cause is LocalCause.NO_CREDENTIALS:
            return True
        site = landing.flight.site
        try:
            known = self._fleet.known()
        except StoreUnavailable:
            return False
        return known.serves_elsewhere(site.route, Latency(site.latency).lane, self._origin)
