"""`/trivet/v1/…`: jobs, batches, routes, costs, budgets and events, for clients that are not written in Python."""

from starlette.routing import BaseRoute


def resource_routes() -> list[BaseRoute]:
    """Return the routes of Trivet's own resources."""
    return []
