"""Why the jobs that a command is about do not move, for a person."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from trivet_tasks.latency import Latency

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from trivet.admin.impairments import Impairment
    from trivet.client.client import Client
    from trivet.client.job import Job
    from trivet_store.jobs.batches import Progress
    from trivet_store.reports.backlog import Line


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Reasons for which jobs do not move; empty where they do."""

    notes: tuple[str, ...] = ()
    """Sentences."""
    reasons: tuple[str, ...] = ()
    """`route: why it takes none of them now`."""
    wrong: bool = False
    """True if something is wrong; limits and budgets are as somebody wants them."""
    impairments: "tuple[Impairment, ...]" = ()
    """Impairments of processes and servers; also in the notes."""


def held_up(
    client: "Client", lines_of: "Callable[[Connection], Sequence[Line]]", *, processes_only: bool = False
) -> HeldUp:
    """Return what holds up the jobs.

    Args:
        lines_of: reads what the jobs need of a route.
        processes_only: whether some of the jobs move, so that their routes need not be asked.
    """
    from trivet.admin.holdup import holdups
    from trivet.admin.impairments import read_impairments

    connections = client._connections
    with connections.store.read() as connection:
        lines = lines_of(connection)
    if not lines:
        return HeldUp()
    lanes = {Latency(line.latency).lane for line in lines}
    wrong = tuple(
        one
        for one in read_impairments(connections.store, connections.settings, connections.redis)
        if one.concerns(lanes)
    )
    notes = _sentences(wrong)
    if processes_only:
        return HeldUp(notes, (), bool(wrong), wrong)
    try:
        found = holdups(connections, lines)
    except redis.RedisError as error:
        said = str(connections.unavailable(error))
        return HeldUp(tuple(dict.fromkeys((*notes, said))), (), True, wrong)
    return HeldUp(
        (*notes, *(holdup.sentence(named=len(found) > 1) for holdup in found)),
        tuple(dict.fromkeys(reason for holdup in found for reason in holdup.reasons)),
        bool(wrong) or any(holdup.wrong for holdup in found),
        wrong,
    )


def job_held_up(client: "Client", job: "Job") -> HeldUp:
    """Return what holds up one job that has not ended."""
    from trivet_store.reports import backlog
    from trivet_tasks.states import END_STATES, JobState

    state = job.state
    if state in END_STATES:
        return HeldUp()
    return held_up(
        client, lambda connection: backlog.line_of_job(connection, job.id), processes_only=state != JobState.WAITING
    )


def batch_held_up(client: "Client", progress: "Progress") -> HeldUp:
    """Return what holds up a batch, or a part of it."""
    from trivet.admin.budget_status import holding_batch
    from trivet.cli.context import seconds
    from trivet_store.reports import backlog
    from trivet_tasks.states import BatchState

    if progress.state != BatchState.OPEN or progress.done:
        return HeldUp()
    name, moving = progress.name, progress.running > 0 or progress.waiting == 0
    found = held_up(client, lambda connection: backlog.lines_of(connection, name), processes_only=moving)
    if found.notes or moving:
        return found
    store = client._connections.store
    with store.read() as connection:
        if budget := holding_batch(store, connection, name):
            return HeldUp((budget,))
        due, now = backlog.pause_of(connection, name), store.now(connection)
    if due is None:
        return found
    return HeldUp((f"Its jobs wait for their next try, the first in {seconds(max(0.0, due - now))}.",))


def _sentences(wrong: "Sequence[Impairment]") -> tuple[str, ...]:
    """Return the impairments in sentences; of processes that have the same trouble one stands for all."""
    of_each = {one.text.partition(": ")[2] if one.kind == "trouble" else one.text: one.text for one in wrong}
    return tuple(text if text.endswith(".") or ": trivet " in text else f"{text}." for text in of_each.values())
