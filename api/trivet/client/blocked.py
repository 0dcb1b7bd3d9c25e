"""Reasons why jobs do not move, a sentence each: of a batch, of a job, and of all that wait."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from shlex import quote

import redis

from trivet.client.connections import Connections
from trivet.client.impairments import Impairment, ImpairmentKind, read_impairments
from trivet.times import ago, moment, seconds
from trivet_routing.budget_headroom import holding_batch, holding_job
from trivet_routing.limits import FORGOTTEN
from trivet_routing.route_choice import Candidate, Choice, Requirements, Why, choose
from trivet_store import controls
from trivet_store.controls import Control, ControlKind
from trivet_store.jobs import batches
from trivet_store.jobs.batches import Progress
from trivet_store.reports import backlog
from trivet_store.reports.backlog import FlowRequirements
from trivet_store.reports.results import JobRow
from trivet_tasks.errors import ResultTimeout
from trivet_tasks.shared_state import check_writable
from trivet_tasks.states import END_STATES, BatchState, JobState

GOES_ON = "It goes on; ask again later."
IMPAIRED = "A part of this Trivet does not work; its operators see which."
HELD_BY_BUDGET = "It is held by a budget."
_FASTER = "add a faster route, or cancel them and submit them again with fewer max_tokens or in a class with more time"
PASSING_S = 1.0
"""Jobs that wait for less than this move at the pace that the limits allow: nothing blocks them."""


class BlockedKind(StrEnum):
    """Kind of reason that blocks jobs."""

    THROTTLED = "throttled"
    """Every route that could take them is limited."""
    UNHEALTHY = "unhealthy"
    """No route that could take them is only limited, and some are open."""
    OUT = "out"
    """The routes that could take them are drained or without a worker."""
    UNFIT = "unfit"
    """No route will ever take them."""
    FORGOTTEN = "forgotten"
    """The shared state is new or was emptied, and is being rebuilt."""


@dataclass(frozen=True, slots=True)
class BlockedReason:
    """One reason why no route takes some jobs."""

    kind: BlockedKind
    text: str
    """One sentence without its full stop."""
    jobs: tuple[str, ...]
    """Latency class and model of the jobs it is about."""
    reasons: tuple[str, ...]
    """`route: why it takes none of them now`, one per route."""
    wait_s: float = 0.0
    """Seconds until a route may take one of them, where that is known."""

    @property
    def wrong(self) -> bool:
        """Return whether something is wrong; a route that is limited will take the jobs by itself."""
        return self.kind is not BlockedKind.THROTTLED

    def sentence(self, *, named: bool) -> str:
        """Return the text as a sentence, with the jobs it is about if they are to be named."""
        return f"{self.text} ({', '.join(self.jobs)})." if named else f"{self.text}."


@dataclass(frozen=True, slots=True)
class Blocked:
    """Reasons why jobs do not move; empty where they do."""

    notes: tuple[str, ...] = ()
    """Sentences."""
    reasons: tuple[str, ...] = ()
    """`route: why it takes none of them now`, unless a note says so."""
    wrong: bool = False
    """True if something is wrong; limits, budgets and pauses between rounds are as configured."""
    impairments: tuple[Impairment, ...] = ()
    """Impairments of processes and servers; also in the notes."""
    budget: bool = False
    """True if a budget holds the next job: nobody knows when it goes on."""
    paused: bool = False
    """True if an operator paused all of them, or some."""
    public_notes: tuple[str, ...] = ()
    """The notes for those who do not operate this Trivet: they name no person, process or server."""

    def for_tenants(self) -> "Blocked":
        """Return the reasons as a tenant may see them."""
        return replace(self, notes=self.public_notes, impairments=())


def _public(note: str, *, wrong: bool = False) -> Blocked:
    """Return a reason that everybody may see."""
    return Blocked((note,), wrong=wrong, public_notes=(note,))


def blocked_batch(connections: Connections, progress: Progress) -> Blocked:
    """Return why a batch, or a part of it, does not move."""
    if partly := _taken_in_partly(progress):
        return partly
    if progress.state != BatchState.OPEN or progress.done:
        return Blocked()
    store, name, moving = connections.store, progress.name, progress.running > 0 or progress.waiting == 0
    with store.read() as connection:
        required = backlog.requirements_of_batch(connection, name)
    found = _blocked(connections, required, processes_only=moving)
    if progress.paused:
        return replace(
            found,
            notes=(*pause_notes(progress.paused), *found.notes),
            public_notes=(*_public_pause_notes(progress.paused), *found.public_notes),
            paused=True,
        )
    if found.notes or progress.waiting == 0:
        return found
    with store.read() as connection:
        if budget := holding_batch(store, connection, connections.directory.costs, name):
            return Blocked((budget,), budget=True, public_notes=(HELD_BY_BUDGET,))
        if moving:
            return found
        due, now = backlog.pause_of(connection, name), store.now(connection)
    if due is None:
        return found
    return _public(f"Its jobs wait for their next try, the first in {seconds(max(0.0, due - now))}.")


def blocked_job(connections: Connections, job: JobRow) -> Blocked:
    """Return why a job does not move: its batch, the budget that holds it, processes and routes. A probe is not looked at."""
    if job.state in END_STATES or job.probe:
        return Blocked()
    store = connections.store
    with store.read() as connection:
        required = backlog.requirements_of_job(connection, job.id)
        progress = batches.progress(connection, job.batch) if job.batch else None
        paused = controls.pauses_of_job(connection, job.id) if job.state != JobState.RUNNING else ()
    if progress and (partly := _taken_in_partly(progress)):
        return partly
    if paused:
        return Blocked(pause_notes(paused), paused=True, public_notes=_public_pause_notes(paused))
    found = _blocked(connections, required, processes_only=job.state != JobState.WAITING)
    if job.state != JobState.WAITING:
        return found
    with store.read() as connection:
        budget = holding_job(store, connection, connections.directory.costs, job.id)
    if not budget:
        return found
    public = (*found.public_notes, HELD_BY_BUDGET)
    return replace(found, notes=(*found.notes, budget), budget=True, public_notes=public)


def timed_out_job(connections: Connections, job: JobRow, message: str) -> ResultTimeout:
    """Return the error of a wait for a job that was too short, with the reason for which the job has not ended."""
    match job.state:
        case JobState.DELAYED:
            left_s = max(0.0, (job.not_before or 0.0) - connections.now())
            moves = f"It waits {seconds(left_s)} more for its {'next round' if job.round else 'time'}."
        case JobState.COALESCED:
            moves = "It waits for the answer to an equal request."
        case JobState.DISPATCHED:
            moves = f"It is in the queue of {job.route}."
        case JobState.RUNNING:
            moves = f"It runs on {job.route}."
        case _:
            moves = GOES_ON
    return _timed_out(message, blocked_job(connections, job), moves)


def timed_out_batch(connections: Connections, progress: Progress, message: str) -> ResultTimeout:
    """Return the error of a wait for a batch that was too short, with the reason for which it has not ended."""
    return _timed_out(message, blocked_batch(connections, progress), GOES_ON)


def _timed_out(message: str, blocked: Blocked, moves: str) -> ResultTimeout:
    hint = "\n".join(blocked.notes) or moves  # a line each: some end with a command to type
    return ResultTimeout(message, hint=hint, reasons=blocked.notes, held_up=blocked.wrong)


def pause_notes(paused: Iterable[Control]) -> tuple[str, ...]:
    """Return a sentence on each of these pauses, with the command that ends it."""
    return tuple(_pause_note(one) for one in paused)


def _public_pause_notes(paused: Iterable[Control]) -> tuple[str, ...]:
    return tuple(f"The {one.words(moment(one.paused_at), named=False)}." for one in paused)


def _pause_note(one: Control) -> str:
    value = quote(one.value)
    named = value if one.kind is ControlKind.BATCH else f"--{one.kind} {value}"
    return f"The {one.words(moment(one.paused_at))} (`trivet batch resume {named}`)."


def _taken_in_partly(progress: Progress) -> Blocked | None:
    """Return that nothing of a batch runs before all of it was taken in; None where it was."""
    taken = f"{progress.taken:,} request{'' if progress.taken == 1 else 's'}"
    if progress.state == BatchState.LOADING:
        return _public(f"The batch {progress.name!r} has taken in {taken} so far: none runs before the last is there.")
    if progress.state == BatchState.DISCARDING:
        rest = f"trivet batch discard {quote(progress.name)} deletes the rest if that was interrupted"
        return _public(f"The batch {progress.name!r} is being deleted and does not run: {rest}", wrong=True)
    if progress.state == BatchState.INCOMPLETE:
        advice = (
            f"Submit it again to add the rest, run it as it is: trivet batch accept {quote(progress.name)}, or delete it: "
            f"trivet batch discard {quote(progress.name)}"
        )
        return _public(f"The batch {progress.name!r} took in only {taken} and does not run. {advice}", wrong=True)
    return None


def _blocked(connections: Connections, required: Sequence[FlowRequirements], *, processes_only: bool) -> Blocked:
    """Return why jobs with these requirements do not move.

    Args:
        processes_only: whether some of the jobs move, so that their routes need not be asked.
    """
    if not required:
        return Blocked()
    lanes = {one.latency.lane for one in required}
    impairments = read_impairments(connections.store, connections.settings, connections.redis)
    wrong = tuple(one for one in impairments if one.concerns(lanes))
    notes, public = _sentences(wrong), (IMPAIRED,) if wrong else ()
    if processes_only:
        return Blocked(notes, (), bool(wrong), wrong, public_notes=public)
    try:
        check_writable(connections.redis)  # a Redis that is out of memory answers, and yet nothing moves
        found = blocked_reasons(connections, required)
    except redis.RedisError as error:
        unavailable = str(connections.unavailable(error))
        # the same fault without its remedy is among the notes
        others = (note for note in notes if not unavailable.startswith(note))
        return Blocked((unavailable, *others), (), True, wrong, public_notes=(IMPAIRED,))
    of_routes = tuple(one.sentence(named=len(found) > 1) for one in found)
    told = (*notes, *of_routes)
    reasons = dict.fromkeys(reason for one in found for reason in one.reasons)
    return Blocked(
        told,
        tuple(reason for reason in reasons if not any(reason in note for note in told)),
        bool(wrong) or any(one.wrong for one in found),
        wrong,
        public_notes=(*public, *of_routes),
    )


def _sentences(wrong: Sequence[Impairment]) -> tuple[str, ...]:
    """Return the impairments in sentences; one for all processes that have the same impairment."""
    of_each = {one.text.partition(": ")[2] if one.kind == ImpairmentKind.IDLE else one.text: one.text for one in wrong}
    return tuple(text if text.endswith(".") or ": trivet " in text else f"{text}." for text in of_each.values())


def blocked_reasons_of(connections: Connections, job_id: str) -> list[BlockedReason]:
    """Return what blocks jobs like this one now, whether it has ended or not; empty where some route takes them.

    Raises:
        BrokerUnavailable, StoreUnavailable: the shared state or the database does not answer.
    """
    with connections.store.read() as connection:
        required = backlog.requirements_of_job(connection, job_id)
    with connections.requires_redis():
        return blocked_reasons(connections, required)


def blocked_reasons(connections: Connections, required: Sequence[FlowRequirements]) -> list[BlockedReason]:
    """Return what blocks jobs with these requirements, one reason of a kind; jobs that some route takes are left out.

    Raises:
        redis.RedisError: the shared state does not answer. StoreUnavailable.
    """
    candidates = connections.directory.candidates_of({one.model for one in required}) if required else {}
    found = []
    for one in required:
        requirements = Requirements(*one[:5], too_slow=one.too_slow)
        choice = choose(requirements, candidates[one.model], connections.settings.of_class(one.latency))
        reason = blocked_reason_of(requirements, choice, candidates[one.model])
        if reason is not None:
            found.append(reason)
    return merged(found)


def blocked_reason_of(
    requirements: Requirements, choice: Choice, candidates: Sequence[Candidate]
) -> BlockedReason | None:
    """Return what blocks jobs with these requirements; None when a route takes them, or will soon."""
    if choice.routes:
        return None
    reasons = tuple(f"{refusal.route}: {refusal.text}" for refusal in choice.refusals)
    breaker_of = {candidate.name: candidate.breaker for candidate in candidates}

    def held(kind: BlockedKind, text: str, wait_s: float = 0.0) -> BlockedReason:
        return BlockedReason(kind, text, (f"{requirements.latency} {requirements.model}",), reasons, wait_s)

    if not candidates:
        return held(BlockedKind.OUT, "No route is known yet: schedulers and workers make theirs known when they start")
    if choice.hopeless:
        text = f"No route can ever take these jobs ({'; '.join(reasons)})"
        slow = any(candidate.name in requirements.too_slow for candidate in candidates)
        return held(BlockedKind.UNFIT, f"{text}; {_FASTER}" if slow else text)
    limited = [refusal for refusal in choice.refusals if refusal.why is Why.LIMITED]
    if any(breaker_of[refusal.route].cause == FORGOTTEN for refusal in limited):
        return held(BlockedKind.FORGOTTEN, f"Calls are paused: {FORGOTTEN}")
    if limited:
        soonest = min(limited, key=lambda refusal: refusal.wait_s)
        if soonest.wait_s < PASSING_S:
            return None
        return held(
            BlockedKind.THROTTLED,
            f"Throttled, next headroom in {ago(math.ceil(soonest.wait_s))} on {soonest.route}",
            soonest.wait_s,
        )
    shut = [refusal for refusal in choice.refusals if refusal.why is Why.UNFIT and refusal.wait_s > 0]
    if shut:
        soonest = min(shut, key=lambda refusal: refusal.wait_s)
        when = f"in {ago(math.ceil(soonest.wait_s))}" if soonest.wait_s >= PASSING_S else "now"
        return held(BlockedKind.UNHEALTHY, f"No route is healthy, next probe {when} on {soonest.route}", soonest.wait_s)
    said = "; ".join(f"{r.route}: {r.text}" for r in choice.refusals if r.why is not Why.NEVER)
    return held(BlockedKind.OUT, f"No route takes these jobs now ({said})")


def merged(found: Iterable[BlockedReason]) -> list[BlockedReason]:
    """Return one reason of a kind: the one that ends first, for all their jobs; without known ends, one of each text."""
    kept: dict[tuple[BlockedKind, str], BlockedReason] = {}
    for reason in found:
        about = (reason.kind, "" if reason.wait_s else reason.text)
        before = kept.get(about)
        if before is None:
            kept[about] = reason
            continue
        soonest = min(before, reason, key=lambda one: one.wait_s)
        jobs = tuple(dict.fromkeys((*before.jobs, *reason.jobs)))
        kept[about] = replace(soonest, jobs=jobs)
    return list(kept.values())
