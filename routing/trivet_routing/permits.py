"""Requests to the limits and their answers: values, no behaviour."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.jobs import Permit
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.states import SHUT_STATES, RouteState


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a route's account for a model or a group of models together. Figures are per minute, 0 = no limit."""

    group: str
    """The owner of these limits: the model's own id, or the name of its group."""
    requests: float
    input_tokens: float
    output_tokens: float
    output_factor: float
    """Tokens of quota that one output token uses."""
    max_concurrency: int

    @classmethod
    def of(cls, route: RouteSettings, model: str) -> "Quota":
        """Return the figures that hold for a model on a route."""
        group = route.group_of(model)
        figures = group or route
        return cls(
            group.name if group else model,
            figures.requests_per_minute or 0,
            figures.input_tokens_per_minute or 0,
            figures.output_tokens_per_minute or 0,
            route.output_token_factor,
            figures.max_concurrency or route.max_concurrency,
        )


class PermitRequest(NamedTuple):
    """A call that asks for a permit, with the maximum number of tokens it may use."""

    id: str
    """The permit's, if it is granted (`trivet_tasks.jobs.permit_id`)."""
    input_tokens: int
    output_tokens: int


class PermitGrant(NamedTuple):
    """The answer: permits for the first of the calls; the next may fit after `wait_s`."""

    permits: tuple[Permit, ...]
    wait_s: float
    reason: "Denial | None"
    """None where all of them may go."""
    p95_s: float | None = None
    """Seconds within which 95 % of the recent calls of their class ended there. None: not known."""

    @property
    def granted(self) -> int:
        """Number of calls that may go."""
        return len(self.permits)


class Denial(StrEnum):
    """Reason for which a call gets no permit now (`lua/take.lua`)."""

    LIMITED = "limited"
    """Pause that the route's provider asked for."""
    OPEN = "open"
    PROBING = "probing"
    CONCURRENCY = "concurrency"
    """All the calls that the route may have are in flight."""
    REQUESTS = "requests"
    """The minute's requests are used up; the next two likewise."""
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    FORGOTTEN = "forgotten"
    """The shared state lost its memory."""


class Stated(NamedTuple):
    """One of an account's limits as its provider states it: per minute, and the rest of it. None: not stated."""

    limit: int | None = None
    remaining: int | None = None


NO_PERMIT = Permit("", 0, 0)
"""Permit in a report of something that took none."""


class PermitRelease(NamedTuple):
    """A permit to be released, with the health signal of its call."""

    permit: Permit
    used_input: int
    used_output: int
    signal: HealthSignal
    cause: str = ""
    pause_s: float = 0.0
    """Seconds that a limited call was told to wait; 0 = not told."""
    took_s: float = 0.0
    """Seconds that the call took, where that says something of the route; else 0."""
    stated: tuple[Stated, Stated, Stated] | None = None
    """The provider's own limits: requests, input tokens, output tokens."""
    job: str = ""
    """The job it was made for: repeated failures of one job count once in a row. Empty: a job of its own."""
    lasted_s: float = 0.0
    """Seconds since the call began: a good one proves that the route answered since then."""
    late: bool = False
    """True if it ran out of time."""


class Change(NamedTuple):
    """A breaker or a rate limiter that changed. `model` is `*` for the whole route, the group's name where limits are meant."""

    route: str
    model: str
    state: RouteState
    cause: str
    seconds: float
    """Until the next try."""
    share: float
    """The share of its work that a recovering route gets."""


class Health(NamedTuple):
    """A breaker's health, regardless of the limits."""

    state: RouteState
    """One of `BREAKER_STATES`."""
    cause: str
    wait_s: float
    """Until the next probe is due."""
    share: float


class RouteUse(NamedTuple):
    """Times of a route's last call and last answer, in seconds ago; None: never, as far as the shared state knows."""

    idle_s: float | None = None
    """Since a call to it began or ended."""
    proven_s: float | None = None
    """Since the newest call began that it answered, a job's or a probe's."""


class Pace(NamedTuple):
    """Recent durations of the calls of one latency class, in seconds."""

    p50_s: float
    p95_s: float
    calls: int
    age_s: float
    """Since the last of them."""
    late: int = 0
    """Number of them that ran out of time."""


@dataclass(frozen=True, slots=True)
class BreakerView:
    """The state of a (route, model) a moment ago."""

    state: RouteState
    """One of `BREAKER_STATES`, or `limited`."""
    cause: str
    wait_s: float
    """Until the next call may be made; 0 = now."""
    in_flight: int
    places: int
    """Maximum calls in flight: the configured number, or fewer while it recovers or was found to bear no more."""
    headroom: float
    """Calls that the minute limits allow now, a burst at most; infinite where nothing limits."""
    input_headroom: float
    """Input tokens, likewise."""
    output_headroom: float
    """Output tokens, likewise, as the job counts them (the route's factor is taken out)."""
    rates: tuple[float, float, float]
    """Requests, input tokens and output tokens that become free per second; infinite where nothing limits."""
    calls: int
    """Calls within the window of the failed share."""
    failed: int
    """The failed ones among these calls."""
    share: float
    """The share of its work that it gets; 1 unless it recovers."""
    since: float | None
    """Start of the state, on the clock of the shared state."""
    paces: dict[Latency, Pace]
    """Paces by latency class, where anything is known."""
    doubt: str = ""
    """The reason for asking a probe whether it still answers; empty = there is none."""
    proven_s: float = math.inf
    """Seconds since the newest call that it answered was begun; infinite where none is known."""
    generation: str = "0.0"
    """Generation of its breakers, as permits carry it: changes whenever a breaker opens, recovers or closes."""

    @property
    def shut(self) -> bool:
        """True if only a probe may call."""
        return self.state in SHUT_STATES

    def pace(self, latency: Latency) -> Pace | None:
        """Return the pace of the class, or the quickest known of the others; None where nothing is known."""
        if latency in self.paces:
            return self.paces[latency]
        return min(self.paces.values(), default=None)
