"""Reasons why a batch or a job does not move: for `trivet batch status`, `trivet job show` and commands that wait."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from trivet.admin.blocked_reason import blocked_reasons
from trivet.admin.budget_status import holding_batch, holding_job
from trivet.admin.impairments import Impairment, ImpairmentKind, read_impairments
from trivet.times import seconds
from trivet_store.reports import backlog
from trivet_tasks.latency import Latency
from trivet_tasks.shared_state import check_writable
from trivet_tasks.states import END_STATES, BatchState, JobState

if TYPE_CHECKING:
    from trivet.client.connections import Connections
    from trivet_store.database.engine import Connection
    from trivet_store.jobs.batches import Progress
    from trivet_store.reports.backlog import Line
    from trivet_store.reports.results import JobRow


@dataclass(frozen=True, slots=True)
class Blocked:
    """Reasons why jobs do not move; empty where they do."""

    notes: tuple[str, ...] = ()
    """Sentences."""
    reasons: tuple[str, ...] = ()
    """`route: why it takes none of them now`."""
    wrong: bool = False
    """True if something is wrong; limits, budgets and pauses between rounds are as configured."""
    impairments: tuple[Impairment, ...] = ()
    """Impairments of processes and servers; also in the notes."""


def blocked_batch(connections: "Connections", progress: "Progress") -> Blocked:
    """Return why a batch, or a part of it, does not move."""
    if progress.state != BatchState.OPEN or progress.done:
        return Blocked()
    name, moving = progress.name, progress.running > 0 or progress.waiting == 0
    found = _blocked(connections, lambda connection: backlog.lines_of(connection, name), processes_only=moving)
    if found.notes or moving:
        return found
    store = connections.store
    with store.read() as connection:
        if budget := holding_batch(store, connection, name):
            return Blocked((budget,))
        due, now = backlog.pause_of(connection, name), store.now(connection)
    if due is None:
        return found
    return Blocked((f"Its jobs wait for their next try, the first in {seconds(max(0.0, due - now))}.",))


def blocked_job(connections: "Connections", job: "JobRow") -> Blocked:
    """Return why a job does not move, as far as routes and processes are concerned."""
    if job.state in END_STATES:
        return Blocked()
    return _blocked(
        connections,
        lambda connection: backlog.line_of_job(connection, job.id),
        processes_only=job.state != JobState.WAITING,
    )


def blocked_waiting_job(connections: "Connections", job: "JobRow") -> Blocked:
    """Return why no route takes a waiting job now, the budget that holds it included; a probe is not looked at."""
    if job.state != JobState.WAITING or job.probe:
        return Blocked()
    found = blocked_job(connections, job)
    with connections.store.read() as connection:
        budget = holding_job(connections.store, connection, job.id)
    return Blocked((*found.notes, budget), found.reasons, found.wrong, found.impairments) if budget else found


def _blocked(
    connections: "Connections", lines_of: "Callable[[Connection], Sequence[Line]]", *, processes_only: bool
) -> Blocked:
    """Return why jobs do not move.

    Args:
        lines_of: reads what the jobs need of a route.
        processes_only: whether some of the jobs move, so that their routes need not be asked.
    """
    with connections.store.read() as connection:
        lines = lines_of(connection)
    if not lines:
        return Blocked()
    lanes = {Latency(line.latency).lane for line in lines}
    impairments = read_impairments(connections.store, connections.settings, connections.redis)
    wrong = tuple(one for one in impairments if one.concerns(lanes))
    notes = _sentences(wrong)
    if processes_only:
        return Blocked(notes, (), bool(wrong), wrong)
    try:
        check_writable(connections.redis)  # a Redis that is out of memory answers, and yet nothing moves
        found = blocked_reasons(connections, lines)
    except redis.RedisError as error:
        unavailable = str(connections.unavailable(error))
        return Blocked(tuple(dict.fromkeys((*notes, unavailable))), (), True, wrong)
    return Blocked(
        (*notes, *(one.sentence(named=len(found) > 1) for one in found)),
        tuple(dict.fromkeys(reason for one in found for reason in one.reasons)),
        bool(wrong) or any(one.wrong for one in found),
        wrong,
    )


def _sentences(wrong: Sequence[Impairment]) -> tuple[str, ...]:
    """Return the impairments in sentences; one for all processes that have the same impairment."""
    of_each = {one.text.partition(": ")[2] if one.kind == ImpairmentKind.IDLE else one.text: one.text for one in wrong}
    return tuple(text if text.endswith(".") or ": trivet " in text else f"{text}." for text in of_each.values())
