"""`/trivet/v1/batches`: submit, list, show, read, control and discard batches."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, StringConstraints
from starlette.responses import Response, StreamingResponse

from trivet.admin import Progress
from trivet.client.jobs import Batch
from trivet.client.result import Result
from trivet.gateway.resources.batch_upload import Uploads
from trivet.gateway.resources.operation import (
    Answer,
    BatchName,
    BatchPath,
    Body,
    Call,
    Operation,
    Parameters,
    json_answer,
)
from trivet.gateway.resources.result_pages import next_page
from trivet.json_objects import batch_object, progress_object
from trivet_tasks.states import END_STATES, JobState

MAX_LISTED = 200
LINES = "application/x-ndjson"
NewName = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x20\x7f/][^\x00-\x1f\x7f/]*$")
]
"""The name of a batch that is made here. A slash would end it in its address."""

_ENDS = tuple(state for state in JobState if state in END_STATES)
_STATES = "^({0})(,({0}))*$".format("|".join(_ENDS))
_uploads = Uploads()


class NewBatchQuery(Parameters):
    """The terms of a new batch."""

    name: NewName | None = None
    """Its name, without slashes; a batch of this name that broke off is continued. Default: one is made up."""
    dedupe: Literal["tenant"] | None = None
    """`tenant`: a request whose key its tenant used before joins that job. Default: a key names a line of this batch."""


class BatchesQuery(Parameters):
    """Choice of batches."""

    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 20
    """Maximum number, the newest first."""
    before: BatchName | None = None
    """Only batches older than this one: the last `name` of the page before."""


class ResultsQuery(Parameters):
    """Choice of results."""

    state: Annotated[str, StringConstraints(max_length=100, pattern=_STATES)] | None = None
    """Only results in these end states, by comma: succeeded, failed, expired, cancelled."""
    with_request: bool = False
    """Add the requests, prompts and all; null where they were pruned."""


class PauseBody(Parameters):
    """A pause."""

    reason: Annotated[str, Field(max_length=300)] = ""
    """Reason, shown wherever the pause is."""


class RetryBody(Parameters):
    """Choice of jobs to run again."""

    failed: bool = True
    """Run failed jobs again."""
    expired: bool = False
    """Run jobs again whose deadline passed."""


class PriorityBody(Parameters):
    """A priority."""

    priority: Annotated[int, Field(ge=-10, le=10)]
    """Priority of the batch; 0 is the default. Only an admin key may raise it above 0, or above what an operator
    lowered it to."""


def operations() -> Sequence[Operation]:
    """Return the operations on batches."""
    progress = {200: Answer("The progress of the batch, and what changed.", "ChangedBatch")}
    control = {200: Answer("What is changed.", "ControlChange")}
    one = "/trivet/v1/batches/{name}"

    def change(
        verb: str, handler: Callable[[Call], Any], answers: dict[int, Answer], body: Body | None = None
    ) -> Operation:
        return Operation(
            "POST", f"{one}/{verb}", handler, "batches", answers, address=BatchPath, body=body, errors=(404, 409)
        )

    return (
        Operation(
            "POST",
            "/trivet/v1/batches",
            create_batch,
            "batches",
            {
                201: Answer(
                    "The batch; all its requests were taken in.", "NewBatch", headers={"location": "Its address."}
                )
            },
            query=NewBatchQuery,
            body=Body("JobRequest", media_type=LINES),
            errors=(408, 409, 413, 415, 529),
        ),
        Operation(
            "GET",
            "/trivet/v1/batches",
            list_batches,
            "batches",
            {200: Answer("The batches, newest first.", "Batch", many=True)},
            query=BatchesQuery,
            errors=(404,),
        ),
        Operation(
            "GET",
            one,
            get_batch,
            "batches",
            {200: Answer("The progress of the batch, its speed, and why it does not move.", "BatchStatus")},
            address=BatchPath,
            errors=(404,),
        ),
        Operation(
            "GET",
            f"{one}/results",
            get_results,
            "batches",
            {200: Answer("One result a line, in the order in which the jobs ended.", "Result", media_type=LINES)},
            address=BatchPath,
            query=ResultsQuery,
            errors=(404,),
        ),
        change("cancel", cancel_batch, progress),
        change("retry", retry_batch, progress, Body(RetryBody, required=False)),
        change("accept", accept_batch, progress),
        change("pause", pause_batch, control, Body(PauseBody, required=False)),
        change("resume", resume_batch, control),
        change("priority", prioritize_batch, control, Body(PriorityBody)),
        Operation(
            "DELETE",
            one,
            discard_batch,
            "batches",
            {200: Answer("The number of jobs that were deleted, none of which ran.", "DiscardedBatch")},
            address=BatchPath,
            errors=(404, 409),
        ),
    )


async def create_batch(call: Call) -> Response:
    """Submit a batch: a body of JSON Lines, one request a line.

    Every line is checked before one is taken in: a wrong one is a 400 that names it, and nothing is submitted. Should the
    gateway or the database fail on the way, the same body under the same name continues where it stopped; until then the
    batch does not run.
    """
    await call.gateway.access.check_budget_known(call.principal)
    batch = await _uploads.submit(
        call.request, call.gateway, call.principal, name=call.query.name, dedupe=call.query.dedupe, scope=call.scope
    )
    found = progress_object(_shown(call, await call.run(batch.progress)))
    address = f"/trivet/v1/batches/{quote(batch.name, safe='')}"
    return json_answer({**found, "warnings": list(batch.warnings)}, 201, {"location": address})


async def list_batches(call: Call) -> Response:
    """List batches with their progress, the newest first."""
    query: BatchesQuery = call.query
    found = await call.run(lambda: call.gateway.admin.batches.list(query.limit, scope=call.scope, before=query.before))
    return json_answer([progress_object(_shown(call, progress)) for progress in found])


async def get_batch(call: Call) -> Response:
    """Show a batch: its progress, its cost, its speed, and why it does not move if it does not."""
    status = await call.run(lambda: call.gateway.admin.batches.status(call.path.name, scope=call.scope))
    if not call.principal.admin:
        status = status._replace(progress=_shown(call, status.progress), blocked=status.blocked.for_tenants())
    return json_answer(batch_object(status))


async def get_results(call: Call) -> Response:
    """Return the results so far as JSON Lines; it waits for none.

    `total` and `ended` of the batch say whether these are all. A connection that closes before the end of the body has not
    brought them all.
    """
    states = _states(call.query.state)
    batch = await _batch(call)
    results = batch.ended(states, with_request=call.query.with_request)
    first = await _page(call, results)  # an error has its own status until here
    return StreamingResponse(_lines(call, first, results), media_type=LINES)


async def cancel_batch(call: Call) -> Response:
    """Stop a batch: waiting jobs end at once, running ones are dropped within about two seconds."""
    batch = await _batch(call)
    ended = await call.run(batch.cancel)
    return await _changed(call, batch, ended_now=ended)


async def retry_batch(call: Call) -> Response:
    """Run the failed jobs of a batch again. Every earlier attempt stays on record."""
    batch, body = await _batch(call), call.body
    again = await call.run(lambda: batch.retry(failed=body.failed, expired=body.expired))
    return await _changed(call, batch, retried=again)


async def accept_batch(call: Call) -> Response:
    """Run an incomplete batch as it is. The requests that were not taken in stay out."""
    batch = await _batch(call)
    await call.run(batch.accept)
    return await _changed(call, batch)


async def pause_batch(call: Call) -> Response:
    """Let no job of a batch begin until it is resumed. Running calls end; deadlines go on."""
    batch = await _batch(call)
    changed = await call.run(lambda: batch.pause(call.body.reason, by=call.by, owner=call.owner))
    return json_answer({"kind": "batch", "value": batch.name, "changed": changed, "paused": True})


async def resume_batch(call: Call) -> Response:
    """Let a paused batch go on. Only an admin key lifts a pause of an operator."""
    batch = await _batch(call)
    changed = await call.run(lambda: batch.resume(by=call.by, owner=call.owner))
    return json_answer({"kind": "batch", "value": batch.name, "changed": changed, "paused": False})


async def prioritize_batch(call: Call) -> Response:
    """Dispatch a batch before, or after, other work."""
    priority: int = call.body.priority
    if priority > 0:
        call.principal.require_admin()
    batch = await _batch(call)
    await call.run(lambda: batch.prioritize(priority, by=call.by, owner=call.owner))
    return json_answer({"kind": "batch", "value": batch.name, "changed": True, "priority": priority})


async def discard_batch(call: Call) -> Response:
    """Delete a batch that never was complete, with its jobs, none of which ran. Its name is free then."""
    batch = await _batch(call)
    jobs = await call.run(batch.discard)
    return json_answer({"name": batch.name, "jobs": jobs})


async def _batch(call: Call) -> Batch:
    """Return the batch of the address. NotFound where there is none that the key may see."""
    return await call.run(lambda: call.gateway.client.batch(call.path.name, scope=call.scope))


async def _changed(call: Call, batch: Batch, **change: int) -> Response:
    return json_answer({**progress_object(_shown(call, await call.run(batch.progress))), **change})


def _shown(call: Call, progress: Progress) -> Progress:
    """Return progress as the key may see it: only an admin key sees who paused it."""
    if call.principal.admin:
        return progress
    return replace(progress, paused=tuple(replace(one, paused_by=None) for one in progress.paused))


async def _page(call: Call, results: Iterator[Result]) -> bytes:
    return await call.run(lambda: next_page(results, with_request=call.query.with_request))


async def _lines(call: Call, page: bytes, rest: Iterator[Result]) -> AsyncIterator[bytes]:
    while page:
        yield page
        page = await _page(call, rest)


def _states(given: str | None) -> tuple[JobState, ...]:
    named = _ENDS if given is None else given.split(",")
    return tuple(state for state in _ENDS if state in named)
