"""The five latency classes and their defaults."""

from enum import StrEnum
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field


class Lane(StrEnum):
    """Kind of worker process."""

    REALTIME = "realtime"
    BULK = "bulk"


class Latency(StrEnum):
    """Urgency of a job: decides how long it may take, and how it is routed, retried and cached."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"
    ASYNC = "async"
    DEFERRED = "deferred"

    @property
    def lane(self) -> Lane:
        """The kind of worker process that runs this class."""
        return Lane.REALTIME if self in (Latency.REALTIME, Latency.INTERACTIVE) else Lane.BULK


def kept_slots(slots: int) -> int:
    """Return the number of a worker's slots in the realtime lane that interactive jobs leave free: a quarter."""
    return slots // 4


LatencyName: TypeAlias = Literal["realtime", "interactive", "batch", "async", "deferred"]
"""Name of a latency class, as people write it."""

Order = Literal["latency", "cost", "priority", "weight"]


class ClassSettings(BaseModel):
    """Times and limits of a latency class. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_s: float = Field(gt=0, le=86_400)
    """Latency budget: maximum time of a round of a job; for realtime it counts from submit. The default of batch, async and
    deferred grows to twice the time limit of the job's calls; a budget that is set does not."""
    attempt_timeout_s: float | None = Field(default=None, gt=0, le=86_400)
    """Maximum time of one call. The default is the least that calls get: those whose `max_tokens` need more get more.
    Realtime, not set: the rest of the budget, less a reserve for one fallback."""
    first_token_timeout_s: float | None = Field(default=None, gt=0, le=86_400)
    """Time from the start of a call to the first byte of its answer. Set: all calls of the class are streamed. Not set: 30 s
    for streamed calls, more for long prompts."""
    stall_timeout_s: float | None = Field(default=None, gt=0, le=86_400)
    """Time for which the answer of a streamed call may stop. Set: all calls of the class are streamed. Not set: 30 s, or 60 s
    where the provider sends no pings."""
    pace: float = Field(default=1.0, gt=0, le=1_000)
    """Pace of the models' answers as a multiple of the usual one, for time limits that follow `max_tokens`. Below 1 behind a
    slow gateway; `trivet rehearse` raises it with its speed."""
    max_rounds: int = Field(ge=1, le=100)
    """Number of rounds after which a job without success ends as `failed`."""
    backoff_base_s: float = Field(gt=0, le=3_600)
    """Maximum pause after the first round. It doubles with each round; the real pause is drawn at random up to it."""
    backoff_max_s: float = Field(gt=0, le=86_400)
    """Maximum pause between two rounds."""
    deadline_s: float | None = Field(default=None, gt=0, le=31_536_000)
    """Time from submit after which a result is worthless and the job ends as `expired`. Not set: never."""
    order: Order
    """Order in which routes are asked: the fastest, the cheapest, the lowest `priority`, or by `weight`."""
    share: float = Field(gt=0, le=1_000)
    """Weight of this class when waiting jobs share the capacity."""
    chunk_jobs: int = Field(ge=1, le=500)
    """Maximum number of jobs in one message."""
    cache_ttl_s: float = Field(default=0, ge=0, le=31_536_000)
    """Time for which an answer serves equal requests. 0: answers of this class are never served from the cache."""
    hedge_share: float = Field(default=0, ge=0, le=1)
    """Realtime: maximum share of the calls that get a hedge on a second route, when the first is slower than usual."""


def _default(**terms: Any) -> ClassSettings:
    """Return settings none of which counts as set by a person (`model_fields_set`)."""
    return ClassSettings.model_construct(_fields_set=set(), **ClassSettings(**terms).model_dump())


DEFAULTS: dict[Latency, ClassSettings] = {
    Latency.REALTIME: _default(
        budget_s=3, attempt_timeout_s=None, max_rounds=1, backoff_base_s=1, backoff_max_s=1, deadline_s=3,
        order="latency", share=64, chunk_jobs=1, cache_ttl_s=3_600,
    ),
    Latency.INTERACTIVE: _default(
        budget_s=300, attempt_timeout_s=30, first_token_timeout_s=5, stall_timeout_s=10, max_rounds=2,
        backoff_base_s=0.1, backoff_max_s=1, deadline_s=300, order="latency", share=32, chunk_jobs=1, cache_ttl_s=3_600,
    ),
    Latency.BATCH: _default(
        budget_s=30, attempt_timeout_s=15, max_rounds=8, backoff_base_s=1, backoff_max_s=60, deadline_s=None,
        order="cost", share=16, chunk_jobs=32, cache_ttl_s=86_400,
    ),
    Latency.ASYNC: _default(
        budget_s=300, attempt_timeout_s=120, max_rounds=8, backoff_base_s=2, backoff_max_s=300, deadline_s=86_400,
        order="cost", share=4, chunk_jobs=32, cache_ttl_s=86_400,
    ),
    Latency.DEFERRED: _default(
        budget_s=1_200, attempt_timeout_s=600, max_rounds=8, backoff_base_s=10, backoff_max_s=900, deadline_s=86_400,
        order="cost", share=1, chunk_jobs=32, cache_ttl_s=86_400,
    ),
}  # fmt: skip
"""Defaults of each class. A file that sets one key of a class keeps the others."""
