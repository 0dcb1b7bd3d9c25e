"""What blocks the jobs of a batch, or one job: processes and servers that are impaired, routes, budgets and backoff."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from trivet.admin.blocked_reason import blocked_reasons
from trivet.admin.budget_status import holding_batch
from trivet.admin.impairments import Impairment, read_impairments
from trivet.times import duration
from trivet_store.database.engine import Connection
from trivet_store.jobs.batches import Progress
from trivet_store.reports import backlog
from trivet_store.reports.backlog import Line
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import END_STATES

if TYPE_CHECKING:
    from trivet.client.connections import Connections


@dataclass(frozen=True, slots=True)
class Blockage:
    """Reasons for which jobs do not move; empty where they do."""

    notes: tuple[str, ...] = ()
    """Sentences."""
    reasons: tuple[str, ...] = ()
    """`route: why it takes none of them now`."""
    wrong: bool = False
    """True if something is wrong; limits and budgets are as somebody wants them."""
    impairments: tuple[Impairment, ...] = ()
    """Impairments of processes and servers; also in the notes."""


def blockage_of_job(connections: "Connections", job_id: str, state: str) -> Blockage:
    """Return what blocks a job that stands like this."""
    if state in END_STATES:
        return Blockage()
    return _blockage(
        connections, lambda connection: backlog.line_of_job(connection, job_id), processes_only=state != "waiting"
    )


def blockage_of_batch(connections: "Connections", progress: Progress) -> Blockage:
    """Return what blocks a batch, or a part of it."""
    if progress.state != "open" or progress.done:
        return Blockage()
    name, moving = progress.name, progress.running > 0 or progress.waiting == 0
    found = _blockage(connections, lambda connection: backlog.lines_of(connection, name), processes_only=moving)
    if found.notes or moving:
        return found
    store = connections.store
    with store.read() as connection:
        if budget := holding_batch(store, connection, name):
            return Blockage((budget,))
        due, now = backlog.pause_of(connection, name), store.now(connection)
    if due is None:
        return found
    return Blockage((f"Its jobs wait for their next try, the first in {duration(max(0.0, due - now))}.",))


def _blockage(
    connections: "Connections", lines_of: Callable[[Connection], Sequence[Line]], *, processes_only: bool
) -> Blockage:
    """Return what blocks the jobs.

    Args:
        lines_of: reads what the jobs need of a route.
        processes_only: whether some of the jobs move, so that their routes need not be asked.
    """
    with connections.store.read() as connection:
        lines = lines_of(connection)
    if not lines:
        return Blockage()
    lanes = {Latency(line.latency).lane for line in lines}
    found = read_impairments(connections.store, connections.settings, connections.redis)
    wrong = tuple(one for one in found if one.concerns(lanes))
    notes = _sentences(wrong)
    if processes_only:
        return Blockage(notes, (), bool(wrong), wrong)
    try:
        blocked = blocked_reasons(connections, lines)
    except redis.RedisError as error:
        said = str(connections.unavailable(error))
        return Blockage(tuple(dict.fromkeys((*notes, said))), (), True, wrong)
    return Blockage(
        (*notes, *(reason.sentence(named=len(blocked) > 1) for reason in blocked)),
        tuple(dict.fromkeys(words for reason in blocked for words in reason.reasons)),
        bool(wrong) or any(reason.wrong for reason in blocked),
        wrong,
    )


def _sentences(wrong: Sequence[Impairment]) -> tuple[str, ...]:
    """Return the impairments in sentences; of processes that have the same trouble one stands for all."""
    of_each = {one.text.partition(": ")[2] if one.kind == "trouble" else one.text: one.text for one in wrong}
    return tuple(text if text.endswith(".") or ": trivet " in text else f"{text}." for text in of_each.values())
