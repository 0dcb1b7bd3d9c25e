"""Reasons why waiting jobs do not move, a sentence each."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from trivet_routing.limits import FORGOTTEN
from trivet_routing.route_choice import Candidate, Choice, Refusal, Requirements, Why, choose
from trivet_store.reports.backlog import Line
from trivet_tasks.latency import Latency
from trivet_tasks.shared_state import check_writable

if TYPE_CHECKING:
    from trivet.client.connections import Connections

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


def blocked_reasons(connections: "Connections", lines: Iterable[Line]) -> list[BlockedReason]:
    """Return what blocks jobs with these requirements, one reason of a kind; jobs that some route takes are left out.

    Raises:
        redis.RedisError: the shared state does not answer. StoreUnavailable.
    """
    lines = list(lines)
    if lines:
        check_writable(connections.redis)  # a Redis that is out of memory answers, and yet nothing moves
    candidates = connections.directory.candidates_of({line.model for line in lines}) if lines else {}
    found = []
    for line in lines:
        latency = Latency(line.latency)
        requirements = Requirements(line.model, latency, line.residency, line.compliance, line.features)
        choice = choose(requirements, candidates[line.model], connections.settings.of_class(latency))
        reason = blocked_reason_of(requirements, choice, candidates[line.model])
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
        return held(BlockedKind.UNFIT, f"No route can ever take these jobs ({'; '.join(reasons)})")
    limited = [refusal for refusal in choice.refusals if refusal.why is Why.LIMITED]
    if any(breaker_of[refusal.route].cause == FORGOTTEN for refusal in limited):
        return held(BlockedKind.FORGOTTEN, f"Calls are paused: {FORGOTTEN}")
    if limited:
        soonest = min(limited, key=lambda refusal: refusal.wait_s)
        if soonest.wait_s < PASSING_S:
            return None
        return held(
            BlockedKind.THROTTLED, f"Throttled, next headroom in {_seconds(soonest)} on {soonest.route}", soonest.wait_s
        )
    shut = [refusal for refusal in choice.refusals if refusal.why is Why.UNFIT and refusal.wait_s > 0]
    if shut:
        soonest = min(shut, key=lambda refusal: refusal.wait_s)
        when = f"in {_seconds(soonest)}" if soonest.wait_s >= PASSING_S else "now"
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


def _seconds(refusal: Refusal) -> str:
    seconds = math.ceil(refusal.wait_s)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"
