"""The work every set-up of the benchmark of cost gets. Standard library only: peers read it in environments of their own."""

from __future__ import annotations

from typing import Any

MODEL = "claude-haiku-4-5"
MAX_TOKENS = 64
LATENCY_S = 0.2
"""Seconds the simulator takes for each answer."""
ATTEMPT_HEADER = "x-trivet-attempt"
"""By it the simulator's log tells the calls apart."""
WORDS = "the river keeps a slow account of every stone that it has carried past the harbour wall "

WIRE_MODELS = {
    "anthropic": MODEL,
    "bedrock": "anthropic.claude-haiku-4-5-20251001-v1:0",
    "vertex": "claude-haiku-4-5@20251001",
}
"""Name of the model on each wire."""


def prompt(number: int, characters: int = 400) -> str:
    """A prompt of about this length, each a little different."""
    return f"Sum up page {number} in one sentence: {WORDS * (characters // len(WORDS) + 1)}"[: max(characters, 40)]


def messages(number: int, characters: int = 400) -> list[dict[str, Any]]:
    """The same as messages of the API."""
    return [{"role": "user", "content": prompt(number, characters)}]
