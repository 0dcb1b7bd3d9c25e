"""Time limit of one call."""

from collections.abc import Sequence

from trivet_routing.route_choice import Candidate
from trivet_tasks.latency import ClassSettings, Latency

LEAST_S = 0.05
"""Minimum time of a call: with less it ends before its provider can answer, and is not worth its cost."""
FALLBACK_RESERVE_S = 1.0
"""Time that realtime keeps back for one fallback while nothing is known of its speed."""
HANDOVER_S = 0.5
"""Time to write a failure down and to hand the job to another worker: 0.05 s, and ten times that on a busy
machine."""


def fallback_reserve_s(fallbacks: Sequence[Candidate]) -> float:
    """Return the time that the quickest of these routes needs for a realtime call, in seconds; 0 when there is none."""
    paces = [route.breaker.pace(Latency.REALTIME) for route in fallbacks]
    return min((HANDOVER_S + pace.p95_s if pace else FALLBACK_RESERVE_S for pace in paces), default=0.0)


def attempt_timeout_s(
    latency: Latency,
    terms: ClassSettings,
    *,
    spent_s: float,
    deadline_at: float | None,
    now: float,
    reserve_s: float,
) -> float:
    """Return the time limit of the next call, in seconds; 0 or less when no time is left for one.

    Args:
        spent_s: what the round has used of its budget.
        reserve_s: what the quickest route that could still take the job would need; 0 = there is none.
    """
    left = terms.budget_s - spent_s
    if deadline_at is not None:
        left = min(left, deadline_at - now)
    if latency is Latency.REALTIME and terms.attempt_timeout_s is None:
        return left - min(reserve_s, left / 2)
    # a class that names no timeout leaves time for another route: half its budget
    return min(left, terms.attempt_timeout_s or terms.budget_s / 2)


def is_full_time(timeout_s: float, terms: ClassSettings) -> bool:
    """Return whether a call had at least half of its class's time: only then does a timeout count."""
    return timeout_s >= (terms.attempt_timeout_s or terms.budget_s / 2) / 2
