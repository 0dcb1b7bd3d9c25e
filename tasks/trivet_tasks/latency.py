"""The four latency classes and their defaults."""

from enum import StrEnum
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field


class Lane(StrEnum):
    """Kind of worker process."""

    REALTIME = "realtime"
    BULK = "bulk"


class Latency(StrEnum):
    """Urgency of a job: decides how long it may take, and how it is routed, retried and cached."""

    REALTIME = "realtime"
    BATCH = "batch"
    ASYNC = "async"
    DEFERRED = "deferred"

    @property
    def lane(self) -> Lane:
        """The kind of worker process that runs this class."""
        return Lane.REALTIME if self is Latency.REALTIME else Lane.BULK


LatencyName: TypeAlias = Literal["realtime", "batch", "async", "deferred"]
"""Name of a latency class, as people write it."""

Order = Literal["latency", "cost", "priority", "weight"]


class ClassSettings(BaseModel):
    """Times and limits of a latency class. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_s: float = Field(gt=0, le=86_400)
    """Latency budget: maximum time of a round of a job; for realtime it counts from submit."""
    attempt_timeout_s: float | None = Field(default=None, gt=0, le=86_400)
    """Time limit of one call. Not set: the rest of the budget, less a reserve for one fallback."""
    first_token_timeout_s: float | None = Field(default=None, gt=0, le=86_400)
    """Time from the start of a call to the first byte of its answer. Set: all calls of the class are streamed. Not set: 30 s
    for streamed calls, more for long prompts."""
    stall_timeout_s: float | None = Field(default=None, gt=0, le=86_400)
    """Time for which the answer of a streamed call may stop. Set: all calls of the class are streamed. Not set: 30 s, or 60 s
    where the provider sends no pings."""
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


DEFAULTS: dict[Latency, ClassSettings] = {
    Latency.REALTIME: ClassSettings(
        budget_s=3, attempt_timeout_s=None, max_rounds=1, backoff_base_s=1, backoff_max_s=1, deadline_s=3,
        order="latency", share=64, chunk_jobs=1, cache_ttl_s=3_600,
    ),
    Latency.BATCH: ClassSettings(
        budget_s=30, attempt_timeout_s=15, max_rounds=8, backoff_base_s=1, backoff_max_s=60, deadline_s=None,
        order="cost", share=16, chunk_jobs=32, cache_ttl_s=86_400,
    ),
    Latency.ASYNC: ClassSettings(
        budget_s=300, attempt_timeout_s=120, max_rounds=8, backoff_base_s=2, backoff_max_s=300, deadline_s=86_400,
        order="cost", share=4, chunk_jobs=32, cache_ttl_s=86_400,
    ),
    Latency.DEFERRED: ClassSettings(
        budget_s=1_200, attempt_timeout_s=600, max_rounds=8, backoff_base_s=10, backoff_max_s=900, deadline_s=86_400,
        order="cost", share=1, chunk_jobs=32, cache_ttl_s=86_400,
    ),
}  # fmt: skip
"""Defaults of each class. A file that sets one key of a class keeps the others."""
