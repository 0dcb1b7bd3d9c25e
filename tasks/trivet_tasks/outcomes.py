"""Outcomes of a provider call, without their rules. States of jobs are in `states.JobState`.

The rules that classify a provider's error are in `trivet_worker.adapters.error_rules`; what follows from an outcome is
`trivet_routing.outcome_rules`, and what becomes of a job `trivet_routing.retry_policy`.
"""

from enum import StrEnum


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
