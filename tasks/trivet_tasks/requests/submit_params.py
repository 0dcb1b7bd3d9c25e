"""Types of the fields of a request, for type checkers: `submit(**request)`, and the defaults of `submit_many`.

They say which fields there are and what each may be. What a type cannot say is checked when the request is read
(`trivet_tasks.requests.reading`).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, Required, TypeAlias, TypedDict

from trivet_tasks.callbacks import Callback
from trivet_tasks.latency import Latency, LatencyName


class NotGiven(Protocol):
    """`NOT_GIVEN` and `omit` of the `anthropic` SDK, which a producer need not have installed."""

    def __bool__(self) -> Literal[False]: ...


Absent: TypeAlias = NotGiven | None
"""Value of a field that counts as not given."""
Names: TypeAlias = str | list[str] | tuple[str, ...] | set[str] | frozenset[str]
"""One name or several."""
When: TypeAlias = str | float | timedelta | datetime
"""A moment: `"5m"` or seconds from now, or a datetime with its time zone, also as ISO 8601."""
JsonObject: TypeAlias = Mapping[str, Any]
OnDone: TypeAlias = Callback | Mapping[str, Any] | None
"""A callback, or a Celery signature (a mapping): sent when a job or a batch has ended."""


class _Fields(TypedDict, total=False):
    # Trivet's own
    prompt: str | None
    key: str | None
    latency: Latency | LatencyName | None
    deadline: When | None
    not_before: When | None
    tags: Mapping[str, str] | None
    residency: Names | None
    compliance: Names | None
    tenant: str | None
    cache: bool | None
    prompt_cache: bool | Literal["5m", "1h"] | None
    extra_headers: Mapping[str, Any] | Absent
    extra_body: Mapping[str, Any] | Absent
    # the body of the Messages API; turns, blocks and tools may be objects of the SDK
    messages: Iterable[Any] | Absent
    system: str | Iterable[Any] | Absent
    tools: Iterable[Any] | Absent
    tool_choice: JsonObject | Absent
    thinking: JsonObject | Absent
    metadata: JsonObject | Absent
    stop_sequences: Iterable[str] | Absent
    temperature: float | Absent
    top_p: float | Absent
    top_k: int | Absent
    output_config: JsonObject | Absent
    output_format: Any
    service_tier: Literal["auto", "standard_only"] | Absent
    speed: Literal["standard", "fast"] | Absent
    inference_geo: str | Absent
    cache_control: JsonObject | Absent
    container: str | JsonObject | Absent
    diagnostics: JsonObject | Absent
    context_management: JsonObject | Absent
    compaction: JsonObject | Absent
    thread: JsonObject | Absent
    billing_policy: JsonObject | Absent
    mcp_servers: Iterable[Any] | Absent
    fallbacks: Iterable[Any] | Literal["default"] | Absent
    betas: Iterable[str] | Absent


class RequestParams(_Fields, total=False):
    """Fields of a request that may be incomplete: one of `submit_many`, or its defaults.

    Example:
        def requests() -> Iterator[RequestParams]:
            yield {"prompt": "Summarise: …", "key": "doc/1"}
    """

    model: str
    max_tokens: int


class StreamParams(_Fields, total=False):
    """Fields of a whole request, as `stream` takes them; `stream=True` of code for the SDK may stay.

    Example:
        def tell(prompt: str, /, **request: Unpack[StreamParams]) -> str:
            with client.stream(prompt, **request) as stream:
                return stream.get_final_text()
    """

    model: Required[str]
    max_tokens: Required[int]
    on_done: OnDone
    stream: bool


class SubmitParams(_Fields, total=False):
    """Fields of a whole request, as `submit` takes them.

    Example:
        def ask(prompt: str, /, **request: Unpack[SubmitParams]) -> str:
            return client.submit(prompt, **request).result().text
    """

    model: Required[str]
    max_tokens: Required[int]
    on_done: OnDone
