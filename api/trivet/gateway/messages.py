"""`POST /v1/messages`: a request of the Messages API as a job, answered with the provider's message."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from trivet.client.blocked import BlockedReason
from trivet.client.jobs import Job
from trivet.client.result import Result
from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError
from trivet.gateway.job_errors import answer_for, needs_reasons
from trivet.gateway.requests import Asked, body_of, read_asked
from trivet_tasks.errors import ClientClosed, TrivetError
from trivet_tasks.outcomes import Outcome

T = TypeVar("T")


def routes() -> list[Route]:
    """Return the routes of the Messages API."""
    return [Route("/v1/messages", create, methods=["POST"])]


async def create(request: Request) -> Response:
    """Submit a job, wait for its end, answer with its message."""
    gateway: Gateway = request.app.state.gateway
    with gateway.admitted():
        async with body_of(request) as body:
            asked = read_asked(request.headers, body)
            del body
            job = await gateway.submitter.submit(asked.fields)
        request.state.headers = [(b"x-trivet-job", job.id.encode())]
        if asked.at_once:
            return await _accepted(gateway, job)
        found = await unless_left(request, gateway, job, asked, gateway.results.result(job.id, existed=job.existed))
    if found is None:  # nobody reads it
        return Response(status_code=499)
    return await answer(gateway, job, found)


async def answer(gateway: Gateway, job: Job, result: Result) -> Response:
    """Return the message of a job that has ended.

    Raises:
        ApiError: it has none.
    """
    if result.raw is None:
        raise await error_of(gateway, job, result)
    return Response(result.raw, headers=headers_of(result), media_type="application/json")


async def error_of(gateway: Gateway, job: Job, result: Result) -> ApiError:
    """Return the error for a job that ended without a message, with what blocks jobs like it."""
    blocked: list[BlockedReason] = []
    if needs_reasons(result):
        with contextlib.suppress(TrivetError):  # the answer does without them
            blocked = await gateway.run(job.blocked_reasons)
    error = answer_for(result, blocked)
    error.headers |= headers_of(result)
    return error


def headers_of(result: Result) -> dict[str, str]:
    """Return the headers that say how a job was served: route, cost, calls, and the provider's `request-id`."""
    headers = {
        "x-trivet-job": result.id,
        "x-trivet-attempts": str(len(result.attempts)),
        "x-trivet-cached": "true" if result.cached else "false",
    }
    if result.route is not None:
        headers["x-trivet-route"] = result.route
    if result.cost_usd is not None:
        headers["x-trivet-cost-usd"] = f"{result.cost_usd.normalize():f}"
    for attempt in reversed(result.attempts):
        if attempt.outcome == Outcome.SUCCEEDED.value and attempt.request_id:
            headers["request-id"] = attempt.request_id
            break
    return headers


async def unless_left(
    request: Request, gateway: Gateway, job: Job, asked: Asked, waiting: Awaitable[Result]
) -> Result | None:
    """Wait for a result; cancel the job when the client goes away before that.

    A job with a key, or one that others wait for here, goes on: it may be asked for again.

    Returns:
        The result; None: the client has gone.

    Raises:
        ApiError: 503; this process stops. The job goes on.
    """
    result = asyncio.ensure_future(waiting)
    left = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait((result, left), return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        if gateway.results.waiters(job.id) <= 1 and "key" not in asked.fields:
            result.cancel()
            with contextlib.suppress(TrivetError):  # it ends by its deadline
                await gateway.run(job.cancel)
        return None
    except ClientClosed:
        raise stopping(job) from None
    finally:
        left.cancel()
        result.cancel()


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def stopping(job: Job) -> ApiError:
    """Return the answer to a request that waits while this process stops."""
    return ApiError(
        503,
        f"This gateway stops. The job {job.id} goes on: GET /trivet/v1/jobs/{job.id} has its state.",
        {"retry-after": "1"},
    )


async def _accepted(gateway: Gateway, job: Job) -> Response:
    """Return a job that goes on without anybody waiting."""
    row = await gateway.run(job.look)
    address = f"/trivet/v1/jobs/{job.id}"
    body = {
        "id": job.id,
        "state": row.state.value,
        "latency": row.latency,
        "model": row.model,
        "key": row.key,
        "created_at": row.created_at,
        "deadline_at": row.deadline_at,
        "url": address,
        "warnings": list(job.warnings),
    }
    return Response(orjson.dumps(body), 202, {"location": address, "x-trivet-job": job.id}, "application/json")
