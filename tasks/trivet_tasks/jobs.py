"""A job as it is accepted: the validated request and Trivet's own terms for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trivet_tasks.latency import Latency


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One validated request. Made by `trivet_tasks.requests`; times are seconds since the epoch, counts are tokens."""

    model: str
    """First-party id, e.g. `claude-sonnet-5-5`."""
    latency: Latency
    body: bytes = field(repr=False)
    """The Messages API request as JSON, without `model` and without Trivet's own keys."""
    fingerprint: str
    """32 hex digits over the model and the canonical body: equal requests are equal here."""
    input_estimate: int
    max_tokens: int
    key: str | None = None
    deadline_at: float | None = None
    not_before: float | None = None
    tenant: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    residency: tuple[str, ...] = ()
    compliance: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    """What the request needs of a wire beyond plain messages, by the names of `trivet_tasks.features`."""
    cache: bool = True
    cache_key: str | None = None
    """Equal for requests of which one's answer may serve the other (`trivet_tasks.cache_key`). None: it is called for."""
    warnings: tuple[str, ...] = ()
    """What a person should know, though the request is taken."""
