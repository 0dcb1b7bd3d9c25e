"""A job as a value: as it is accepted, as a message carries it, and what it takes along from call to call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from trivet_tasks.latency import Latency


class Prefix(NamedTuple):
    """Prefix of a request that others may share (`trivet_tasks.requests.prompt_cache`)."""

    digest: str
    """Equal for equal prefixes of equal models."""
    in_message: bool
    """True if it ends within the first message; else with the system prompt, or the tools."""
    size: int
    """Bytes of JSON."""


# nobody changes one; were it frozen, making it would take 3 us more, of 50 that a job takes in all
@dataclass(slots=True)
class JobSpec:
    """One validated request. Made by `trivet_tasks.requests.reading`; times are seconds since the epoch, counts are tokens."""

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
    metadata: str | None = field(repr=False, default=None)
    """The request's metadata as JSON: an object that comes back with the result."""
    residency: tuple[str, ...] = ()
    """Sorted and each once, as the two below."""
    compliance: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    """Features that the request needs of a wire beyond plain messages, by the names of `trivet_tasks.requests.features`."""
    cache: bool | None = None
    """Value that the request gives; None: it leaves that to `[cache] enabled`. `cache_key` is what came of it."""
    prompt_cache: str | None = None
    """Time for which the provider's prompt cache keeps the marked parts: `5m` or `1h`."""
    prefixes: tuple[Prefix, ...] = ()
    """Prefixes that may be marked, the longest first."""
    line: str | None = None
    """Key of the jobs with this prefix: one of them goes first, and warms the cache for the others."""
    cache_key: str | None = None
    """Equal for requests that one answer may serve (`trivet_tasks.requests.request_terms`). None: the job gets its own call."""
    warnings: tuple[str, ...] = ()
    """Warnings for a person, though the request is accepted."""
    streamed: bool = False
    """True if its submitter reads the answer while it comes. The request, its fingerprint and its keys do not change."""


class DispatchedJob(NamedTuple):
    """A job as a message carries it: the id, its fencing token, and what its permit needs."""

    id: str
    claim: int
    input_estimate: int
    max_tokens: int
    cache_key: str | None = None
    """Digest; None: the job gets a call without a look at earlier answers."""


class Permit(NamedTuple):
    """Leave to make one call now, taken from a route's limits and held until the call has ended."""

    id: str
    input_tokens: int
    """Maximum number of input tokens that its call may use."""
    output_tokens: int
    """Maximum number of output tokens that its call may use."""
    generation: str = ""
    """Generation of the route's circuit breakers when it was granted: health signals of its call count only while it
    lasts. It also says in which second the limits counted the call."""


def permit_id(lease_id: str, attempt_id: str) -> str:
    """Return the id of an attempt's permit: those of a dead process are recognised, and SQL knows those in use."""
    return f"{lease_id}:{attempt_id}"


class ProxyError(NamedTuple):
    """The pages of proxies that a job met on one route (`trivet_routing.retry_policy`)."""

    route: str
    at: float
    """Time of the first page, in seconds since the epoch, on the database's clock."""
    generation: str
    """Generation of the route's breakers at that time: once it changes, the pages say nothing about the job."""
    times: int
    confirmed: bool
    """A later page came after the route had answered others."""
    message: str


def proxy_errors_of(text: str) -> tuple[ProxyError, ...]:
    """Return the pages that `proxy_errors_text` wrote."""
    return tuple(ProxyError(*fields) for fields in orjson.loads(text)) if text else ()


def proxy_errors_text(errors: Sequence[ProxyError]) -> str:
    """Return the pages as JSON for the job's row; empty = none."""
    return orjson.dumps([tuple(error) for error in errors]).decode() if errors else ""


def tried_of(text: str) -> tuple[str, ...]:
    """Return the routes that a job has tried in its round, of its row's text."""
    return tuple(text.split(",")) if text else ()


def tried_text(routes: Sequence[str]) -> str:
    """Return the routes as text for the job's row."""
    return ",".join(routes)
