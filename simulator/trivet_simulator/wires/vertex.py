"""Google Vertex AI: POST …/publishers/anthropic/models/{model}:rawPredict and :streamRawPredict."""

from __future__ import annotations

import re
from typing import Any

import orjson

from trivet_simulator.account import vertex_page
from trivet_simulator.answers import Answer, Usage
from trivet_simulator.catalogue import REPLIES, Reply
from trivet_simulator.http import Request
from trivet_simulator.limits import REQUESTS, Refusal
from trivet_simulator.wires.counting import VERTEX
from trivet_simulator.wires.wire import BROKEN_SSE, Counting, Failure, Route, anthropic_error, bearer, letters, sse

# an API version may stand before it, as in Google's own URLs
_PATH = re.compile(
    r"^(?:/v1(?:beta1)?)?/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/(?!count-tokens:)(?P<model>[^/:]+):"
    r"(?P<verb>rawPredict|streamRawPredict)$"
)


VERSIONS = ("vertex-2023-10-16",)
"""As Google documents it for raw prediction."""


class VertexWire:
    """Raw prediction on Anthropic's models. Credentials: a bearer token."""

    name = "vertex"
    forms = "vertex"
    max_body = 30 * 1024 * 1024
    id_prefix = "msg_vrtx_01"
    request_id_header = "request-id"
    json_type = "application/json; charset=UTF-8"
    stream_type = "text/event-stream; charset=utf-8"
    counting: Counting = VERTEX

    def route(self, request: Request) -> Route | None:
        """Model and kind of answer stand in the path."""
        found = _PATH.match(request.path) if request.method == "POST" else None
        return Route(found["model"], found["verb"] == "streamRawPredict") if found else None

    def page(self, request: Request) -> Failure:
        """Publisher models, else NOT_FOUND."""
        listed = vertex_page(request) if request.method == "GET" else None
        if listed is not None:
            denied = self.no_credentials(request)
            return (
                self.failure(denied, "", "", {}) if denied else Failure(200, {"content-type": self.json_type}, listed)
            )
        return self.failure(Reply(404, "NOT_FOUND", "Requested entity was not found."), "", "", {})

    def request_id(self, token: bytes) -> str:
        """`req_vrtx_01…`."""
        return "req_vrtx_01" + letters(token)

    def no_credentials(self, request: Request) -> Reply | None:
        """401 UNAUTHENTICATED without a bearer token."""
        return None if bearer(request) else REPLIES["auth"].vertex

    def invalid(self, message: str) -> Reply:
        """Anthropic's own 400, handed through."""
        return Reply(400, "invalid_request_error", message, passed_on=True)

    def unknown_model(self, model: str) -> Reply | None:  # noqa: ARG002 - the simulator's own list says it all
        """None: every id in the simulator's list is known here."""
        return None

    def version(self, request: Request, document: dict[str, Any]) -> str | Reply:  # noqa: ARG002 - it is in the body
        """The body's `anthropic_version`."""
        version = document.get("anthropic_version")
        if version in VERSIONS:
            return str(version)
        what = "Field required" if version is None else f"Input should be '{VERSIONS[0]}', not {version!r}"
        return Reply(400, "INVALID_ARGUMENT", f"anthropic_version: {what}")

    def limited(self, refusal: Refusal, model: str) -> Reply:
        """RESOURCE_EXHAUSTED, naming the quota; never with a retry-after."""
        if refusal.what == REQUESTS:
            metric = "online_prediction_requests_per_base_model"
        elif "tokens" in refusal.what:
            metric = f"online_prediction_{refusal.what}_per_minute_per_base_model"
        else:
            metric = "online_prediction_concurrent_requests_per_base_model"
        message = (
            f"Quota exceeded for aiplatform.googleapis.com/{metric} with base model: "
            f"anthropic-{model.partition('@')[0]}. Please submit a quota increase request. "
            "https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai."
        )
        return Reply(429, "RESOURCE_EXHAUSTED", message)

    def failure(self, reply: Reply, model: str, request_id: str, headers: dict[str, str]) -> Failure:
        """Google's errors come as a list of one; those of the model in Anthropic's form."""
        message = reply.message.replace("{model}", model)
        if reply.passed_on:
            body = anthropic_error(reply, message, request_id)
            return Failure(
                reply.status, {"content-type": "application/json", "request-id": request_id, **headers}, body
            )
        code = reply.code_in_body or reply.status
        body = orjson.dumps([{"error": {"code": code, "message": message, "status": reply.kind}}])
        return Failure(reply.status, {"content-type": self.json_type, **headers}, body)

    def limit_headers(self, left: dict[str, tuple[float, float, float]]) -> dict[str, str]:  # noqa: ARG002
        """Vertex tells nothing."""
        return {}

    def usage_headers(self, usage: Usage, latency_s: float) -> dict[str, str]:  # noqa: ARG002
        """None here."""
        return {}

    def dress(self, answer: Answer) -> None:
        """The message names the model without its date."""
        answer.model = answer.model.replace("@", "-")

    def frame(self, event: dict[str, Any]) -> bytes:
        """Server-sent event."""
        return sse(event)

    def broken_frame(self) -> bytes:
        """Half a JSON object in an event."""
        return BROKEN_SSE

    def error_frame(self) -> bytes:
        """An overloaded_error after the 200."""
        return sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
