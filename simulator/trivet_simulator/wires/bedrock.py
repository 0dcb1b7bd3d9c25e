"""Amazon Bedrock's runtime: POST /model/{id}/invoke and /invoke-with-response-stream."""

from __future__ import annotations

import re
import uuid
from typing import Any

import orjson

from trivet_simulator.account import bedrock_page
from trivet_simulator.answers import Answer, Usage
from trivet_simulator.catalogue import Reply
from trivet_simulator.eventstream import chunk_event, exception_event
from trivet_simulator.http import Request
from trivet_simulator.limits import Refusal
from trivet_simulator.wires.counting import AWS
from trivet_simulator.wires.wire import Counting, Failure, Route

# a model id may be an inference profile's ARN, which holds slashes
_PATH = re.compile(r"^/model/(?P<model>.+)/invoke(?P<stream>-with-response-stream)?$")
_VERSION = re.compile(r"-v\d+(:\d+)?$")
_CORAL = ":http://internal.amazon.com/coral/com.amazon.bedrock/"
"""Bedrock appends this to the error type; clients must cut at the colon (seen in amazon-bedrock-client-for-mac#112)."""


VERSIONS = ("bedrock-2023-05-31",)
"""As AWS documents it for InvokeModel."""


class BedrockWire:
    """InvokeModel. Credentials: SigV4 or a bearer key; that some `Authorization` is there is all that is checked."""

    name = "bedrock"
    forms = "bedrock"
    max_body = 25_000_000
    id_prefix = "msg_bdrk_"
    request_id_header = "x-amzn-requestid"
    json_type = "application/json"
    stream_type = "application/vnd.amazon.eventstream"
    counting: Counting = AWS

    def route(self, request: Request) -> Route | None:
        """The model and the kind of answer stand in the path."""
        found = _PATH.match(request.path) if request.method == "POST" else None
        return Route(found["model"], found["stream"] is not None) if found else None

    def page(self, request: Request) -> Failure:
        """The lists of Bedrock's control plane, else UnknownOperationException."""
        listed = bedrock_page(request) if request.method == "GET" else None
        if listed is not None:
            denied = self.no_credentials(request)
            if denied is not None:
                return self.failure(denied, "", self.request_id(bytes(16)), {})
            return Failure(200, {"content-type": self.json_type}, listed)
        return self.failure(Reply(404, "UnknownOperationException", ""), "", self.request_id(bytes(16)), {})

    def request_id(self, token: bytes) -> str:
        """A UUID."""
        return str(uuid.UUID(bytes=token, version=4))

    def no_credentials(self, request: Request) -> Reply | None:
        """403 without Authorization."""
        if request.headers.get(b"authorization"):
            return None
        return Reply(403, "AccessDeniedException", "Missing Authentication Token")

    def invalid(self, message: str) -> Reply:
        """ValidationException."""
        return Reply(400, "ValidationException", message)

    def unknown_model(self, model: str) -> Reply | None:  # noqa: ARG002 - the simulator's own list says it all
        """None: every id in the simulator's list is known here."""
        return None

    def version(self, request: Request, document: dict[str, Any]) -> str | Reply:  # noqa: ARG002 - it is in the body
        """The body's `anthropic_version`. The refusal of another: boto3#4218."""
        version = document.get("anthropic_version")
        if version is None:
            return self.invalid("anthropic_version: Field required")
        return str(version) if version in VERSIONS else self.invalid(f"Invalid API version: {version}")

    def limited(self, refusal: Refusal, model: str) -> Reply:  # noqa: ARG002 - Bedrock does not name the model
        """ThrottlingException; never with a retry-after."""
        what = "tokens" if "tokens" in refusal.what else "requests"
        return Reply(429, "ThrottlingException", f"Too many {what}, please wait before trying again.")

    def failure(self, reply: Reply, model: str, request_id: str, headers: dict[str, str]) -> Failure:
        """{"message": …}, with the type in a header."""
        document: dict[str, Any] = {"message": reply.message.replace("{model}", model)}
        if reply.status == 424:
            document["originalStatusCode"] = 500
        types = {"content-type": self.json_type, "x-amzn-errortype": reply.kind + _CORAL}
        return Failure(reply.status, {"x-amzn-requestid": request_id, **types, **headers}, orjson.dumps(document))

    def limit_headers(self, left: dict[str, tuple[float, float, float]]) -> dict[str, str]:  # noqa: ARG002
        """Bedrock tells nothing."""
        return {}

    def usage_headers(self, usage: Usage, latency_s: float) -> dict[str, str]:
        """x-amzn-bedrock-*."""
        headers = {
            "x-amzn-bedrock-invocation-latency": str(round(latency_s * 1000)),
            "x-amzn-bedrock-input-token-count": str(usage.input_tokens),
            "x-amzn-bedrock-output-token-count": str(usage.output_tokens),
        }
        write = usage.cache_write_5m + usage.cache_write_1h
        if write or usage.cache_read:
            headers["x-amzn-bedrock-cache-read-input-token-count"] = str(usage.cache_read)
            headers["x-amzn-bedrock-cache-write-input-token-count"] = str(write)
        return headers

    def dress(self, answer: Answer) -> None:
        """The message names the model as Anthropic does: no `global.anthropic.` before it, no `-v1:0` behind."""
        answer.model = _VERSION.sub("", answer.model.rpartition("anthropic.")[2])

    def frame(self, event: dict[str, Any]) -> bytes:
        """An event of the stream's `chunk` member."""
        return chunk_event(orjson.dumps(event))

    def broken_frame(self) -> bytes:
        """A frame whose checksum does not fit."""
        frame = chunk_event(b'{"type":"content_block_delta"}')
        return frame[:-1] + bytes([frame[-1] ^ 0xFF])

    def error_frame(self) -> bytes:
        """A modelStreamErrorException."""
        body = {"message": "The model failed while streaming.", "originalStatusCode": 500}
        return exception_event("modelStreamErrorException", orjson.dumps(body))
