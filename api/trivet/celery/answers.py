"""Values that a `generate` task returns: the answer of a job, or those of a batch, or the exception in their place."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

from trivet.celery.failures import JobFailed
from trivet.client.jobs import Batch
from trivet.client.result import Result
from trivet_tasks.errors import InvalidRequest, ResultTimeout
from trivet_tasks.outcomes import RULES, Outcome
from trivet_tasks.states import JobState

Returns: TypeAlias = Literal["text", "message", "result"]
"""Form of an answer: its text, the message of the Messages API, or a dict with cost and route."""
Failed: TypeAlias = Literal["raise", "none"]
"""Treatment of a batch with failed requests: an exception, or None in their places."""
_MAY_GO_BETTER = frozenset(
    outcome.value
    for outcome, rules in RULES.items()
    if not rules.final and outcome not in (Outcome.AMBIGUOUS, Outcome.CANCELLED, Outcome.UNKNOWN)
)
"""Outcomes after which another try of the same request makes sense: the route was the cause, not the request."""


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise InvalidRequest where an option of `generate` is none of its choices, a Literal."""
    if value not in get_args(choices):
        known = ", ".join(repr(choice) for choice in get_args(choices))
        raise InvalidRequest(f"{name}: must be one of {known}.", field=name)


def answer_of(result: Result, returns: Returns) -> Any:
    """Return the answer of a job that succeeded, in a form that JSON can hold.

    Raises:
        JobFailed: the job did not succeed, or its answer was deleted.
    """
    if not result.succeeded:
        said = result.error.message if result.error else "The job has no answer any more: `trivet db prune` deleted it."
        raise JobFailed(result.id, said, result.error.outcome if result.error else None)
    if returns == "message":
        return result.message
    if returns == "text":
        return result.text
    return {
        "job": result.id,
        "text": result.text,
        "stop_reason": result.stop_reason,
        "usage": result.usage,
        "cost_usd": str(result.cost_usd),
        "route": result.route,
        "model": result.model_used,
        "attempts": len(result.attempts),
        "cached": result.cached,
    }


def may_go_better(result: Result) -> bool:
    """Return whether a job failed for a reason that another run may not meet.

    False of a bad request, of an expired or cancelled job, and of one that ended because processes died with it.
    """
    failed = result.status == JobState.FAILED.value and result.error is not None
    return failed and result.error is not None and result.error.outcome in _MAY_GO_BETTER


def answers_of(batch: Batch, returns: Returns, failed: Failed) -> list[Any]:
    """Return the answers of a batch that has ended, in the order of its requests.

    Raises:
        JobFailed: requests have no answer, and `failed` is "raise". Gives their number, and the reason of the first.
    """
    answers: dict[int, Any] = {}
    reasons: dict[int, JobFailed] = {}
    for place, result in _by_place(batch.ended()):
        try:
            answers[place] = answer_of(result, returns)
        except JobFailed as error:
            reasons[place] = error
    if len(answers) + len(reasons) < batch.progress().total:
        raise ResultTimeout(f"Some requests of the batch {batch.name!r} run again.")
    if reasons and failed == "raise":
        first = reasons[min(reasons)]
        total = len(answers) + len(reasons)
        raise JobFailed(
            batch.name,
            f"{len(reasons)} of the {total} requests of the batch {batch.name!r} have no answer. The first of them, "
            f"number {min(reasons)}: {first.message}",
            first.outcome,
        )
    return [answers.get(place) for place in range(max([*answers, *reasons], default=-1) + 1)]


def _by_place(results: Iterable[Result]) -> Iterable[tuple[int, Result]]:
    return ((result.index if result.index is not None else place, result) for place, result in enumerate(results))
