"""Token counts on the wires: POST /v1/messages/count_tokens, Vertex's `count-tokens:rawPredict`, Bedrock's CountTokens."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import orjson

from trivet_simulator.http import Request
from trivet_simulator.wires.wire import Route

_VERTEX = re.compile(
    r"^(?:/v1(?:beta1)?)?/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/count-tokens:rawPredict$"
)
_AWS = re.compile(r"^/model/(?P<model>.+)/count-tokens$")
_BASE_ID = re.compile(r"anthropic\.claude-.+|.*claude-test.*")
"""Ids that CountTokens takes: those of models, not of inference profiles."""


class MessagesCounting:
    """Counts of the Anthropic API, at a path of its own; the model is in the body."""

    def __init__(self, path: re.Pattern[str] | str) -> None:
        self._path = re.compile(re.escape(path)) if isinstance(path, str) else path

    def route(self, request: Request) -> Route | None:
        """Return the route of POST to its path."""
        return Route() if request.method == "POST" and self._path.fullmatch(request.path) else None

    def asked(self, document: dict[str, Any], model: str) -> dict[str, Any] | str:  # noqa: ARG002 - in the body
        """Return the body; it has no `max_tokens` of its own."""
        for name in ("max_tokens", "stream", "stop_sequences", "metadata"):
            if name in document:
                return f"{name}: Extra inputs are not permitted"
        return {**document, "max_tokens": 1}

    def answer(self, tokens: int) -> bytes:
        """{"input_tokens": …}."""
        return orjson.dumps({"input_tokens": tokens})


class AwsCounting:
    """CountTokens of bedrock-runtime: the body of InvokeModel, in base64."""

    def route(self, request: Request) -> Route | None:
        """Return the model in the path."""
        found = _AWS.match(request.path) if request.method == "POST" else None
        return Route(found["model"]) if found else None

    def asked(self, document: dict[str, Any], model: str) -> dict[str, Any] | str:
        """Return the body of InvokeModel, as it is."""
        if not _BASE_ID.fullmatch(model):
            return "The provided model doesn't support counting tokens."
        given = document.get("input")
        invoked = given.get("invokeModel") if isinstance(given, dict) else None
        body = invoked.get("body") if isinstance(invoked, dict) else None
        try:
            asked = orjson.loads(base64.b64decode(body, validate=True)) if isinstance(body, str) else None
        except (binascii.Error, orjson.JSONDecodeError):
            asked = None
        return asked if isinstance(asked, dict) else "input.invokeModel.body: must be a request in base64"

    def answer(self, tokens: int) -> bytes:
        """{"inputTokens": …}."""
        return orjson.dumps({"inputTokens": tokens})


FIRST_PARTY = MessagesCounting("/v1/messages/count_tokens")
MANTLE = MessagesCounting("/anthropic/v1/messages/count_tokens")
VERTEX = MessagesCounting(_VERTEX)
AWS = AwsCounting()
