"""An error answer, and a fault as each of the three wires answers it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """One error answer. `kind`: Anthropic's error type, Bedrock's exception or Google's status."""

    status: int
    kind: str
    message: str
    code: str | None = None
    """Anthropic: `error.details.error_code`."""
    retry_after_s: float | None = None
    """Sent as `retry-after` when the fault itself does not say otherwise."""
    passed_on: bool = False
    """Vertex: Anthropic's own body, handed through."""
    code_in_body: int | None = None
    """Vertex: `error.code` where it differs from the HTTP status."""


@dataclass(frozen=True, slots=True)
class Row:
    """A fault as the three wires show it."""

    about: str
    anthropic: Reply | None = None
    bedrock: Reply | None = None
    vertex: Reply | None = None

    def on(self, wire: str) -> Reply | None:
        """The answer on one wire, or None where it has none."""
        return {"anthropic": self.anthropic, "bedrock": self.bedrock, "vertex": self.vertex}.get(wire)


def invalid_everywhere(about: str, message: str) -> Row:
    """Return the row of a request that the model's own API refuses: a 400 with the same message on every wire."""
    return Row(
        about,
        Reply(400, "invalid_request_error", message),
        Reply(400, "ValidationException", message),
        Reply(400, "invalid_request_error", message, passed_on=True),
    )
