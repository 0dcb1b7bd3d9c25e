"""`trivet job`: lists of jobs; one job's life and result; cancelling it and running it again."""

from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from trivet.cli import options, output
from trivet.cli.callbacks_view import print_callbacks
from trivet.cli.options import Json, WithRequest
from trivet.cli.output import FAILED, HELD_UP, Column, print_error, print_facts, print_line, print_table
from trivet.cli.progress import telling
from trivet.json_objects import job_object, life_object
from trivet.times import moment, seconds
from trivet_tasks.errors import InvalidRequest, ResultTimeout
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import AttemptPurpose, JobState

if TYPE_CHECKING:
    from trivet.admin import Admin, AttemptRow, JobLife, JobRow, RetryRow
    from trivet.client.client import Client
    from trivet.client.jobs import Job

Id = Annotated[str | None, typer.Argument(help="The job's id.", show_default=False)]
Key = Annotated[str | None, typer.Option(help="The job's key, instead of its id.")]
Tenant = Annotated[str | None, typer.Option(help="Tenant of the key. Default: a job without a tenant.")]
InBatch = Annotated[str | None, typer.Option("--batch", help="Batch of the key. Default: a single job.")]

CALLS = {AttemptPurpose.JOB: "call", AttemptPurpose.PROBE: "probe", AttemptPurpose.HEDGE: "hedge"}
"""Name of a call, by its purpose."""
_LOST = "nobody knows what came of it: its worker died, or what it wrote down was lost"
"""Message of a call whose end is not known."""
REASON = 100
"""Characters of a reason in a list."""
AFTER = 9
"""Characters of the column that says how long after its submit something happened."""

group = typer.Typer(no_args_is_help=True, help="Single jobs: list, show, result, cancel, retry.")


@group.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help=f"Only jobs of this state: {', '.join(JobState)}.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only those of this batch.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number, the newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """The newest jobs with their states."""
    with options.admin() as admin:
        jobs = admin.jobs.list(state=state, batch=batch, limit=limit)
    if as_json:
        output.print_json([job_object(job) for job in jobs])
    elif not jobs:
        print_line("There is no such job." if state or batch else "There is no job yet.")
    else:
        print_table(
            [
                Column("JOB"), Column("STATE"), Column("CLASS"), Column("BATCH", spare=2, cut=True),
                Column("KEY", spare=6, cut=True), Column("MODEL", spare=4), Column("ROUTE", spare=3, cut=True),
                Column("COST", right=True, spare=1), Column("SUBMITTED", spare=5), Column("WHY", cut=True, optional=True),
            ],
            [
                [
                    job.id, job.state, job.latency, job.batch or "", job.key or "", job.model, job.route or "",
                    _cost(job) or "", moment(job.created_at), _reason(job),
                ]
                for job in jobs
            ],
        )  # fmt: skip


@group.command()
def show(
    job_id: Id = None,
    key: Key = None,
    tenant: Tenant = None,
    batch: InBatch = None,
    with_request: WithRequest = False,
    as_json: Json = False,
) -> None:
    """Show a job's whole life in order. That is when it was accepted, every call with its outcome and cost, its end,
    each time it ran again, and its callbacks."""
    with options.admin() as admin:
        life = admin.jobs.life(_id(admin, job_id, key, tenant, batch), request=with_request)
    if as_json:
        output.print_json(life_object(life, with_request=with_request))
        return
    _print_life(life)
    for note in life.blocked.notes:
        print_line(note, style="yellow", indent=AFTER + 2)
    print_callbacks(life.callbacks)
    if with_request and life.request is None:
        print_line("Its request was pruned.", style="yellow")
    elif with_request:
        print("\n" + output.shown_json(orjson.dumps(life.request, option=orjson.OPT_INDENT_2).decode()))  # noqa: T201


@group.command()
def result(
    job_id: Id = None,
    key: Key = None,
    tenant: Tenant = None,
    batch: InBatch = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the job.")] = False,
    timeout: options.Timeout = None,
    as_json: Json = False,
) -> None:
    """A job's text, route, latency and cost. Exits with 1 when it has none, or has not ended (3: held up)."""
    from trivet.cli.results import print_result

    limit_s = options.timeout_s(timeout)
    with options.client() as client:
        job = _job(client, job_id, key, tenant, batch)
        with telling(client.settings, lambda admin: admin.jobs.blocked(job.id)):
            try:
                found = job.result(limit_s if wait or limit_s is not None else 0)
            except ResultTimeout as error:
                print_error(f"trivet: job {job.id} is {job.state} and has no result yet. --wait waits for it.")
                for reason in error.reasons:
                    print_error(reason, style="yellow")
                raise typer.Exit(HELD_UP if error.held_up else FAILED) from None
    print_result(found, as_json=as_json)


@group.command()
def cancel(
    job_id: Id = None, key: Key = None, tenant: Tenant = None, batch: InBatch = None, as_json: Json = False
) -> None:
    """Stop a job. It ends at once if it waits, within about two seconds if it runs."""
    with options.client() as client:
        job = _job(client, job_id, key, tenant, batch)
        done = job.cancel()
        state = job.state
    if as_json:
        output.print_json({"id": job.id, "cancelled": done, "state": state})
    elif not done:
        print_line(f"{job.id} had ended before: {state}.")
    else:
        print_line(
            f"{job.id} is cancelled."
            if state == JobState.CANCELLED.value
            else f"{job.id} runs; its worker was told to drop it."
        )


@group.command()
def retry(
    job_id: Id = None, key: Key = None, tenant: Tenant = None, batch: InBatch = None, as_json: Json = False
) -> None:
    """Run a failed or expired job again. It is the same job, with every earlier attempt on record."""
    with options.client() as client:
        job = _job(client, job_id, key, tenant, batch)
        again = job.retry()
        state = job.state
    if as_json:
        output.print_json({"id": job.id, "retried": again, "state": state})
    else:
        print_line(
            f"{job.id} runs again." if again else f"{job.id} is {state}: only a job that failed or expired runs again."
        )


def _job(client: "Client", job_id: str | None, key: str | None, tenant: str | None, batch: str | None) -> "Job":
    _check_named_once(job_id, key, tenant, batch)
    if key is None:
        return client.job(job_id or "")
    return client.batch(batch).job(key, tenant=tenant) if batch else client.job_by_key(key, tenant=tenant)


def _id(admin: "Admin", job_id: str | None, key: str | None, tenant: str | None, batch: str | None) -> str:
    _check_named_once(job_id, key, tenant, batch)
    return admin.jobs.by_key(key, tenant=tenant, batch=batch).id if key is not None else job_id or ""


def _check_named_once(job_id: str | None, key: str | None, tenant: str | None, batch: str | None) -> None:
    if (job_id is None) == (key is None):
        raise InvalidRequest("Name one job: its id, or its key with --key.", field="id")
    for name, given in (("tenant", tenant), ("batch", batch)):
        if given is not None and key is None:
            raise InvalidRequest(f"--{name} goes with --key; an id needs none.", field=name)


def _cost(job: "JobRow") -> str | None:
    return output.usd_and_estimate(job.cost_usd, job.estimated_usd) if job.ended_at else None


def _print_life(life: "JobLife") -> None:
    job, now = life.job, life.now
    facts = [
        ("job", job.id), ("purpose", "a probe of Trivet's own, nobody's job" if job.probe else None),
        ("state", job.state), ("class", job.latency), ("model", job.model), ("batch", job.batch), ("index", None if job.index is None else str(job.index)), ("key", job.key), ("tenant", job.tenant), ("tags", ", ".join(f"{k}={v}" for k, v in job.tags.items())),
        ("metadata", orjson.dumps(job.metadata).decode() if job.metadata else None),
        ("deadline", moment(job.deadline_at)), ("cost", _cost(job)),
        ("saved", output.usd(job.saved_usd) if job.cached and job.saved_usd is not None else None),
        ("crashes", _deaths(job)),
    ]  # fmt: skip
    print_facts([(word, value) for word, value in facts if value])
    print_line("")
    _print_step(0.0, f"accepted at {moment(job.created_at)}")
    left = list(life.retries)
    for number, call in enumerate(life.attempts, start=1):
        while left and left[0].at <= call.started_at:
            _print_retry(left.pop(0), job.created_at)
        _print_call(number, call, job.created_at, now)
    for retry in left:
        _print_retry(retry, job.created_at)
    if job.ended_at is None:
        _print_step(now - job.created_at, _state_words(job, now, life.leader))
    else:
        _print_step(job.ended_at - job.created_at, _end(job))


def _deaths(job: "JobRow") -> str | None:
    """Return a sentence on worker processes that died with the job in flight."""
    if not job.crashes:
        return None
    processes = "1 worker process" if job.crashes == 1 else f"{job.crashes} worker processes"
    isolated = f", {job.isolated_crashes} of them running nothing else" if job.isolated_crashes else ""
    return f"{processes} died with it in flight{isolated}"


def _print_step(after_s: float, said: str, *details: str) -> None:
    print_line(f"{'+' + seconds(max(0.0, after_s)):>{AFTER}}  {said}")
    for detail in details:
        if detail:
            print_line(detail, style="dim", indent=AFTER + 2)


def _print_retry(retry: "RetryRow", created_at: float) -> None:
    _print_step(retry.ended_at - created_at, _ended_as(retry.state, retry.error_outcome, retry.error_message))
    _print_step(retry.at - created_at, f"made to run again at {moment(retry.at)}")


def _print_call(number: int, call: "AttemptRow", created_at: float, now: float) -> None:
    if call.outcome is None:
        outcome = f"runs for {seconds(max(0.0, now - call.started_at))}"
    else:
        status = f" ({call.status})" if call.status and call.outcome != Outcome.SUCCEEDED else ""
        outcome = f"{call.outcome}{status}"
        if call.latency_s is not None:
            outcome += f" in {seconds(call.latency_s)}"
    cost = f"at most {output.usd(call.cost_usd)}" if call.estimated else output.usd(call.cost_usd)
    tokens = ""
    if call.input_tokens or call.output_tokens:
        tokens = f"{call.input_tokens or 0:,} tokens in, {call.output_tokens or 0:,} out, "
    if call.model_used:
        outcome += f", answered by {call.model_used}"
    _print_step(
        call.started_at - created_at,
        f"{CALLS[call.purpose]} {number} on {call.route}: {outcome}",
        call.message or (_LOST if call.outcome == Outcome.UNKNOWN else ""),
        f"{tokens}{cost}" if tokens or call.estimated else "",
        f"attempt {call.id}",
        f"request {call.request_id}" if call.request_id else "",
    )


def _state_words(job: "JobRow", now: float, leader: str | None) -> str:
    because = f": {job.last_error}" if job.last_error else ""
    match job.state:
        case JobState.DELAYED:
            left = seconds(max(0.0, (job.not_before or now) - now))
            return f"waits {left} more for {'its next round' if job.round else 'its time'}{because}"
        case JobState.WAITING:
            return f"waits for a route{because}"
        case JobState.COALESCED:
            return f"waits for the answer to an equal request: job {leader or '(ended)'}"
        case JobState.DISPATCHED:
            return f"is in the queue of {job.route}"
        case _:
            return f"runs on {job.route}"


def _end(job: "JobRow") -> str:
    pruned = "; its result was pruned" if job.pruned else ""
    if job.state != JobState.SUCCEEDED:
        return _ended_as(job.state, job.error_outcome, job.error_message) + pruned
    where = "from the cache" if job.cached else f"on {job.route}"
    stop = f", stopped by {job.stop_reason}" if job.stop_reason not in (None, "end_turn", "stop_sequence") else ""
    return f"succeeded {where}{stop}{pruned}"


def _ended_as(state: JobState, outcome: Outcome | None, message: str | None) -> str:
    said = f"{state} ({outcome})" if outcome else state
    return f"{said}: {message}" if message else said


def _reason(job: "JobRow") -> str:
    """Return the reason, in a few words, for which a job has not succeeded."""
    message = job.error_message if job.ended_at else job.last_error
    return shorten(message or job.error_outcome or "", REASON, placeholder=" …")
