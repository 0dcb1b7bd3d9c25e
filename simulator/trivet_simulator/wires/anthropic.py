"""The Anthropic API: POST /v1/messages, GET /v1/models."""

from __future__ import annotations

import math
import time
from typing import Any

from trivet_simulator.account import anthropic_models, anthropic_rate_limits
from trivet_simulator.answers import Answer, Usage
from trivet_simulator.catalogue import REPLIES, Reply
from trivet_simulator.http import Request
from trivet_simulator.limits import CONCURRENCY, INPUT, OUTPUT, REQUESTS, Refusal
from trivet_simulator.wires.counting import FIRST_PARTY
from trivet_simulator.wires.wire import BROKEN_SSE, Counting, Failure, Route, anthropic_error, bearer, letters, sse

NO_CALL = bytes(16)
VERSIONS = ("2023-01-01", "2023-06-01", "2026-10-21")
"""The versions there are (platform.claude.com/docs/en/api/versioning)."""
_HEADER = {REQUESTS: "requests", INPUT: "input-tokens", OUTPUT: "output-tokens"}


class AnthropicWire:
    """First-party wire. Credentials: `x-api-key` or a bearer token."""

    name = "anthropic"
    forms = "anthropic"
    path = "/v1/messages"
    max_body = 32 * 1024 * 1024
    id_prefix = "msg_01"
    request_id_header = "request-id"
    json_type = "application/json"
    stream_type = "text/event-stream; charset=utf-8"
    counting: Counting = FIRST_PARTY

    def route(self, request: Request) -> Route | None:
        """POST /v1/messages is the only call."""
        return Route() if request.method == "POST" and request.path == self.path else None

    def page(self, request: Request) -> Failure:
        """The lists of models and of the organisation's limits, or 404."""
        headers = {"content-type": self.json_type, "request-id": self.request_id(NO_CALL)}
        if request.method == "GET" and request.path in ("/v1/models", "/v1/organizations/rate_limits"):
            if self.no_credentials(request) is not None:
                return self.failure(REPLIES["auth"].anthropic or self.invalid(""), "", headers["request-id"], {})
            models = request.path == "/v1/models"
            return Failure(200, headers, anthropic_models() if models else anthropic_rate_limits(request))
        return self.failure(Reply(404, "not_found_error", "Not found"), "", headers["request-id"], {})

    def request_id(self, token: bytes) -> str:
        """`req_01…`."""
        return "req_01" + letters(token)

    def no_credentials(self, request: Request) -> Reply | None:
        """401 without a key or token."""
        if request.headers.get(b"x-api-key") or bearer(request):
            return None
        return Reply(401, "authentication_error", "x-api-key header is required")

    def invalid(self, message: str) -> Reply:
        """400 invalid_request_error."""
        return Reply(400, "invalid_request_error", message)

    def unknown_model(self, model: str) -> Reply | None:  # noqa: ARG002 - the simulator's own list says it all
        """None: every id in the simulator's list is known here."""
        return None

    def version(self, request: Request, document: dict[str, Any]) -> str | Reply:  # noqa: ARG002 - a header here
        """The header `anthropic-version`."""
        version = request.header(b"anthropic-version")
        if version is None:
            return self.invalid("anthropic-version: header is required")
        return (
            version if version in VERSIONS else self.invalid(f'anthropic-version: "{version}" is not a valid version.')
        )

    def limited(self, refusal: Refusal, model: str) -> Reply:
        """429 with the seconds until there is room."""
        if refusal.what == CONCURRENCY:
            message = "Number of concurrent connections has exceeded your rate limit. Please try again later."
        else:
            what = refusal.what.replace("_", " ")
            message = (
                f"This request would exceed your organization's rate limit of {refusal.limit:,.0f} {what} per minute "
                f"(model: {model}). Please try again later."
            )
        return Reply(429, "rate_limit_error", message, retry_after_s=refusal.wait_s)

    def failure(self, reply: Reply, model: str, request_id: str, headers: dict[str, str]) -> Failure:
        """{"type": "error", "error": {…}, "request_id": …}."""
        body = anthropic_error(reply, reply.message.replace("{model}", model), request_id)
        retry = {"x-should-retry": "true"} if reply.status in (408, 409, 429, 529) or reply.status >= 500 else {}
        return Failure(
            reply.status, {"content-type": self.json_type, "request-id": request_id, **retry, **headers}, body
        )

    def limit_headers(self, left: dict[str, tuple[float, float, float]]) -> dict[str, str]:
        """anthropic-ratelimit-*; `tokens` is input and output together where both are limited."""
        out: dict[str, str] = {}
        if not left:
            return out
        now = time.time()
        shown = {_HEADER[what]: figures for what, figures in left.items()}
        both = [left[what] for what in (INPUT, OUTPUT) if what in left]
        if both:
            shown["tokens"] = (sum(f[0] for f in both), sum(f[1] for f in both), max(f[2] for f in both))
        for name, (limit, remaining, reset_s) in shown.items():
            out[f"anthropic-ratelimit-{name}-limit"] = str(int(limit))
            out[f"anthropic-ratelimit-{name}-remaining"] = str(int(remaining))
            # whole seconds, rounded up
            reset = time.gmtime(math.ceil(now + reset_s))
            out[f"anthropic-ratelimit-{name}-reset"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", reset)
        return out

    def usage_headers(self, usage: Usage, latency_s: float) -> dict[str, str]:  # noqa: ARG002 - Bedrock's affair
        """None here."""
        return {}

    def dress(self, answer: Answer) -> None:
        """Service tier and place of inference."""
        answer.service = {"service_tier": "standard", "inference_geo": "global"}

    def frame(self, event: dict[str, Any]) -> bytes:
        """Server-sent event."""
        return sse(event)

    def broken_frame(self) -> bytes:
        """Half a JSON object in an event."""
        return BROKEN_SSE

    def error_frame(self) -> bytes:
        """An overloaded_error after the 200."""
        return sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
