"""`trivet batch`: progress and results of batches, cancelling and discarding them, and running failures again."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import control, options, output
from trivet.cli.callbacks_view import print_callbacks
from trivet.cli.options import Json, WithRequest
from trivet.cli.output import (
    FAILED,
    HELD_UP,
    Column,
    print_error,
    print_facts,
    print_line,
    print_table,
    print_warning,
    reporting_status,
)
from trivet.cli.progress import bar, spinner, telling
from trivet.cli.result_forms import Form, form_of
from trivet.cli.waiting import wait_for
from trivet.json_objects import batch_object, progress_object
from trivet.times import moment, seconds
from trivet_tasks.errors import BatchIncomplete, InvalidRequest, ResultTimeout
from trivet_tasks.states import END_STATES, BatchState, JobState

if TYPE_CHECKING:
    from trivet.admin import Progress

Name = Annotated[str, typer.Argument(help="The batch's name.", show_default=False)]

STATES = tuple(state for state in JobState if state in END_STATES)
ADVANCE_EVERY = 200
"""Results between two steps of the bar."""

group = typer.Typer(
    no_args_is_help=True, help="Batches: progress, results, export, pausing, cancelling, retrying, discarding."
)


@group.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="Maximum number, the newest first.")] = 20, as_json: Json = False
) -> None:
    """The newest batches."""
    with options.admin() as admin:
        found = admin.batches.list(limit)
    if as_json:
        output.print_json([progress_object(progress) for progress in found])
    elif not found:
        print_line("There is no batch yet.")
    else:
        print_table(
            [
                Column("BATCH", cut=True), Column("STATE"), Column("TOTAL", right=True), Column("ENDED", right=True),
                Column("RUNNING", right=True, spare=2), Column("NOT SUCCEEDED", right=True, spare=1),
                Column("COST", right=True), Column("CREATED", spare=3),
            ],
            [
                [
                    p.name, _state(p), f"{p.total:,}", f"{p.ended:,}", f"{p.running:,}",
                    f"{p.ended - p.succeeded:,}", output.usd_and_estimate(p.cost_usd, p.estimated_usd), moment(p.created_at),
                ]
                for p in found
            ],
        )  # fmt: skip


@group.command()
def status(name: Name, as_json: Json = False) -> None:
    """Show progress, cost, expected end and callbacks of a batch. Says why, if it does not move.

    Exit code 3: its jobs are held up by something that is wrong.
    """
    with reporting_status(), options.admin() as admin:
        found = admin.batches.status(name)
        called_back = admin.batches.callbacks(name)
    progress, speed, left, held = found
    if as_json:
        output.print_json(batch_object(found, called_back))
        if held.wrong:
            raise typer.Exit(HELD_UP)
        return
    print_progress(progress, speed=speed, left=left, held_up=held.wrong)
    for note in held.notes:
        print_line(note, style="yellow")
    for reason in held.reasons:
        print_line(reason, style="dim", indent=2)
    if progress.state == BatchState.INCOMPLETE:
        print_line(f"incomplete: {progress.error}", style="yellow")
    for said in _how_to_retry(progress):
        print_line(said, style="yellow")
    print_callbacks(called_back)
    if held.wrong:
        raise typer.Exit(HELD_UP)


@group.command()
def results(
    name: Name,
    now: Annotated[
        bool, typer.Option("--now", help="Print the results so far, instead of waiting for the last.")
    ] = False,
    with_request: WithRequest = False,
) -> None:
    """Print the results as JSON Lines. They come in the order the jobs end; failures are lines too."""
    from trivet.json_objects import result_line

    pruned = 0
    with options.client() as client:
        batch = client.batch(name)
        progress = batch.progress()
        if not now:
            _check_complete(progress)
        try:
            with nullcontext() if now else telling(client.settings, lambda admin: admin.batches.blocked(name)):
                for result in batch.results(timeout=0 if now else None, with_request=with_request):
                    sys.stdout.buffer.write(result_line(result, with_request=with_request))
                    pruned += result.pruned
        except ResultTimeout:
            pass
        finally:
            sys.stdout.buffer.flush()
    if pruned:
        print_warning(f"{pruned:,} of these results were pruned: their lines have no text.")


@group.command()
def wait(
    name: Name,
    timeout: options.Timeout = None,
    as_json: Json = False,
) -> None:
    """Wait until every job of a batch has ended. Its progress is on standard error.

    Exit code 1: some jobs did not succeed, or --timeout passed. 3: it passed while something that is wrong held them up.
    """
    limit_s = options.timeout_s(timeout)
    with options.client() as client:
        batch = client.batch(name)
        _check_complete(batch.progress())
        try:
            progress = wait_for(client, batch, timeout=limit_s)
        except ResultTimeout as error:
            print_error(f"trivet: {error}\nIts state: trivet batch status {quote(name)}")
            raise typer.Exit(HELD_UP if error.held_up else FAILED) from None
    if as_json:
        output.print_json(progress_object(progress))
    else:
        print_progress(progress)
        for said in _how_to_retry(progress):
            print_line(said, style="yellow")
    if progress.succeeded < progress.total:
        raise typer.Exit(FAILED)


@group.command()
def cancel(name: Name, as_json: Json = False) -> None:
    """Stop a batch. Waiting jobs end at once, running ones are dropped within about two seconds."""
    with options.client() as client:
        batch = client.batch(name)
        ended = batch.cancel()
        progress = batch.progress()
    if as_json:
        output.print_json({**progress_object(progress), "ended_now": ended})
        return
    running = f", {progress.running:,} running are being dropped" if progress.running else ""
    print_line(f"{name}: {ended:,} jobs cancelled{running}.")


@group.command()
def retry(
    name: Name,
    failed: Annotated[bool, typer.Option("--failed", help="Run failed jobs again (the default).")] = False,
    expired: Annotated[
        bool, typer.Option("--expired", help="Run jobs again whose deadline passed; with --failed, both.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the failed jobs of a batch again. No others run, and every earlier attempt stays on record."""
    with options.client() as client:
        batch = client.batch(name)
        again = batch.retry(failed=failed or not expired, expired=expired)
        progress = batch.progress()
    if as_json:
        output.print_json({**progress_object(progress), "retried": again})
        return
    if not again:
        which = "failed or expired" if failed and expired else "expired" if expired else "failed"
        print_line(f"{name}: no job {which}; nothing runs again.")
    else:
        held = "" if progress.state == BatchState.OPEN else f" It does not run yet: trivet batch status {quote(name)}"
        print_line(f"{name}: {_jobs(again)} {'runs' if again == 1 else 'run'} again.{held}")


@group.command()
def accept(name: Name, as_json: Json = False) -> None:
    """Run an incomplete batch as it is. The requests that were not submitted stay out."""
    with options.client() as client:
        batch = client.batch(name)
        before = batch.progress()
        if before.state == BatchState.CANCELLED:
            raise InvalidRequest(f"The batch {name!r} was cancelled.", field="name")
        if before.state != BatchState.OPEN:
            batch.accept()
        progress = batch.progress()
    if as_json:
        output.print_json(progress_object(progress))
    elif before.state == BatchState.OPEN:
        print_line(f"{name} is complete already; its {progress.total:,} jobs may run.")
    else:
        print_line(f"{name}: runs with the {progress.total:,} jobs it has.")


group.command()(control.pause)
group.command()(control.resume)
group.command(context_settings=control.NEGATIVE_NUMBERS)(control.priority)


@group.command()
def discard(name: Name, as_json: Json = False) -> None:
    """Delete an unfinished batch with its jobs, none of which ran. Safe to interrupt: run it again.

    Its name is free then. A batch that was complete once is refused, and one whose jobs others may have joined
    (`--dedupe tenant`); `trivet batch cancel` ends their jobs.
    """
    with options.client() as client, spinner(f"Discarding {name}"):
        try:
            jobs = client.batch(name).discard()
        except KeyboardInterrupt:
            print_error(f"Interrupted. A part of {name} may be deleted: the same command deletes the rest.")
            raise
    if as_json:
        output.print_json({"name": name, "jobs": jobs})
    else:
        print_line(f"{name}: discarded with {_jobs(jobs)}, none of which ran.")


@group.command()
def export(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="File to write instead of standard output; it appears when it is complete.")
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format", help="jsonl, csv or parquet. Default: the ending of FILE, else jsonl. parquet needs --out."
        ),
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help=f"Only results of this state: {', '.join(STATES)}; may be repeated.")
    ] = None,
    with_request: WithRequest = False,
) -> None:
    """Write the results so far, in the order in which jobs ended. Exits with 1 when some jobs have not ended."""
    from trivet.cli.results import sink

    states = _checked_states(state)
    chosen = form_of(out, form)
    count = pruned = 0
    with options.client() as client:
        batch = client.batch(name)
        progress = batch.progress()
        try:
            with (
                sink(out, chosen, with_request=with_request) as write,
                _bar(name, progress, states, shown=out is not None) as advance,
            ):
                for result in batch.ended(states, with_request=with_request):
                    write(result)
                    count += 1
                    pruned += result.pruned
                    if count % ADVANCE_EVERY == 0:
                        advance(count)
                advance(count)
        except KeyboardInterrupt:
            print_error(f"Interrupted: {f'{out} was not written' if out else 'these are not all results'}.")
            raise
    if out:
        print_line(f"{out}: {count:,} results of {name}.")
    if pruned:
        print_warning(f"{pruned:,} of these results were pruned: they have no text.")
    if not progress.done:
        print_warning(_lacking(progress))
        raise typer.Exit(FAILED)


def print_progress(
    progress: "Progress", *, speed: float | None = None, left: float | None = None, held_up: bool = False
) -> None:
    """Print a batch as a small table. `speed` is jobs a second, `left` seconds."""
    share = f" ({progress.ended / progress.total:.0%} ended)" if progress.total else ""
    facts = [
        ("batch", progress.name),
        ("state", f"{_state(progress)}, held up" if held_up else _state(progress)),
        (
            "created",
            f"{moment(progress.created_at)} ({seconds(max(0.0, time.time() - progress.created_at))} ago)",
        ),
        ("jobs", f"{progress.total:,}{share}"),
    ]
    for state in (JobState.WAITING, JobState.RUNNING, *(end for end in JobState if end in END_STATES)):
        count = getattr(progress, state)
        if count or state not in (JobState.EXPIRED, JobState.CANCELLED):
            facts.append((state, f"{count:,}"))
    if progress.priority:
        facts.append(("priority", f"{progress.priority:+d}"))
    facts.append(("cost", output.usd_and_estimate(progress.cost_usd, progress.estimated_usd)))
    if speed and not progress.done:
        facts.append(("speed", f"{speed:,.1f} jobs/s" + (f", about {seconds(left)} left" if left else "")))
    print_facts(facts)
    print_joined(progress)


def print_joined(progress: "Progress") -> None:
    """Print how many requests of a batch have no job of their own, if any."""
    if not progress.joined:
        return
    requests = f"{progress.joined:,} request{'' if progress.joined == 1 else 's'}"
    if progress.dedupe:
        print_line(f"{requests} joined earlier jobs with the same keys, whose results are not in this batch.")
    else:
        print_line(f"{requests} joined earlier ones with the same keys: one job each.")


def _checked_states(given: list[str] | None) -> tuple[JobState, ...]:
    for state in given or ():
        if state not in STATES:
            near = get_close_matches(state, STATES, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Use {', '.join(STATES)}."
            raise InvalidRequest(f"--state: {state!r} is not how a job ends.", field="state", hint=hint)
    return tuple(JobState(state) for state in dict.fromkeys(given)) if given else STATES


def _check_complete(progress: "Progress") -> None:
    """Raise BatchIncomplete, or InvalidRequest, if nothing of the batch runs: a part is missing, or it is discarded."""
    if progress.state == BatchState.DISCARDING:
        hint = f"`trivet batch discard {quote(progress.name)}` goes on with it."
        raise InvalidRequest(f"The batch {progress.name!r} is being discarded.", field="name", hint=hint)
    if progress.state in (BatchState.INCOMPLETE, BatchState.LOADING):
        raise BatchIncomplete(
            f"The batch {progress.name!r} has taken in only a part of its requests and does not run.",
            name=progress.name, taken=progress.taken,
            hint=f"Submit it again, or run it as it is: trivet batch accept {quote(progress.name)}.",
        )  # fmt: skip


@contextmanager
def _bar(
    name: str, progress: "Progress", states: tuple[JobState, ...], *, shown: bool
) -> Iterator[Callable[[int], None]]:
    """Show a bar, unless the results go to the same terminal."""
    if not shown:
        yield lambda _count: None
        return
    with bar(f"Exporting {name}", sum(getattr(progress, state) for state in states), unit="jobs") as advance:
        yield advance


def _lacking(progress: "Progress") -> str:
    """Return a sentence on the missing results."""
    open_jobs = progress.total - progress.ended
    said = f"{open_jobs:,} job{'' if open_jobs == 1 else 's'} of {progress.name} had not ended when the export began."
    if progress.state in (BatchState.INCOMPLETE, BatchState.LOADING):
        said += f" It has taken in only a part of its requests ({progress.taken:,}) and does not run."
    return said


def _how_to_retry(progress: "Progress") -> list[str]:
    """Return the commands that list and run again what did not succeed."""
    if progress.state == BatchState.CANCELLED:
        return []
    return [
        f"{_jobs(count)} {state}: trivet job list --batch {progress.name} --state {state} says why, "
        f"trivet batch retry {quote(progress.name)} --{state} runs {'it' if count == 1 else 'them'} again"
        for state, count in ((JobState.FAILED, progress.failed), (JobState.EXPIRED, progress.expired))
        if count
    ]


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _state(progress: "Progress") -> str:
    if progress.state == BatchState.OPEN:
        if progress.paused and not progress.done:
            return "paused"
        return "done" if progress.done else "running" if progress.running or progress.ended else "waiting"
    return progress.state
