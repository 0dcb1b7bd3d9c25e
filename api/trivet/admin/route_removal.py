"""Check that a route can be removed: no worker serves it, and no job needs it."""

from typing import TYPE_CHECKING

from trivet_store.cluster import registry
from trivet_store.cluster.leases import living
from trivet_store.reports import backlog
from trivet_store.reports.backlog import Line
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests.eligibility import misfit, name_on_wire

if TYPE_CHECKING:
    from trivet_store.database.engine import Connection, Store


def check_removable(store: "Store", connection: "Connection", name: str) -> None:
    """Refuse to remove a route that a living worker serves, where jobs are queued or run, or that some need.

    Raises:
        InvalidRequest: says what prevents it, and what to do about it.
    """
    if workers := [lease.worker for lease in living(store, connection) if name in lease.routes]:
        raise _refused(
            name, f"serves it: {', '.join(workers)}", "Stop it, or take the route out of its file and restart it."
        )
    here = [row for row in backlog.by_route(connection) if row.route == name]
    if jobs := sum(row.dispatched + row.running for row in here):
        raise _refused(name, f"has {jobs:,} jobs queued or running there", f"`trivet route drain {name}`, then wait.")
    known = registry.registered(store, connection)
    others = {route.name: route.settings for route in known.values() if route.name != name and not route.drained}
    for line in backlog.lines_living(connection):
        if _fits(line, known[name].settings) and not any(_fits(line, other) for other in others.values()):
            raise _refused(
                name,
                f"is the only route for {line.latency} jobs of {line.model} that have not ended",
                "Add a route that takes them, or cancel these jobs.",
            )


def _fits(line: Line, route: RouteSettings) -> bool:
    named = name_on_wire(route, line.model)
    return not misfit(route, named, line.model, line.residency, line.compliance, line.features)


def _refused(name: str, why: str, hint: str) -> InvalidRequest:
    who = "a worker" if why.startswith("serves") else "it"
    return InvalidRequest(f"{name} is not removed: {who} {why}.", field="name", hint=hint)
