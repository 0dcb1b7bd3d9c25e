"""`trivet batch`: how batches do, their results, their end, and running again what failed."""

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import batch_export, context
from trivet.cli.exit_codes import HELD_UP, reporting_status
from trivet.times import moment
from trivet_tasks.states import END_STATES, BatchState, JobState

if TYPE_CHECKING:
    from trivet.client.client import Client
    from trivet_store.jobs.batches import Progress

Name = Annotated[str, typer.Argument(help="The batch's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

group = typer.Typer(no_args_is_help=True, help="Batches: progress, results, export, cancelling, retrying.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    batch_export.register(group)
    app.add_typer(group, name="batch")


@group.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20, as_json: Json = False
) -> None:
    """The newest batches."""
    from trivet.cli.tables import Column, print_line, print_table

    with context.client() as client:
        found = client.batches(limit)
    if as_json:
        context.print_json([as_object(progress) for progress in found])
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
                    f"{p.ended - p.succeeded:,}", context.usd(p.cost_usd), moment(p.created_at),
                ]
                for p in found
            ],
        )  # fmt: skip


@group.command()
def status(name: Name, as_json: Json = False) -> None:
    """Show the progress of a batch, its cost, when it may be done, and why it does not move if it does not.

    Exit code 3: its jobs are held up by something that is wrong.
    """
    from trivet.cli.holdups import batch_held_up
    from trivet.cli.tables import print_line

    with reporting_status(), context.client() as client:
        progress = client.batch(name).progress()
        speed = _speed(client, name)
        held = batch_held_up(client, progress)
    left = (progress.total - progress.ended) / speed if speed and not progress.done else None
    if as_json:
        more = {
            "jobs_per_s": speed,
            "left_s": left,
            "note": " ".join(held.notes) or None,
            "reasons": held.reasons,
            "held_up": held.wrong,
            "impairments": [asdict(one) for one in held.impairments],
        }
        context.print_json({**as_object(progress), **more})
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
        print_line(f"Submit it again to add the rest, or run it as it is: trivet batch accept {name}", style="yellow")
    for said in _mendable(progress):
        print_line(said, style="yellow")
    if held.wrong:
        raise typer.Exit(HELD_UP)


@group.command()
def results(
    name: Name,
    now: Annotated[bool, typer.Option("--now", help="Only those that have ended by now; else until the last.")] = False,
) -> None:
    """Print the results as JSON Lines, in the order the jobs end; failures are lines too."""
    from trivet.cli.holdups import batch_held_up
    from trivet.cli.result_json import result_line
    from trivet.cli.tables import print_error
    from trivet.cli.telling import telling
    from trivet_tasks.errors import BatchIncomplete, ResultTimeout

    pruned = 0
    with context.client() as client:
        batch = client.batch(name)
        progress = batch.progress()
        if not now and progress.state in (BatchState.INCOMPLETE, BatchState.LOADING):
            raise BatchIncomplete(
                f"The batch {name!r} has taken in only a part of its requests and does not run.", name=name,
                taken=progress.taken, hint=f"Submit it again, or run it as it is: trivet batch accept {name}.",
            )  # fmt: skip
        try:
            with nullcontext() if now else telling(lambda: batch_held_up(client, batch.progress())):
                for result in batch.results(timeout=0 if now else None):
                    sys.stdout.buffer.write(result_line(result))
                    pruned += result.pruned
        except ResultTimeout:
            pass
        finally:
            sys.stdout.buffer.flush()
    if pruned:
        print_error(f"{pruned:,} of these results were pruned: their lines have no text.", style="yellow")


@group.command()
def cancel(name: Name, as_json: Json = False) -> None:
    """Stop a batch: what waits ends at once, what runs is dropped within about two seconds."""
    from trivet.cli.tables import print_line

    with context.client() as client:
        batch = client.batch(name)
        ended = batch.cancel()
        progress = batch.progress()
    if as_json:
        context.print_json({**as_object(progress), "ended_now": ended})
        return
    running = f", {progress.running:,} running are being dropped" if progress.running else ""
    print_line(f"{name}: {ended:,} jobs cancelled{running}.")


@group.command()
def retry(
    name: Name,
    failed: Annotated[
        bool, typer.Option("--failed", help="Those that failed: what is run again if nothing is said.")
    ] = False,
    expired: Annotated[
        bool, typer.Option("--expired", help="Those whose deadline passed; with --failed, both.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run again what failed, and nothing else: the same jobs, with every earlier attempt on record."""
    from trivet.cli.tables import print_line

    with context.client() as client:
        batch = client.batch(name)
        again = batch.retry(failed=failed or not expired, expired=expired)
        progress = batch.progress()
    if as_json:
        context.print_json({**as_object(progress), "retried": again})
        return
    if not again:
        which = "failed or expired" if failed and expired else "expired" if expired else "failed"
        print_line(f"{name}: no job {which}; nothing runs again.")
    else:
        held = "" if progress.state == BatchState.OPEN else f" It does not run yet: trivet batch status {name}"
        print_line(f"{name}: {_jobs(again)} {'runs' if again == 1 else 'run'} again.{held}")


@group.command()
def accept(name: Name, as_json: Json = False) -> None:
    """Run an incomplete batch as it is, without the requests that were not taken."""
    from trivet.cli.tables import print_line
    from trivet_tasks.errors import InvalidRequest

    with context.client() as client:
        batch = client.batch(name)
        before = batch.progress()
        if before.state == BatchState.CANCELLED:
            raise InvalidRequest(f"The batch {name!r} was cancelled.", field="name")
        if before.state != BatchState.OPEN:
            batch.accept()
        progress = batch.progress()
    if as_json:
        context.print_json(as_object(progress))
    elif before.state == BatchState.OPEN:
        print_line(f"{name} is complete already; its {progress.total:,} jobs may run.")
    else:
        print_line(f"{name}: runs with the {progress.total:,} jobs it has.")


def as_object(progress: "Progress") -> dict[str, Any]:
    """A batch's progress as JSON has it."""
    return {**asdict(progress), "ended": progress.ended, "done": progress.done}


def print_progress(
    progress: "Progress", *, speed: float | None = None, left: float | None = None, held_up: bool = False
) -> None:
    """A batch as a small table. `speed` is jobs a second, `left` seconds."""
    from trivet.cli.tables import print_facts

    share = f" ({progress.ended / progress.total:.0%} ended)" if progress.total else ""
    facts = [
        ("batch", progress.name),
        ("state", f"{_state(progress)}, held up" if held_up else _state(progress)),
        (
            "created",
            f"{moment(progress.created_at)} ({context.seconds(max(0.0, time.time() - progress.created_at))} ago)",
        ),
        ("jobs", f"{progress.total:,}{share}"),
    ]
    for state in (JobState.WAITING, JobState.RUNNING, *(end for end in JobState if end in END_STATES)):
        count = getattr(progress, state)
        if count or state not in (JobState.EXPIRED, JobState.CANCELLED):
            facts.append((state, f"{count:,}"))
    facts.append(("cost", context.usd(progress.cost_usd)))
    if speed and not progress.done:
        facts.append(("speed", f"{speed:,.1f} jobs/s" + (f", about {context.seconds(left)} left" if left else "")))
    print_facts(facts)


def _mendable(progress: "Progress") -> list[str]:
    """How to see and run again what did not succeed."""
    if progress.state == BatchState.CANCELLED:
        return []
    return [
        f"{_jobs(count)} {state}: trivet job list --batch {progress.name} --state {state} says why, "
        f"trivet batch retry {progress.name} --{state} runs {'it' if count == 1 else 'them'} again"
        for state, count in ((JobState.FAILED, progress.failed), (JobState.EXPIRED, progress.expired))
        if count
    ]


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _speed(client: "Client", name: str) -> float | None:
    from trivet_store.reports import backlog

    store = client._connections.store
    with store.read() as connection:
        return backlog.recent_speed(connection, name, store.now(connection))


def _state(progress: "Progress") -> str:
    if progress.state == BatchState.OPEN:
        return "done" if progress.done else "running" if progress.running or progress.ended else "waiting"
    return progress.state
