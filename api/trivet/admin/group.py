"""The parts that all groups of operations share: their connections, finding a route."""

from difflib import get_close_matches

from trivet.client.connections import Connections
from trivet_store.cluster import registry
from trivet_store.cluster.registry import RegisteredRoute
from trivet_tasks.errors import NotFound


class Group:
    """A group of operations: an attribute of `Admin`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections


def known_route(connections: Connections, name: str) -> RegisteredRoute:
    """Return the route of this name that a scheduler or worker made known.

    Raises:
        NotFound: there is none; names the nearest.
    """
    store = connections.store
    with store.read() as connection:
        known = registry.registered(store, connection)
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else "`trivet routes` lists them."
        raise NotFound(f"No route is called {name!r}.", hint=hint)
    return known[name]
