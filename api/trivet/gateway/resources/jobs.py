"""`/trivet/v1/jobs`: submit, list, show, await, cancel and retry jobs."""

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from trivet.client.result import Result
from trivet.gateway.answering import ClientLeft, ClientWatch, row_of_accepted
from trivet.gateway.errors import ApiError
from trivet.gateway.requests import body_of
from trivet.gateway.resources.operation import (
    Answer,
    BatchName,
    Body,
    Call,
    JobId,
    JobPath,
    Operation,
    Parameters,
    Text,
    json_answer,
)
from trivet.json_objects import job_object, life_object, result_line
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.latency import Latency
from trivet_tasks.states import JobState

MAX_WAIT_S = 60
"""Maximum number of seconds for which one request waits for a result."""
MAX_LISTED = 500


class JobsQuery(Parameters):
    """Choice of jobs."""

    state: JobState | None = None
    """Only jobs in this state."""
    batch: BatchName | None = None
    """Only jobs of the batch of this name."""
    key: Text | None = None
    """Only the job of this key; with `batch`, of this request of the batch."""
    tenant: Text | None = None
    """Tenant of the `key`, for admin keys. Another key finds the keys of its own tenant."""
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 20
    """Maximum number, the newest first."""
    before: JobId | None = None
    """Only jobs that were submitted before this one: the last `id` of the page before."""


class JobQuery(Parameters):
    """Parts of a job."""

    with_request: bool = False
    """Add the request, prompt and all; null once it was pruned."""


class ResultQuery(Parameters):
    """Waiting for a result."""

    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_S)] = 0
    """Seconds to wait for the end of the job."""


def operations() -> Sequence[Operation]:
    """Return the operations on jobs."""
    location = {"location": "Address of the job."}
    return (
        Operation(
            "POST",
            "/trivet/v1/jobs",
            create_job,
            "jobs",
            {201: Answer("The job as it was accepted.", "SubmittedJob", headers=location)},
            body=Body("JobRequest"),
            errors=(408, 409, 413, 529),
        ),
        Operation(
            "GET",
            "/trivet/v1/jobs",
            list_jobs,
            "jobs",
            {200: Answer("The jobs, newest first.", "Job", many=True)},
            query=JobsQuery,
            errors=(404,),
        ),
        Operation(
            "GET",
            "/trivet/v1/jobs/{id}",
            get_job,
            "jobs",
            {200: Answer("The job with its attempts and its earlier ends.", "JobLife")},
            address=JobPath,
            query=JobQuery,
            errors=(404,),
        ),
        Operation(
            "GET",
            "/trivet/v1/jobs/{id}/result",
            get_result,
            "jobs",
            {
                200: Answer("The result of a job that has ended; a failure is a result, too.", "Result"),
                202: Answer(
                    "The job has not ended yet.", "Job", headers={"retry-after": "Seconds until the next try."}
                ),
            },
            address=JobPath,
            query=ResultQuery,
            errors=(404, 529),
        ),
        Operation(
            "POST",
            "/trivet/v1/jobs/{id}/cancel",
            cancel_job,
            "jobs",
            {200: Answer("Whether it was cancelled, and its state.", "CancelledJob")},
            address=JobPath,
            errors=(404,),
        ),
        Operation(
            "POST",
            "/trivet/v1/jobs/{id}/retry",
            retry_job,
            "jobs",
            {200: Answer("Whether it runs again, and its state.", "RetriedJob")},
            address=JobPath,
            errors=(404,),
        ),
    )


async def create_job(call: Call) -> Response:
    """Submit a job.

    The body is that of the Messages API with Trivet's own fields (`key`, `latency`, `deadline`, `tags`, …). The class is
    `batch` unless it says otherwise. A request with the key of an earlier one returns that job. If the database fails
    just after the job was accepted, the answer has its `id` and `warnings` alone.
    """
    gateway = call.gateway
    async with body_of(call.request) as (given, size):
        if "on_done" in given:
            raise InvalidRequest(
                "on_done: callbacks are for Celery applications, not for HTTP.",
                field="on_done",
                hint="GET /trivet/v1/events or …/result?wait=60 tell of the end.",
            )
        fields = call.principal.bind(given, default_class=Latency.BATCH)
        await gateway.access.check_budget(call.principal, fields, size)
        job = await gateway.submitter.submit(fields, size=size)
        del given, fields
    row = await row_of_accepted(gateway, job)
    known = {"id": job.id} if row is None else job_object(row)
    address = f"/trivet/v1/jobs/{job.id}"
    return json_answer({**known, "warnings": list(job.warnings)}, 201, {"location": address})


async def list_jobs(call: Call) -> Response:
    """List jobs, the newest first; or the job of a key."""
    query: JobsQuery = call.query
    jobs = call.gateway.admin.jobs
    if query.key is None:
        if query.tenant is not None:
            raise ApiError(400, "tenant: goes with key.")
        found = await call.run(
            lambda: jobs.list(
                state=query.state, batch=query.batch, limit=query.limit, scope=call.scope, before=query.before
            )
        )
        return json_answer([job_object(job) for job in found])
    key, tenant = query.key, query.tenant
    if tenant is not None and not call.principal.sees(tenant):
        raise ApiError(403, f"tenant: the key {call.principal.name} sees its own keys alone. Leave the parameter out.")
    row = await call.run(lambda: jobs.by_key(key, tenant=tenant, batch=query.batch, scope=call.scope))
    return json_answer([job_object(row)] if query.state in (None, row.state) else [])


async def get_job(call: Call) -> Response:
    """Show a job: its state, its attempts with their costs, and its earlier ends."""
    with_request = call.query.with_request
    life = await call.run(lambda: call.gateway.admin.jobs.life(call.path.id, request=with_request, scope=call.scope))
    if not call.principal.admin:  # the leader may be another tenant's; errors of callbacks name servers
        life = life._replace(leader=None, callbacks=(), blocked=life.blocked.for_tenants())
    return json_answer({**life_object(life, with_request=with_request), "blocked": list(life.blocked.notes)})


async def get_result(call: Call) -> Response:
    """Return the result of a job, waiting for its end if asked to."""
    job = await call.run(lambda: call.gateway.client.job(call.path.id, scope=call.scope))
    row = await call.run(job.look)
    result: Result | None = None
    if row.ended_at is not None:
        result = await call.run(partial(job.result, 0))
    elif call.query.wait:
        with call.gateway.admitted():
            result = await _awaited(call, job.id, call.query.wait)
    if result is None:
        row = await call.run(job.look)
        return json_answer(job_object(row), 202, {"retry-after": "1"})
    return Response(result_line(result), media_type="application/json")


async def cancel_job(call: Call) -> Response:
    """Stop a job: at once if it waits, within about two seconds if it runs."""
    job = await call.run(lambda: call.gateway.client.job(call.path.id, scope=call.scope))
    done = await call.run(job.cancel)
    return json_answer({"id": job.id, "cancelled": done, "state": await call.run(lambda: job.state)})


async def retry_job(call: Call) -> Response:
    """Run a failed or expired job again. It is the same job, with every earlier attempt on record."""
    job = await call.run(lambda: call.gateway.client.job(call.path.id, scope=call.scope))
    again = await call.run(job.retry)
    return json_answer({"id": job.id, "retried": again, "state": await call.run(lambda: job.state)})


async def _awaited(call: Call, job_id: str, wait_s: float) -> Result | None:
    """Return the result once there is one; None where that takes longer, or the client has gone."""
    with contextlib.suppress(TimeoutError, ClientLeft):
        async with ClientWatch(call.request) as client:
            return await client.wait_for(partial(call.gateway.results.result, job_id, existed=True), wait_s)
    return None
