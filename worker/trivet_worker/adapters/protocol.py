"""One provider call as values: the input of a route's caller, and its two kinds of result."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from trivet_tasks.outcomes import Outcome, Scope, Usage

MESSAGE_LIMIT = 500
"""Maximum length of the provider's words, in characters."""


class LocalCause(StrEnum):
    """Reason of a failure that may concern this worker alone: others may reach the route."""

    NO_CREDENTIALS = "credentials"
    """No key is here, or it cannot be read: nothing was sent."""
    KEY_REFUSED = "key"
    """The provider did not accept the key that this worker has."""
    UNREACHED = "network"
    """Name lookup, connecting, TLS or the proxy failed: the provider saw nothing of the call."""


class Credentials(NamedTuple):
    """State of a route's key or credentials on this machine."""

    missing: str = ""
    """Reason why no call can be made; empty where one can."""
    renewed: bool = False
    """True if they differ from those that the provider did not accept last."""


@dataclass(frozen=True, slots=True)
class LimitWindow:
    """One of an account's limits as the provider reported it. None: not stated."""

    limit: int | None
    remaining: int | None
    reset_s: float | None
    """Seconds from now until the limit is whole again."""


@dataclass(frozen=True, slots=True)
class LimitReading:
    """Values of Anthropic's `anthropic-ratelimit-*` headers. None: no such headers for that limit."""

    requests: LimitWindow | None = None
    input_tokens: LimitWindow | None = None
    output_tokens: LimitWindow | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole message, whatever its stop reason."""

    message: bytes = field(repr=False)
    """The message as JSON, as the provider sent it; of a streamed route, put together from its events."""
    stop_reason: str
    usage: Usage | None
    """None where the provider stated no usage, or an impossible one: the cost is then estimated."""
    request_id: str | None
    limits: LimitReading | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A call without a message."""

    outcome: Outcome
    message: str
    """The provider's words, or ours where it gave none; at most 500 characters, never a prompt or a key."""
    status: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    """Seconds from now during which the provider wants no calls. None: it named none."""
    scope: Scope | None = None
    """Reach of an `unusable`."""
    limits: LimitReading | None = None
    usage: Usage | None = None
    """Usage of a failed call, where the provider still stated it."""
    may_be_billed: bool = False
    """True if the provider did work without stating how much: the cost is estimated. So for all timeouts and cut answers."""
    from_api: bool = True
    """False for a page of a proxy or gateway: it may concern this one request."""
    stalled: bool = False
    """True for a timeout because a streamed answer stayed away or stopped: the route's fault, however long the answer."""
    own_fault: bool = False
    """True for a fault of Trivet's own, after the call was made: it says nothing about the route."""
    local_cause: LocalCause | None = None
    """Set where the reason may be this worker's alone."""


@dataclass(frozen=True, slots=True)
class CallPurpose:
    """Purpose of a call. It holds nothing of a request or of its tags."""

    model: str = ""
    """The model's first-party id: the version of the API may depend on it."""
    job_id: str = ""
    """Empty for a call without a job."""
    batch_id: int | None = None


NO_PURPOSE = CallPurpose()
"""Purpose of a call by hand: the route's own version of the API, no job."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Silence that a streamed answer may keep, in seconds. None: Trivet's own limit for the wire and the request."""

    first_byte_s: float | None = None
    """From the start of the call to the first byte of the answer."""
    stall_s: float | None = None
    """Between two bytes of the answer."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Time limits of one call, e.g. `CallLimits(30)` for a plain one, `CallLimits(300, StreamLimits())` for a streamed one."""

    total_s: float
    """Seconds for everything: credentials, connect, headers, body."""
    stream: StreamLimits | None = None
    """None: the answer comes in one piece."""


class EventSink(Protocol):
    """Takes the events of a streamed answer as they come, for somebody who reads it meanwhile."""

    def put(self, event: bytes) -> None:
        """Take one event: its JSON on one line. Returns at once, and raises nothing."""
        ...


class Caller(Protocol):
    """Makes the calls of one route. Lives in one event loop; any number of calls at a time."""

    async def call(
        self,
        body: bytes,
        model: str,
        attempt_id: str,
        limits: CallLimits,
        purpose: CallPurpose = NO_PURPOSE,
        sink: EventSink | None = None,
    ) -> Answer | Failure:
        """Make one call, once, without retries.

        Args:
            body: the Messages API request as JSON, without Trivet's own keys and without `model`.
            model: the model's id on this wire.
            attempt_id: sent as the header `x-trivet-attempt`.
            limits: the call's time, and whether it is streamed.
            purpose: the model by its first-party id, job and batch.
            sink: takes the events of a streamed answer as they come; without one they are gathered.

        Raises:
            asyncio.CancelledError: the call was cancelled from outside; its connection is closed. Where its stream had
                stated the usage by then, a failure with that is returned instead.
        """
        ...

    async def credentials(self) -> Credentials:
        """Make the client and fetch the credentials, so that no call waits for that. Raises nothing for missing ones."""
        ...

    async def reach(self, timeout_s: float) -> str:
        """Ask the endpoint for an answer of any kind, without a key and free of charge.

        Return the reason why there is none, or an empty text.
        """
        ...

    async def close(self) -> None:
        """Close the connections. The caller cannot be used afterwards."""
        ...
