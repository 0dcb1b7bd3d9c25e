"""Settings of the HTTP gateway: the bounds on connections, requests and bodies of one of its processes."""

from pydantic import BaseModel, ConfigDict, Field


class GatewaySettings(BaseModel):
    """Bounds of the HTTP gateway (`trivet serve`). Each process has them for itself. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_connections: int = Field(default=5_000, ge=1, le=100_000)
    """Maximum number of open connections. One more is answered with status 529 and closed."""
    max_waiting: int = Field(default=4_000, ge=1, le=100_000)
    """Maximum number of requests that wait for an answer. One more is answered with status 529."""
    max_body_mb: float = Field(default=32, gt=0, le=256)
    """Maximum size of the body of a request, in MiB. A larger one is answered with status 413."""
    max_bodies_mb: float = Field(default=256, gt=0, le=16_384)
    """Maximum size of all bodies that are being read or checked at one time, in MiB. Beyond it: status 529."""
    max_header_kb: float = Field(default=64, ge=1, le=1_024)
    """Maximum size of the request line and headers of a request, in KiB. Larger ones are answered with status 431."""
    head_timeout_s: float = Field(default=10, gt=0, le=600)
    """Time within which the request line and headers of a request must have come."""
    body_timeout_s: float = Field(default=60, gt=0, le=3_600)
    """Time within which the body of a request must have come. A slower one is answered with status 408."""
    idle_timeout_s: float = Field(default=75, gt=0, le=3_600)
    """Time after which a connection without a request is closed."""
    write_timeout_s: float = Field(default=30, gt=0, le=3_600)
    """Time after which a connection is closed whose client takes nothing of its answer."""
    first_token_wait_s: float = Field(default=15, ge=0, le=600)
    """Streams: time for which status and headers wait for the first token, so that an error has its own status."""
    ping_s: float = Field(default=10, gt=0, le=600)
    """Streams: time between two `ping` events."""
    shutdown_grace_s: float = Field(default=10, ge=0, le=3_600)
    """Time for which requests may wait on after SIGTERM. Then they are answered with status 503, and their jobs cancelled
    unless they have an idempotency key."""
