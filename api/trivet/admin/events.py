"""Events of routes with their reasons: circuit breakers that opened, pauses, drains, limits set by hand."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from trivet.admin.known_route import known_route
from trivet.client.connections import Connections
from trivet_store import events
from trivet_store.events import Event

_LIMITED = "route limited"


@dataclass(frozen=True, slots=True)
class FoldedEvent:
    """An event, with the number of repetitions before anything else happened to its route and model."""

    event: Event
    times: int = 1
    last_at: float = 0.0
    """Time of the last one, seconds since the epoch; 0 where it came once."""


class Events:
    """Events of routes."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def list(self, *, since: float, route: str | None = None, limit: int = 200) -> tuple[Event, ...]:
        """Return the latest events, the newest last.

            for event in admin.events.list(since=time.time() - 3_600, route="anthropic"):
                print(event.at, event.kind, event.text)

        Args:
            since: seconds since the epoch.
            route: None: all routes.
            limit: number of events at most.

        Raises:
            NotFound: there is no such route.
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        if route is not None:
            known_route(self._connections, route)
        with self._connections.store.read() as connection:
            return tuple(events.latest(connection, since=since, route=route, limit=limit))


def folded(events: Iterable[Event]) -> tuple[FoldedEvent, ...]:
    """Return the events with repeated pauses of one route and model as one.

    >>> pause = Event(10.0, "route limited", "vertex", "claude-sonnet-5-5", "for 2 s")
    >>> [(one.times, one.last_at) for one in folded([pause, pause._replace(at=12.0)])]
    [(2, 12.0)]
    """
    entries: list[FoldedEvent] = []
    latest: dict[tuple[str | None, str | None], int] = {}
    for event in events:
        about = (event.route, event.model)
        at = latest.get(about)
        if at is not None and event.kind == _LIMITED == entries[at].event.kind:
            entries[at] = replace(entries[at], times=entries[at].times + 1, last_at=event.at)
            continue
        latest[about] = len(entries)
        entries.append(FoldedEvent(event))
    return tuple(entries)
