"""How long one call may take."""

from trivet_tasks.latency import ClassSettings, Latency

FALLBACK_RESERVE_S = 1.0
"""What realtime keeps back for one fallback while nothing is known of its speed."""


def attempt_timeout_s(
    latency: Latency,
    terms: ClassSettings,
    *,
    spent_s: float,
    deadline_at: float | None,
    now: float,
    reserve_s: float,
) -> float:
    """The wall clock of the next call, in seconds; 0 or less when there is no time left for one.

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
    """Whether a call had at least half of what its class gives one: only then running out of time says something."""
    return timeout_s >= (terms.attempt_timeout_s or terms.budget_s / 2) / 2
