"""Why waiting jobs do not move, in one sentence: for `trivet routes`, `trivet batch status` and `trivet job show`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from trivet_routing.gate_view import FORGOTTEN
from trivet_routing.route_choice import Candidate, Choice, Needs, Refusal, Why, choose
from trivet_store.reports.backlog import Line
from trivet_tasks.latency import Latency
from trivet_tasks.shared_state import check_writable

if TYPE_CHECKING:
    from trivet.client.connections import Connections

PASSING_S = 1.0
"""Jobs that wait for less than this move at the pace that the limits allow: nothing holds them up."""


class Kind(StrEnum):
    """What holds jobs up."""

    THROTTLED = "throttled"
    """Every route that could take them is limited."""
    UNHEALTHY = "unhealthy"
    """None of the routes that could take them is limited only, and some are open."""
    OUT = "out"
    """The routes that could take them are drained or without a worker."""
    UNFIT = "unfit"
    """No route will ever take them."""
    FORGOTTEN = "forgotten"
    """The shared state lost its memory and is being put back."""


@dataclass(frozen=True, slots=True)
class Holdup:
    """Why jobs wait."""

    kind: Kind
    text: str
    """One sentence without its full stop."""
    jobs: tuple[str, ...]
    """Whom it is about: class and model."""
    reasons: tuple[str, ...]
    """`route: why it takes none of them now`, one per route."""
    wait_s: float = 0.0
    """Until a route may take one of them, where that is known."""

    @property
    def wrong(self) -> bool:
        """Return whether something is wrong; a route that is limited will take the jobs by itself."""
        return self.kind is not Kind.THROTTLED

    def sentence(self, *, named: bool) -> str:
        """The text, with the jobs it is about if they are to be named."""
        return f"{self.text} ({', '.join(self.jobs)})." if named else f"{self.text}."


def holdups(connections: "Connections", lines: Iterable[Line]) -> list[Holdup]:
    """What holds jobs up, one of a kind; jobs that some route takes are left out.

    Raises:
        redis.RedisError: the shared state does not answer. StoreUnavailable.
    """
    lines = list(lines)
    if lines:
        check_writable(connections.redis)  # one without memory answers, and yet nothing moves
    candidates = connections.fleet.candidates_of({line.model for line in lines}) if lines else {}
    found = []
    for line in lines:
        latency = Latency(line.latency)
        needs = Needs(line.model, latency, line.residency, line.compliance, line.features)
        choice = choose(needs, candidates[line.model], connections.settings.of_class(latency))
        holdup = holdup_of(needs, choice, candidates[line.model])
        if holdup is not None:
            found.append(holdup)
    return _merged(found)


def holdup_of(needs: Needs, choice: Choice, candidates: Sequence[Candidate]) -> Holdup | None:
    """What holds up jobs with these needs; None when a route takes them, or will within a moment."""
    if choice.routes:
        return None
    reasons = tuple(f"{refusal.route}: {refusal.text}" for refusal in choice.refusals)
    gate_of = {candidate.name: candidate.gate for candidate in candidates}

    def held(kind: Kind, text: str, wait_s: float = 0.0) -> Holdup:
        return Holdup(kind, text, (f"{needs.latency} {needs.model}",), reasons, wait_s)

    if not candidates:
        return held(Kind.OUT, "No route is known yet: schedulers and workers make theirs known when they start")
    if choice.hopeless:
        return held(Kind.UNFIT, f"No route can ever take these jobs ({'; '.join(reasons)})")
    limited = [refusal for refusal in choice.refusals if refusal.why is Why.LIMITED]
    if any(gate_of[refusal.route].cause == FORGOTTEN for refusal in limited):
        return held(Kind.FORGOTTEN, "Nobody calls now: the shared state lost its memory, and a scheduler is putting limits and health back")  # fmt: skip
    if limited:
        soonest = min(limited, key=lambda refusal: refusal.wait_s)
        if soonest.wait_s < PASSING_S:
            return None
        return held(
            Kind.THROTTLED, f"Throttled, next headroom in {_seconds(soonest)} on {soonest.route}", soonest.wait_s
        )
    shut = [refusal for refusal in choice.refusals if refusal.why is Why.UNFIT and refusal.wait_s > 0]
    if shut:
        soonest = min(shut, key=lambda refusal: refusal.wait_s)
        when = f"in {_seconds(soonest)}" if soonest.wait_s >= PASSING_S else "now"
        return held(Kind.UNHEALTHY, f"No route is healthy, next probe {when} on {soonest.route}", soonest.wait_s)
    said = "; ".join(f"{r.route}: {r.text}" for r in choice.refusals if r.why is not Why.NEVER)
    return held(Kind.OUT, f"No route takes these jobs now ({said})")


def _merged(found: Iterable[Holdup]) -> list[Holdup]:
    """One of a kind: that which ends first, about all their jobs. Where nothing is said to end, one of a text."""
    kept: dict[tuple[Kind, str], Holdup] = {}
    for holdup in found:
        about = (holdup.kind, "" if holdup.wait_s else holdup.text)
        before = kept.get(about)
        if before is None:
            kept[about] = holdup
            continue
        soonest = min(before, holdup, key=lambda one: one.wait_s)
        jobs = tuple(dict.fromkeys((*before.jobs, *holdup.jobs)))
        kept[about] = replace(soonest, jobs=jobs)
    return list(kept.values())


def _seconds(refusal: Refusal) -> str:
    seconds = math.ceil(refusal.wait_s)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"
