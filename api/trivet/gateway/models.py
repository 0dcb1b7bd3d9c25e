"""`GET /v1/models` and `/v1/models/{id}`: the models that the routes serve."""

from starlette.routing import Route


def routes() -> list[Route]:
    """Return the routes of the models."""
    return []
