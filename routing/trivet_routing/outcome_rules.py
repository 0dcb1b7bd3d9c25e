"""The table of consequences of a call's outcome: for its route's health, its permit, its cost and its job."""

from typing import NamedTuple

from trivet_routing.permits import HealthSignal
from trivet_tasks.outcomes import Outcome, Scope


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
