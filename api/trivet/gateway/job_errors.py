"""Answers for jobs that ended without a message: the one table from outcomes and end states to HTTP statuses."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from trivet.client.blocked import BlockedKind, BlockedReason
from trivet.client.result import Result
from trivet.gateway.errors import ApiError
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

RETRY_AFTER_S = 5
"""Seconds that a client is told to wait where nobody knows when a route takes calls again."""
MAX_RETRY_AFTER_S = 600


class Answered(NamedTuple):
    """The status of an answer, and whether the same request is worth repeating soon."""

    status: int
    again: bool = False


OF_OUTCOME: dict[Outcome, Answered] = {
    Outcome.SUCCEEDED: Answered(200),
    Outcome.RATE_LIMITED: Answered(429, again=True),
    Outcome.OVERLOADED: Answered(529, again=True),
    Outcome.SERVER_ERROR: Answered(529),
    Outcome.TIMEOUT: Answered(504),
    Outcome.CONNECTION: Answered(529),
    Outcome.INCOMPLETE: Answered(500),
    Outcome.UNUSABLE: Answered(529),
    Outcome.PROXY_ERROR: Answered(529),
    Outcome.INVALID: Answered(400),
    Outcome.AMBIGUOUS: Answered(400),
    Outcome.CANCELLED: Answered(409),
    Outcome.UNKNOWN: Answered(500),
}
"""Answer for a job that failed, by its last outcome. Trivet has asked every route by then, most of them more than once:
a client that repeats at once helps nobody, other than where the routes are only limited."""

OF_STATE: dict[JobState, Answered] = {
    JobState.SUCCEEDED: Answered(404),
    JobState.FAILED: Answered(500),
    JobState.EXPIRED: Answered(504),
    JobState.CANCELLED: Answered(409),
}
"""Answer for a job without a message, by its end state, where no outcome decides. One that succeeded was pruned."""

OF_BLOCKED: dict[BlockedKind, Answered] = {
    BlockedKind.THROTTLED: Answered(429, again=True),
    BlockedKind.UNHEALTHY: Answered(529, again=True),
    BlockedKind.OUT: Answered(529),
    BlockedKind.UNFIT: Answered(400),
    BlockedKind.FORGOTTEN: Answered(529, again=True),
}
"""Answer for a job that expired, by what blocks jobs like it."""


def answer_for(result: Result, blocked: Sequence[BlockedReason] = ()) -> ApiError:
    """Return the answer for a job that ended without a message.

    Args:
        blocked: what blocks jobs like it now; of jobs that expired or were limited.

    Example:
        raise answer_for(result, blocked)
    """
    state = JobState(result.status)
    outcome = None if result.error is None or result.error.outcome is None else Outcome(result.error.outcome)
    words = [result.error.message if result.error is not None else "Its result was pruned."]
    rule = OF_STATE[state]
    reason = blocked[0] if blocked else None
    if state is JobState.FAILED and outcome is not None:
        rule = OF_OUTCOME[outcome]
    elif state is JobState.EXPIRED:
        if outcome is Outcome.RATE_LIMITED:
            rule = OF_OUTCOME[outcome]
        elif reason is not None:
            rule = OF_BLOCKED[reason.kind]
        words += [one.sentence(named=False) for one in blocked]
        words += [f"{'; '.join(one.reasons)}." for one in blocked if one.reasons]
    return ApiError(rule.status, " ".join(words), retry_headers(rule, reason.wait_s if reason else 0.0))


def rule_of(outcome: str) -> Answered:
    """Return the answer for a stream that ended without a result, by an outcome, or by the state of its job."""
    by_word = {
        **{str(one): rule for one, rule in OF_STATE.items()},
        **{str(one): rule for one, rule in OF_OUTCOME.items()},
    }
    return by_word.get(outcome, OF_STATE[JobState.FAILED])


def needs_reasons(result: Result) -> bool:
    """Return whether `answer_for` should be told what blocks jobs like this one."""
    limited = result.error is not None and result.error.outcome == Outcome.RATE_LIMITED.value
    return limited or result.status == JobState.EXPIRED.value


def retry_headers(rule: Answered, wait_s: float = 0.0) -> dict[str, str]:
    """Return the headers that tell a client whether and when to repeat; official clients obey them.

    Args:
        wait_s: seconds until a route takes calls again; 0: not known.
    """
    if not rule.again:
        return {"x-should-retry": "false"}
    seconds = min(MAX_RETRY_AFTER_S, math.ceil(wait_s) if wait_s > 0 else RETRY_AFTER_S)
    return {"x-should-retry": "true", "retry-after": str(max(1, seconds))}
