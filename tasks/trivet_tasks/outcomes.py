"""Outcomes of a provider call, and the one table of their rules. States of jobs are in `states.JobState`.

The rules that classify a provider's error are in `trivet_worker.adapters.error_rules`; the next step of a job is decided by
`trivet_routing.retry_policy`.
"""

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """Outcome of one provider call."""

    SUCCEEDED = "succeeded"
    """A whole message, whatever its stop reason."""
    RATE_LIMITED = "rate_limited"
    """The account's limits were reached; the route is closed until the time that the provider named, its health untouched."""
    OVERLOADED = "overloaded"
    """The provider is short of capacity (529, 503, model not ready)."""
    SERVER_ERROR = "server_error"
    """The provider failed (500, 502, 504, model error), or sent an unknown error."""
    TIMEOUT = "timeout"
    """The time limit of the call fired, or the provider gave up waiting for its model."""
    CONNECTION = "connection"
    """Refused, reset, no such host, TLS."""
    INCOMPLETE = "incomplete"
    """A 200 that is not a whole message: cut, garbled, empty, without a stop reason."""
    UNUSABLE = "unusable"
    """The account or the model is not available here: key, permission, money, unknown model."""
    PROXY_ERROR = "proxy_error"
    """A proxy, firewall or gateway on the way answered instead of the API: it proves nothing about key or request."""
    INVALID = "invalid"
    """The request's own fault; no route would take it."""
    AMBIGUOUS = "ambiguous"
    """A 400 whose reason is not known: one other provider is asked."""
    CANCELLED = "cancelled"
    """The call was dropped on our side: the job was cancelled or the worker shut down."""
    UNKNOWN = "unknown"
    """The worker died between the call and its record: the outcome is not known."""


class Scope(StrEnum):
    """Reach of an `unusable`."""

    ROUTE = "route"
    """The account, the project or the key: every model of the route."""
    MODEL = "model"
    """One model."""
    FEATURE = "feature"
    """Parts of this request beside its model."""


class HealthSignal(StrEnum):
    """The meaning of a call's outcome for its route."""

    GOOD = "good"
    FAILED = "failed"
    LIMITED = "limited"
    UNUSABLE_MODEL = "unusable_model"
    UNUSABLE_ROUTE = "unusable_route"
    CONTRADICTED = "contradicted"
    """It refused a request for a reason nobody knew, and another provider served it."""
    DOUBTED = "doubted"
    """A proxy's page came instead of an answer: when this happens to several jobs in a row, a probe decides."""
    CHECK = "check"
    """Likewise, to a job that met such a page before: a probe decides at once whether job or route is at fault."""
    UNREACHABLE = "unreachable"
    """A probe met a proxy's page: the whole route is closed until a later probe gets through."""
    LOCAL_FAILED = "local_failed"
    """It did not reach the provider: it counts as failed once another worker's calls fail so, too."""
    LOCAL_REFUSED = "local_refused"
    """The provider refused the worker's key: closes the whole route once another worker's is refused, too."""
    SHORT = "short"
    """It ran out of a time too short for what was asked: held against the route only when many do and none succeeds."""
    NEUTRAL = "neutral"
    UNUSED = "unused"
    """No call was made."""


class OutcomeRules(NamedTuple):
    """The consequences of one outcome, whatever the job and the route."""

    signal: HealthSignal
    """The health signal for its route."""
    final: bool = False
    """No other call of the job could have another outcome."""
    tried: bool = True
    """The route is not asked again in this round."""
    may_be_billed: bool = False
    """The provider may have done the work: the cost is an estimate, and the permit is taken to have used all its tokens."""
    of_route: bool = False
    """Caused by the route, never by a request, where the API itself said so: each counts, also of one job in a row."""


RULES: dict[Outcome, OutcomeRules] = {
    Outcome.SUCCEEDED: OutcomeRules(HealthSignal.GOOD, final=True),
    Outcome.RATE_LIMITED: OutcomeRules(
        HealthSignal.LIMITED, tried=False
    ),  # the rate limiter keeps the route from being called
    Outcome.OVERLOADED: OutcomeRules(HealthSignal.FAILED, of_route=True),
    Outcome.SERVER_ERROR: OutcomeRules(HealthSignal.FAILED),
    Outcome.TIMEOUT: OutcomeRules(HealthSignal.FAILED, may_be_billed=True),
    Outcome.CONNECTION: OutcomeRules(HealthSignal.FAILED, of_route=True),
    Outcome.INCOMPLETE: OutcomeRules(HealthSignal.FAILED, may_be_billed=True),
    Outcome.UNUSABLE: OutcomeRules(HealthSignal.UNUSABLE_MODEL),
    Outcome.PROXY_ERROR: OutcomeRules(HealthSignal.DOUBTED),
    Outcome.INVALID: OutcomeRules(HealthSignal.NEUTRAL, final=True),
    Outcome.AMBIGUOUS: OutcomeRules(HealthSignal.NEUTRAL),
    Outcome.CANCELLED: OutcomeRules(HealthSignal.NEUTRAL, tried=False, may_be_billed=True),
    Outcome.UNKNOWN: OutcomeRules(HealthSignal.NEUTRAL, may_be_billed=True),
}

_UNUSABLE: dict[Scope | None, HealthSignal] = {
    Scope.ROUTE: HealthSignal.UNUSABLE_ROUTE,
    Scope.MODEL: HealthSignal.UNUSABLE_MODEL,
    Scope.FEATURE: HealthSignal.NEUTRAL,
}


def signal_of(outcome: Outcome, scope: Scope | None = None) -> HealthSignal:
    """Return what an outcome means for the health of its route. `scope` is how far an `unusable` reaches."""
    if outcome is Outcome.UNUSABLE and scope is not None:
        return _UNUSABLE[scope]
    return RULES[outcome].signal
