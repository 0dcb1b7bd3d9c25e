"""Records of calls and jobs that are over: values, no behaviour."""

from dataclasses import dataclass
from decimal import Decimal

from trivet_tasks.outcomes import Outcome, Usage
from trivet_tasks.states import JobState


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
    """Its passes (`price_records`); None: it had one."""
    model_used: str | None = None
    """The model that answered; None: the one asked for."""


@dataclass(frozen=True, slots=True)
class Hit:
    """The answer came from the cache."""

    saved_usd: Decimal | None
    """Cost of the call that made it; None where that has no price."""
    latency: str
    model: str


@dataclass(frozen=True, slots=True)
class End:
    """The job is over."""

    state: JobState
    message: bytes | None = None
    """The provider's answer, JSON."""
    stop_reason: str | None = None
    outcome: Outcome | None = None
    error: str | None = None
    hit: Hit | None = None
    """The cached answer, where no call was made for it."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """The job's next attempt goes to `route` at once, in the same round."""

    route: str
    until: float
    tried: str
    spent_s: float
    doubted_by: str | None
    outcome: Outcome
    error: str
    proxy_errors: str = ""
    """JSON: the pages of proxies that the job met."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The job goes back to waiting: until `not_before`, or until a route has room."""

    not_before: float | None
    round: int
    tried: str
    spent_s: float
    doubted_by: str | None
    outcome: Outcome | None
    error: str | None
    proxy_errors: str = ""
    """JSON: the pages of proxies that the job met."""


Next = End | GoOn | Wait


@dataclass(frozen=True, slots=True)
class Finished:
    """A call that is over and its job's next step; none where another call of the job decides."""

    job_id: str
    claim: int
    lease_id: str
    settlement: Settlement
    next: Next | None
    route: str | None = None
    """The route of the call; None: the one the job was dispatched to. A hedge's call went elsewhere."""


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


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a group's transaction."""

    ended_jobs: tuple[str, ...]
    ended_batches: tuple[int, ...]
    gone_on: tuple[Finished, ...]
    """Those whose next message is to be sent now, under claim `claim + 1`."""
    refused: tuple[str, ...]
    """Jobs whose token no longer held: their result was not written, their cost was."""
    crowded: bool = False
    """More coalesced jobs may wait for those that ended than one transaction frees."""
