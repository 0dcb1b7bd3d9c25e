"""`POST /v1/messages`: a request of the Messages API as a job, answered with the provider's message."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError
from trivet.gateway.requests import read_json


def routes() -> list[Route]:
    """Return the routes of the Messages API."""
    return [Route("/v1/messages", create, methods=["POST"])]


async def create(request: Request) -> Response:
    """Submit a job, wait for its end, answer with its message."""
    gateway: Gateway = request.app.state.gateway
    body = await read_json(request)
    job = await gateway.run(lambda: gateway.client.submit(**{"latency": "interactive", **body}))
    result = await gateway.run(job.result)
    if result.raw is None:
        raise ApiError(529, result.error.message if result.error else "There is no answer.")
    return Response(result.raw, headers={"x-trivet-job": result.id}, media_type="application/json")
