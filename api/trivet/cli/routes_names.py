"""Names of routes as people type them."""

from difflib import get_close_matches
from typing import TYPE_CHECKING

from trivet_store.fleet import registry
from trivet_tasks.errors import NotFound

if TYPE_CHECKING:
    from trivet.client.client import Client
    from trivet_store.fleet.registry import RegisteredRoute


def check_known(client: "Client", name: str) -> "RegisteredRoute":
    """The route of this name. NotFound, with the nearest name, when there is none."""
    store = client._connections.store
    with store.read() as connection:
        known = registry.registered(store, connection)
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else "`trivet routes` lists them."
        raise NotFound(f"No route is called {name!r}.", hint=hint)
    return known[name]
