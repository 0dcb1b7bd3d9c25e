"""The one table of what follows from the outcome of a call: for its route's health, its permit, its cost and its job."""

from typing import NamedTuple

from trivet_routing.permits import Verdict
from trivet_tasks.outcomes import Outcome, Scope


class OutcomeRules(NamedTuple):
    """What follows from one outcome, whatever the job and the route."""

    verdict: Verdict
    """What it says of the health of the route."""
    final: bool = False
    """No other call of the job could say anything else."""
    tried: bool = True
    """The route is not asked again in this round."""
    may_be_billed: bool = False
    """The provider may have done the work: the cost is an estimate, and the permit is taken to have used all its tokens."""
    of_route: bool = False
    """No request can have brought it about, where the API itself said so: each counts, also of one job in a row."""


RULES: dict[Outcome, OutcomeRules] = {
    Outcome.SUCCEEDED: OutcomeRules(Verdict.GOOD, final=True),
    Outcome.RATE_LIMITED: OutcomeRules(Verdict.LIMITED, tried=False),  # its gate keeps it closed long enough
    Outcome.OVERLOADED: OutcomeRules(Verdict.FAILED, of_route=True),
    Outcome.SERVER_ERROR: OutcomeRules(Verdict.FAILED),
    Outcome.TIMEOUT: OutcomeRules(Verdict.FAILED, may_be_billed=True),
    Outcome.CONNECTION: OutcomeRules(Verdict.FAILED, of_route=True),
    Outcome.INCOMPLETE: OutcomeRules(Verdict.FAILED, may_be_billed=True),
    Outcome.UNUSABLE: OutcomeRules(Verdict.UNUSABLE_MODEL),
    Outcome.PROXY_ERROR: OutcomeRules(Verdict.DOUBTED),
    Outcome.INVALID: OutcomeRules(Verdict.NEUTRAL, final=True),
    Outcome.DOUBTFUL: OutcomeRules(Verdict.NEUTRAL),
    Outcome.CANCELLED: OutcomeRules(Verdict.NEUTRAL, tried=False, may_be_billed=True),
    Outcome.UNKNOWN: OutcomeRules(Verdict.NEUTRAL, may_be_billed=True),
}

_UNUSABLE: dict[Scope | None, Verdict] = {
    Scope.ROUTE: Verdict.UNUSABLE_ROUTE,
    Scope.MODEL: Verdict.UNUSABLE_MODEL,
    Scope.FEATURE: Verdict.NEUTRAL,
}


def verdict_of(outcome: Outcome, scope: Scope | None = None) -> Verdict:
    """Return what an outcome means for the health of its route. `scope` is how far an `unusable` reaches."""
    if outcome is Outcome.UNUSABLE and scope is not None:
        return _UNUSABLE[scope]
    return RULES[outcome].verdict
