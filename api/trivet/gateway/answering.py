"""Answers about a job: its message, its error, the headers that say how it was served, and waiting while a client listens."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from trivet.admin import JobRow
from trivet.client.blocked import BlockedReason
from trivet.client.jobs import Job
from trivet.client.result import Result
from trivet.gateway.context import Gateway, stopped
from trivet.gateway.errors import ApiError
from trivet.gateway.job_errors import answer_for, needs_reasons
from trivet.gateway.requests import Asked
from trivet_tasks.errors import TrivetError, place_of
from trivet_tasks.outcomes import Outcome

log = logging.getLogger("trivet.gateway")

T = TypeVar("T")


class ClientLeft(Exception):
    """The client closed its connection: nobody reads an answer."""


async def message_of(gateway: Gateway, job: Job, result: Result) -> Response:
    """Return the message of a job that has ended, as its provider gave it.

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


async def accepted(gateway: Gateway, job: Job) -> Response:
    """Return a job that goes on without anybody waiting: status 202 and its address."""
    address = f"/trivet/v1/jobs/{job.id}"
    body: dict[str, Any] = {"id": job.id, "url": address, "warnings": list(job.warnings)}
    row = await row_of_accepted(gateway, job)
    if row is not None:
        body |= {
            "state": row.state.value,
            "latency": row.latency,
            "model": row.model,
            "key": row.key,
            "created_at": row.created_at,
            "deadline_at": row.deadline_at,
        }
    return Response(orjson.dumps(body), 202, {"location": address, "x-trivet-job": job.id}, "application/json")


async def row_of_accepted(gateway: Gateway, job: Job) -> JobRow | None:
    """Return the row of a job that was just submitted; None where it cannot be read now.

    Raises nothing: after an error the client would submit the job, and pay, once more.
    """
    try:
        return await gateway.run(job.look)
    except Exception as error:
        reason = str(error) if isinstance(error, TrivetError) else place_of(error)
        log.warning("the job %s is answered with its id alone: %s", job.id, reason)
        return None


async def cancel_unless_kept(gateway: Gateway, job: Job, asked: Asked) -> None:
    """Cancel a job whose client has gone, unless it has a key: its request may come again, and others may wait for it."""
    if not asked.keyed:
        with contextlib.suppress(TrivetError):  # it ends by its deadline
            await gateway.run(job.cancel)


async def stopping(gateway: Gateway, job: Job, asked: Asked) -> ApiError:
    """End a request that waits while this process stops: cancel its job, unless it has a key. Returns the answer.

    The client is told to repeat the request only where that cannot be paid twice.
    """
    if asked.keyed:
        return stopped(f"The job {job.id} goes on: the same request with its key gets the answer.")
    try:
        cancelled = await gateway.run(job.cancel)
    except Exception as error:
        log.warning("the job %s goes on without a client: %s", job.id, place_of(error))
    else:
        if cancelled:
            return stopped(f"The job {job.id} was cancelled.")
    words = f"This gateway stops. GET /trivet/v1/jobs/{job.id}/result has the answer of the job {job.id}."
    return ApiError(503, words, {"x-should-retry": "false"})


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


class ClientWatch:
    """Watch over the client of one request: waits for something, unless the client goes away before that.

    Example:
        async with ClientWatch(request) as client:
            result = await client.wait(gateway.results.result(job.id))
    """

    def __init__(self, request: Request) -> None:
        self._left = asyncio.create_task(_left(request.receive))
        self._work: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> "ClientWatch":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._left.cancel()
        if self._work is not None:
            self._work.cancel()

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of the work.

        Raises:
            ClientLeft: the client has gone; the work is cancelled.
        """
        self._work = asyncio.create_task(work)
        result: T = await self._awaited(None)
        return result

    async def wait_for(self, make: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
        """Return the result of the work, which goes on after the time: another call waits for the same work.

        Raises:
            TimeoutError: the time is over.
            ClientLeft: the client has gone.
        """
        if self._work is None:
            self._work = asyncio.create_task(make())
        result: T = await self._awaited(seconds)
        return result

    async def _awaited(self, seconds: float | None) -> Any:
        assert self._work is not None
        await asyncio.wait((self._work, self._left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._work.done():
            work, self._work = self._work, None
            return work.result()
        if self._left.done():
            raise ClientLeft
        raise TimeoutError


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
