"""`POST /v1/messages`: a request of the Messages API as a job, answered with the provider's message, whole or streamed."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.gateway.answering import ClientLeft, ClientWatch, accepted, cancel_unless_kept, message_of, stopping
from trivet.gateway.context import Gateway
from trivet.gateway.requests import body_of, read_asked
from trivet.gateway.streaming import begin_stream
from trivet_tasks.errors import ClientClosed

CLIENT_LEFT = 499
"""Status, in nobody's hands, of a request whose client has gone."""


def routes() -> list[Route]:
    """Return the routes of the Messages API."""
    return [Route("/v1/messages", create, methods=["POST"])]


async def create(request: Request) -> Response:
    """Submit a job, wait for its end, answer with its message; or stream it, or answer with the job."""
    gateway: Gateway = request.app.state.gateway
    principal = await gateway.access.admit(request.headers)
    with gateway.admitted():
        async with body_of(request) as (body, size):
            asked = read_asked(request.headers, body)
            fields = principal.bind(asked.fields)
            await gateway.access.check_budget(principal, fields, size)
            del body
            if not asked.at_once:
                gateway.check_waiting()
            job = await gateway.submitter.submit(fields, size=size, streamed=asked.stream)
            del fields
            asked.fields.clear()
        request.state.headers = [(b"x-trivet-job", job.id.encode())]
        if asked.at_once:
            return await accepted(gateway, job)
        try:
            if asked.stream:
                return await begin_stream(request, gateway, job, asked)
            async with ClientWatch(request) as client:
                return await message_of(
                    gateway, job, await client.wait(gateway.results.result(job.id, existed=job.existed))
                )
        except ClientLeft:
            await cancel_unless_kept(gateway, job, asked)
            return Response(status_code=CLIENT_LEFT)
        except ClientClosed:
            raise await stopping(gateway, job, asked) from None
