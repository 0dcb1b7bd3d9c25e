"""A job in a worker's hands, from its claim to the transition that ends its call: values, no SQL."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from trivet_tasks.jobs import Permit, ProxyError
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.requests.prompt_cache import CACHE_WRITE_FACTORS, cache_write_of
from trivet_tasks.states import JobState


class Prompt:
    """A request's body as JSON, kept until it is released: a call under way has a copy of its own."""

    __slots__ = ("body", "cache_write")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.cache_write = CACHE_WRITE_FACTORS[cache_write_of(body)]

    def maximum_cost(self, estimate: Decimal | None) -> Decimal | None:
        """Return the maximum cost of a call in USD, given its maximum cost without a prompt cache."""
        return None if estimate is None else estimate * self.cache_write

    def release(self) -> None:
        """Release the body: no further call will be begun with it."""
        self.body = b""


@dataclass(frozen=True, slots=True)
class CallTarget:
    """The target of the calls of a chunk: the columns that all its attempt rows have in common."""

    lease_id: str
    route: str
    provider: str
    model: str
    wire_model: str
    latency: Latency
    probe: bool = False
    """True if the job is a probe."""
    isolated: bool = False
    """True if the job runs in a process of its own."""


class JobRound(NamedTuple):
    """A job's round so far, which it takes along from call to call."""

    number: int
    spent_s: float = 0.0
    """Seconds of the round's budget used."""
    tried: tuple[str, ...] = ()
    """Routes that were asked in this round."""
    doubted_by: str | None = None
    """The provider that answered with an unknown 400 (ambiguous)."""
    proxy_errors: tuple[ProxyError, ...] = ()
    """The pages of proxies that the job met."""
    too_slow: tuple[str, ...] = ()
    """Routes that cannot answer in the job's time, in this round or a later one."""

    def anew(self, number: int) -> "JobRound":
        """Return a round in which every route may be asked again, but for those that are too slow."""
        return self._replace(number=number, spent_s=0.0, tried=())


class ClaimedJob(NamedTuple):
    """A job that this worker holds now, with the attempt that it is about to make."""

    id: str
    claim: int
    target: CallTarget
    attempt_id: str
    permit: Permit
    prompt: Prompt
    batch_id: int | None
    deadline_at: float | None
    round: JobRound
    input_estimate: int
    max_tokens: int
    tenant: str | None
    cache_key: str | None
    """The key under which its answer may be cached."""
    residency: tuple[str, ...]
    compliance: tuple[str, ...]
    features: tuple[str, ...]
    streamed: bool = False
    """True if the events of its answer are passed on to whoever waits for them."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result of one provider call."""

    attempt_id: str
    outcome: Outcome
    latency_s: float
    status: int | None = None
    request_id: str | None = None
    message: str | None = None
    """The provider's words, of a call that failed."""
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    estimated: bool = False
    list_price: str | None = None
    multipliers: str | None = None
    price_version: str | None = None
    price_terms: str | None = None
    """Terms of its price beside its tokens (`price_records`); None: not priced by its usage."""
    price_parts: str | None = None
    """Passes of the call (`price_records`); None: it had one."""
    model_used: str | None = None
    """The model that answered; None: the one asked for."""
    list_usd: Decimal | None = None
    """Cost at list price, if it was charged at a negotiated one."""
    negotiated_price: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A cached answer that ends a job."""

    saved_usd: Decimal | None
    """Cost of the call that made it; None where that has no price."""
    latency: str
    model: str


@dataclass(frozen=True, slots=True)
class End:
    """The end of a job."""

    state: JobState
    message: bytes | None = field(default=None, repr=False)
    """The provider's answer, JSON."""
    stop_reason: str | None = None
    outcome: Outcome | None = None
    error: str | None = None
    hit: Hit | None = None
    """The cached answer, where no call was made for it."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """The next attempt of a job: on `route`, at once, in the same round."""

    route: str
    until: float
    round: JobRound
    outcome: Outcome
    error: str


@dataclass(frozen=True, slots=True)
class Wait:
    """A job's return to waiting: until `not_before`, or until a route can take it."""

    not_before: float | None
    round: JobRound
    outcome: Outcome | None
    error: str | None


Next = End | GoOn | Wait


@dataclass(frozen=True, slots=True)
class Transition:
    """The end of a call, and with it the next step of its job."""

    job: ClaimedJob
    settlement: Settlement
    next: Next | None
    """None where another call of the job decides."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has just ended. `route` is where its last call went."""

    job_id: str
    batch_id: int | None
    created_at: float
    end: End
    route: str | None
    led: bool = True
    """False where no other job can have waited for its answer."""
    called_back: bool = True
    """False where no delivery waits for its end."""


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a group's transaction."""

    ended_jobs: tuple[str, ...]
    ended_batches: tuple[int, ...]
    gone_on: tuple[Transition, ...]
    """Transitions whose next message is to be sent now, under claim `claim + 1`."""
    refused: tuple[str, ...]
    """Jobs whose token no longer held: their result was not written, their cost was."""
    crowded: bool = False
    """True if more coalesced jobs may wait for those that ended than one transaction frees."""
