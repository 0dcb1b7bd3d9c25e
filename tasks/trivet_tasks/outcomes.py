"""The end of a provider call: its outcome, with the one table of rules, and its usage. States of jobs are in `states.JobState`.

The rules that classify a provider's error are in `trivet_worker.adapters.error_rules`; the next step of a job is decided by
`trivet_routing.retry_policy`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

CATEGORY_UNNAMED = "unnamed"
"""Category of a refusal for which the provider gives null."""
CATEGORY_UNKNOWN = "unknown"
"""Category of a refusal for which the answer names none."""


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


OutcomeName: TypeAlias = Literal[
    "succeeded", "rate_limited", "overloaded", "server_error", "timeout", "connection", "incomplete", "unusable",
    "proxy_error", "invalid", "ambiguous", "cancelled", "unknown",
]  # fmt: skip
"""Name of an outcome, as people read it."""


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
    """The route refused a request for an unknown reason, and another provider served it."""
    DOUBTED = "doubted"
    """A proxy's page came instead of an answer: when this happens to several jobs in a row, a probe decides."""
    CHECK = "check"
    """A proxy's page came to a job that met one before: a probe decides at once whether job or route is at fault."""
    UNREACHABLE = "unreachable"
    """A probe met a proxy's page: the whole route is closed until a later probe gets through."""
    LOCAL_FAILED = "local_failed"
    """The call did not reach the provider: it counts as failed once another worker's calls fail so, too."""
    LOCAL_REFUSED = "local_refused"
    """The provider refused the worker's key: closes the whole route once another worker's is refused, too."""
    SHORT = "short"
    """The time was too short for what was asked: it counts against the route only when many end so and none succeeds."""
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
    # not tried: the rate limiter keeps the route from being called
    Outcome.RATE_LIMITED: OutcomeRules(HealthSignal.LIMITED, tried=False),
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


@dataclass(frozen=True, slots=True)
class UsagePart:
    """One pass of a call that had several: an entry of `usage.iterations`. All counts are tokens."""

    kind: str
    """The provider's word: `message`, `compaction`, `advisor_message`, `fallback_message` or one yet to come."""
    model: str | None = None
    """The model that ran, as the provider names it; None: the one that answered."""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    refused: str | None = None
    """See `Usage.refused`; of this pass alone."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of a call as its provider states it. All counts are tokens unless named otherwise.

    `input_tokens` excludes what was read from or written to the prompt cache, as in the Messages API.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    web_searches: int = 0
    """Server-side searches, counted per request rather than per token."""
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    model: str | None = None
    """The model that answered, as the answer names it; None: it did not say."""
    refused: str | None = None
    """Set where the model refused before any output: the category, or `CATEGORY_UNNAMED`, or `CATEGORY_UNKNOWN`."""
    doubt: str | None = None
    """Reason for which these counts may not be what is billed; None: no reason to think so."""
    parts: tuple[UsagePart, ...] = ()
    """The passes whose sums the counts are, where there was more than one or another model took part."""

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, cached or not: what long-prompt price tiers are reckoned by, pass by pass."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens
