"""The Messages API on AWS: on bedrock-runtime, on bedrock-mantle, and Claude Platform on AWS.

Bodies, events and the model's errors are Anthropic's. What AWS itself refuses (credentials, the signature) comes in its
own form, with the type in a header; the platform answers in Anthropic's form to that, too (platform.claude.com, errors).
"""

from __future__ import annotations

import re
import uuid
from dataclasses import replace

import orjson

from trivet_simulator.answers import Answer
from trivet_simulator.catalogue import Reply
from trivet_simulator.http import Request
from trivet_simulator.limits import Refusal
from trivet_simulator.wires.anthropic import AnthropicWire
from trivet_simulator.wires.counting import AWS, MANTLE
from trivet_simulator.wires.wire import Counting, Failure, bearer

_SIGNED_FOR = re.compile(r"^AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/[^/]+/(?P<service>[^/]+)/aws4_request")
_VERSION = re.compile(r"-v\d+(:\d+)?$")


class RuntimeMessagesWire(AnthropicWire):
    """POST /anthropic/v1/messages of bedrock-runtime: ids of inference profiles, signed for `bedrock` or a bearer key."""

    name = "messages"
    path = "/anthropic/v1/messages"
    service = "bedrock"
    counting: Counting = AWS
    model = re.compile(r".+\.anthropic\.claude-.+|arn:.+|.*claude-test.*")
    max_body = 25_000_000
    id_prefix = "msg_bdrk_"
    request_id_header = "x-amzn-requestid"

    def request_id(self, token: bytes) -> str:
        """A UUID."""
        return str(uuid.UUID(bytes=token, version=4))

    def no_credentials(self, request: Request) -> Reply | None:
        """403 without a key or a signature, or with one that was made for another service."""
        if request.headers.get(b"x-api-key") or bearer(request):
            return None
        signed = _SIGNED_FOR.match(request.header(b"authorization") or "")
        if signed is None:
            return Reply(403, "AccessDeniedException", "Missing Authentication Token")
        if signed["service"] != self.service:
            what = f"Credential should be scoped to correct service: '{self.service}'."
            return Reply(403, "InvalidSignatureException", what)
        return None

    def unknown_model(self, model: str) -> Reply | None:
        """400 for an id that only another endpoint knows: InvokeModel's words for a bare one."""
        if self.model.fullmatch(model):
            return None
        what = f"Invocation of model ID {model} with on-demand throughput isn\u2019t supported."
        return self.invalid(
            f"{what} Retry your request with the ID or ARN of an inference profile that contains this model."
        )

    def limited(self, refusal: Refusal, model: str) -> Reply:
        """429 as Anthropic says it, without a retry-after."""
        return replace(super().limited(refusal, model), retry_after_s=None)

    def failure(self, reply: Reply, model: str, request_id: str, headers: dict[str, str]) -> Failure:
        """Anthropic's form; AWS's own for what its front door refuses."""
        if reply.kind.endswith("Exception"):
            told = {"x-amzn-requestid": request_id, "x-amzn-errortype": reply.kind, "content-type": self.json_type}
            return Failure(reply.status, {**told, **headers}, orjson.dumps({"message": reply.message}))
        made = super().failure(reply, model, request_id, headers)
        kept = {name: value for name, value in made.headers.items() if name not in ("request-id", "x-should-retry")}
        return Failure(made.status, {"x-amzn-requestid": request_id, **kept}, made.body)

    def limit_headers(self, left: dict[str, tuple[float, float, float]]) -> dict[str, str]:  # noqa: ARG002
        """Bedrock tells nothing."""
        return {}

    def dress(self, answer: Answer) -> None:
        """The message names the model as Anthropic does."""
        answer.model = _VERSION.sub("", answer.model.rpartition("anthropic.")[2])


class MantleWire(RuntimeMessagesWire):
    """POST /anthropic/v1/messages of bedrock-mantle: bare ids, signed for `bedrock-mantle` or a bearer key."""

    name = "mantle"
    service = "bedrock-mantle"
    counting: Counting = MANTLE
    model = re.compile(r"anthropic\.claude-.+|.*claude-test.*")

    def unknown_model(self, model: str) -> Reply | None:
        """404 for an id with the prefix of a profile, or a first-party one."""
        return None if self.model.fullmatch(model) else Reply(404, "not_found_error", f"model: {model}")


class PlatformWire(AnthropicWire):
    """Claude Platform on AWS: first-party ids, a workspace, signed for `aws-external-anthropic` or an API key."""

    name = "platform"
    service = "aws-external-anthropic"

    def no_credentials(self, request: Request) -> Reply | None:
        """401 as Anthropic says it, also for a signature; 400 without a workspace."""
        signed = _SIGNED_FOR.match(request.header(b"authorization") or "")
        key = request.headers.get(b"x-api-key") or bearer(request)
        if not key and (signed is None or signed["service"] != self.service):
            return Reply(401, "authentication_error", "The request could not be authenticated.")
        if not request.header(b"anthropic-workspace-id"):
            return self.invalid("anthropic-workspace-id: header is required")
        return None

    def unknown_model(self, model: str) -> Reply | None:
        """404 for the ids of Bedrock."""
        return Reply(404, "not_found_error", f"model: {model}") if "anthropic." in model else None
