"""Every state that a job, a batch, a budget or a route can be in, in the words of SQL, Lua, the command line and JSON.

A state that a row or a reply carries may be plain text of the same value: states are compared with `==`, never with `is`.
"""

from difflib import get_close_matches
from enum import StrEnum
from typing import Literal, TypeAlias, cast

from trivet_tasks.errors import InvalidRequest


class JobState(StrEnum):
    """State of a job (`jobs.state`)."""

    WAITING = "waiting"
    """Waits for a route that has room."""
    DELAYED = "delayed"
    """Waits for its `not_before`: its start, or the end of a backoff."""
    COALESCED = "coalesced"
    """Waits for the answer to an equal request that is being made."""
    DISPATCHED = "dispatched"
    """Stands in the queue of a route."""
    RUNNING = "running"
    """Runs in a worker."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


EndStateName: TypeAlias = Literal["succeeded", "failed", "expired", "cancelled"]
"""Name of a state in which a job has ended, as people read it."""
JobStateName: TypeAlias = Literal["waiting", "delayed", "coalesced", "dispatched", "running"] | EndStateName
"""Name of any state of a job."""


def name_of_end(state: JobState) -> EndStateName:
    """Return the name of a state in which a job has ended. ValueError for any other state."""
    if state not in END_STATES:
        raise ValueError(f"a job that is {state.value} has not ended")
    return cast("EndStateName", state.value)


def read_job_state(text: str) -> JobState:
    """Return the state of this name.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        return JobState(text)
    except ValueError:
        near = get_close_matches(text, list(JobState), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(JobState)}."
        raise InvalidRequest(f"state: {text!r} is not a state of a job.", field="state", hint=hint) from None


END_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED})
"""The four ways a job can end. Once in one of them a job never leaves it, other than by `batch retry`."""
OUTSTANDING_STATES = frozenset({JobState.DISPATCHED, JobState.RUNNING})
"""States in which a route has the job."""
BACKLOG_STATES = frozenset({JobState.WAITING, JobState.DELAYED, JobState.COALESCED})
"""States in which no route has the job yet."""


class BatchState(StrEnum):
    """State of a batch (`batches.state`)."""

    LOADING = "loading"
    """Requests are being read; nothing of it runs."""
    INCOMPLETE = "incomplete"
    """Reading stopped at an error; nothing of it runs until it is resumed or accepted as it is."""
    OPEN = "open"
    """All requests were read; its jobs run, or have ended."""
    CANCELLED = "cancelled"
    DISCARDING = "discarding"
    """It is being deleted with its jobs, none of which ever ran; some of them are gone."""


class BudgetState(StrEnum):
    """State of a budget in its window (`budgets.state`)."""

    OK = "ok"
    WARNED = "warned"
    HOLDING = "holding"
    """Used up: its jobs wait."""


class CallbackState(StrEnum):
    """State of a callback of a job or a batch."""

    WAITING = "waiting"
    """Its job or batch goes on."""
    DUE = "due"
    """Its job has ended; the application's broker has not taken it yet."""
    SENT = "sent"
    """The broker has taken it."""
    CONFIRMED = "confirmed"
    """Its task has run to the end."""


class RunState(StrEnum):
    """State of a run of a schedule."""

    WAITING = "waiting"
    """No scheduler does it, or it is tried again later."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """Its entry was removed, or has other work, before it was done."""


class RouteState(StrEnum):
    """State of a (route, model), or of a whole route."""

    HEALTHY = "healthy"
    OPEN = "open"
    """Circuit breaker open: only a probe may call."""
    PROBING = "probing"
    """Circuit breaker open, and the last probe was good."""
    RECOVERING = "recovering"
    """Gets a share of its work."""
    LIMITED = "limited"
    """Waits: its provider asked for a pause, or its limits are used up."""
    UNPROVEN = "unproven"
    """Shown only: nothing is known against it and it has not answered a call yet. It takes work."""
    UNKNOWN = "unknown"
    """Shown only: the shared state does not answer."""
    UNSERVED = "unserved"
    """Shown only: no living worker serves it."""
    UNSCHEDULED = "unscheduled"
    """Shown only: no living scheduler dispatches to it."""
    DRAINED = "drained"
    """Shown only: taken out of service by an operator."""


BREAKER_STATES = frozenset({RouteState.HEALTHY, RouteState.OPEN, RouteState.PROBING, RouteState.RECOVERING})
"""States of a circuit breaker (`lua/release.lua`, `route_health.state`)."""
SHUT_STATES = frozenset({RouteState.OPEN, RouteState.PROBING})
"""States of a circuit breaker in which only a probe may call."""


class AttemptPurpose(StrEnum):
    """Purpose of a provider call (`attempts.purpose`)."""

    JOB = "job"
    PROBE = "probe"
    HEDGE = "hedge"
    """A second call of a job whose first one is slow."""


class KeyState(StrEnum):
    """State of a key of the HTTP gateway. The first two work."""

    ACTIVE = "active"
    REPLACED = "replaced"
    """Rotated: it works until its grace is over."""
    EXPIRED = "expired"
    REVOKED = "revoked"
