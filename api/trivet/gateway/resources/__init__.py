"""`/trivet/v1/…`: jobs, batches, routes, costs, budgets and events, for clients that are not written in Python."""

from starlette.routing import BaseRoute

from trivet.gateway.resources import batches, events, jobs, operating
from trivet.gateway.resources.operation import Operation


def operations() -> tuple[Operation, ...]:
    """Return all operations on Trivet's own resources."""
    return (*jobs.operations(), *batches.operations(), *operating.operations(), *events.operations())


def resource_routes() -> list[BaseRoute]:
    """Return the routes of Trivet's own resources."""
    return [operation.route() for operation in operations()]
