"""Time that a class gives a job: to each call, and to a round. It follows `max_tokens`, the prompt and the model's usual pace.

An explicit `attempt_timeout_s` or `budget_s` of a class is a cap. Requests that do not fit under one are named at submit, by
`trivet plan`, and in the error of a call that ran out of time.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from trivet_tasks.catalog import MODELS, Model, known
from trivet_tasks.latency import ClassSettings, Latency

MARGIN = 1.5
"""Factor on the usual time of an answer: providers are slower at busy hours."""
RELIABLE_TOKENS_PER_S = 40.0
"""Pace in output tokens a second that a limit relies on at most: quick models are the ones whose pace falls furthest."""
FIRST_TOKEN_S = 10.0
"""Seconds for the first token of a short prompt."""
PROMPT_TOKENS_PER_S = 4_000.0
"""Pace in tokens a second at which a long prompt is read; rough, and slower than published figures."""
PRESET = frozenset({Latency.REALTIME, Latency.INTERACTIVE})
"""Classes whose budget bounds a job even if it is the default: somebody waits."""
_SLOWEST_TOKENS_PER_S = min(model.output_tokens_per_s for model in MODELS)


class CallTime(NamedTuple):
    """Time of one job, in seconds, before its deadline cuts it."""

    attempt_s: float
    """Limit of one call; of a realtime call without one of its own, half the budget."""
    budget_s: float
    """Latency budget of a round."""
    pace: float = 1.0
    """Pace of answers that the limits rely on, as a multiple of the usual one."""


def usual_s(model: Model | None, tokens: float, pace: float = 1.0) -> float:
    """Return the seconds that an answer of this length takes at this multiple of the model's usual pace; rough."""
    return tokens / (model.output_tokens_per_s if model else _SLOWEST_TOKENS_PER_S) / pace


def enough_s(model: Model | None, max_tokens: int, input_tokens: int = 0) -> float:
    """Return the seconds within which an answer of `max_tokens` comes, first token and margin included.

    Example: 4,096 tokens of Claude Sonnet 5.5 take 74 s at its usual pace; 122 s are enough.
    """
    pace = min(RELIABLE_TOKENS_PER_S, (model.output_tokens_per_s if model else _SLOWEST_TOKENS_PER_S) / MARGIN)
    return FIRST_TOKEN_S + input_tokens / PROMPT_TOKENS_PER_S + max_tokens / pace


class Sized(Protocol):
    """A job, as far as its size goes. Counts are tokens."""

    @property
    def input_estimate(self) -> int:
        """Length of its prompt."""

    @property
    def max_tokens(self) -> int:
        """Maximum length of its answer."""


def call_time(classes: Mapping[Latency, ClassSettings], latency: Latency, model: str, job: Sized) -> CallTime:
    """Return the time of a job: what its answer needs, at least its class's figures, at most the explicit ones.

    Args:
        classes: settings of each class.
        model: first-party id; an unknown model counts as one of the slowest.
    """
    terms = classes[latency]
    # without a timeout of its own half the budget: the rest is for another route
    attempt_s = terms.attempt_timeout_s or terms.budget_s / 2
    if latency is not Latency.REALTIME and not _is_capped(terms):
        attempt_s = max(attempt_s, enough_s(known(model), job.max_tokens, job.input_estimate) / terms.pace)
    if latency in PRESET or "budget_s" in terms.model_fields_set:
        return CallTime(min(attempt_s, terms.budget_s), terms.budget_s, terms.pace)
    return CallTime(attempt_s, max(terms.budget_s, 2 * attempt_s), terms.pace)


def longest_call_s(classes: Mapping[Latency, ClassSettings], latency: Latency, model: str, job: Sized) -> float:
    """Return the limit of a job's longest call in seconds, for what must outlive it, such as its permit.

    A realtime call for which no other route is left gets what is left of the budget.
    """
    allowed = call_time(classes, latency, model, job)
    whole = latency is Latency.REALTIME and classes[latency].attempt_timeout_s is None
    return allowed.budget_s if whole else allowed.attempt_s


def too_short_text(
    model: Model | None, latency: Latency, max_tokens: int, classes: Mapping[Latency, ClassSettings]
) -> str | None:
    """Return why `max_tokens` cannot come in the class's time at the model's usual pace, and the cure; None where they can.

    Args:
        model: None: unknown, and so its pace.
    """
    if model is None:
        return None
    seconds = usual_s(model, max_tokens, classes[latency].pace)
    most_s, setting = _longest_call(latency, classes[latency])
    if seconds <= most_s:
        return None
    slower = list(Latency)[list(Latency).index(latency) + 1 :]
    fitting = next((one for one in slower if seconds <= _longest_call(one, classes[one])[0]), None)
    cure = f"use latency {fitting}" if fitting else f"raise [classes.{latency}] {setting}"
    return (
        f"max_tokens: {max_tokens:,} tokens take about {seconds:,.0f} s with {model.id}, but a call of class {latency} "
        f"ends after {most_s:g} s; {cure}, or at most {int(most_s * model.output_tokens_per_s * classes[latency].pace):,} max_tokens."
    )


def short_deadline_text(model: Model | None, max_tokens: int, left_s: float, pace: float = 1.0) -> str | None:
    """Return why `max_tokens` cannot come before a job's own deadline at the model's usual pace; None where they can.

    Args:
        model: None: unknown, and so its pace.
        left_s: seconds from the moment at which the job may begin to its deadline.
        pace: multiple of the usual pace.

    Example: 4,096 tokens of Claude Sonnet 5.5 do not come within 30 s.
    """
    if model is None or (needed_s := usual_s(model, max_tokens, pace)) <= left_s:
        return None
    return (
        f"deadline: {max_tokens:,} tokens take about {needed_s:,.0f} s with {model.id}, but the job's deadline leaves "
        f"{left_s:,.0f} s; give it more time, or at most {int(left_s * model.output_tokens_per_s * pace):,} max_tokens."
    )


def _is_capped(terms: ClassSettings) -> bool:
    return terms.attempt_timeout_s is not None and "attempt_timeout_s" in terms.model_fields_set


def _longest_call(latency: Latency, terms: ClassSettings) -> tuple[float, str]:
    """Return the limit of a class's longest call in seconds, and the setting that it follows from."""
    limits = [(terms.deadline_s, "deadline_s")]
    if latency is Latency.REALTIME or _is_capped(terms):
        limits.append((terms.attempt_timeout_s, "attempt_timeout_s"))
    if latency in PRESET or "budget_s" in terms.model_fields_set:
        limits.append((terms.budget_s, "budget_s"))
    return min(((most, name) for most, name in limits if most is not None), default=(float("inf"), ""))
