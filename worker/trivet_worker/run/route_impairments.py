"""Reasons for which this worker takes no work of a route, though other workers may."""

import logging
import threading


class RouteImpairments:
    """The impairments of one process, by route and kind. Safe to share between threads.

    Each is logged once when it begins and once when it ends. The lease publishes them, and the consumer cancels the
    route's queues meanwhile.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._reasons: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def begin(self, route: str, kind: str, reason: str) -> None:
        """Take no work of the route from now on.

        Args:
            kind: tells the causes apart that a route may have at once, e.g. `credentials`.
            reason: one sentence for an operator: what is wrong on this machine, and what to do.
        """
        with self._lock:
            kinds = self._reasons.setdefault(route, {})
            begins = kind not in kinds
            kinds[kind] = reason
        if begins:
            self._log.error("no work of %s is taken here: %s", route, reason)

    def end(self, route: str, kind: str) -> None:
        """Remove one cause. Does nothing if it is not there."""
        if route not in self._reasons:  # nearly always, so without the lock
            return
        with self._lock:
            kinds = self._reasons.get(route, {})
            ended = kinds.pop(kind, None) is not None
            if not kinds:
                self._reasons.pop(route, None)
        if ended:
            self._log.info("the impairment of %s (%s) is over", route, kind)

    def of(self, route: str) -> str | None:
        """Return why no work of the route is taken; None when it is taken."""
        if route not in self._reasons:
            return None
        return self.current().get(route)

    def kinds(self, route: str) -> frozenset[str]:
        """Return the causes that the route has now."""
        return frozenset(self.by_kind().get(route, ())) if route in self._reasons else frozenset()

    def by_kind(self) -> dict[str, dict[str, str]]:
        """Return the reasons of every impaired route, by kind."""
        with self._lock:
            return {route: dict(kinds) for route, kinds in self._reasons.items() if kinds}

    def current(self) -> dict[str, str]:
        """Return the reasons of every impaired route, each as one text."""
        return {route: " ".join(kinds.values()) for route, kinds in self.by_kind().items()}
