"""The wires: how each names a model in its path, frames an answer, and says that something is wrong."""

from __future__ import annotations

from trivet_simulator.wires.anthropic import AnthropicWire
from trivet_simulator.wires.aws_messages import MantleWire, PlatformWire, RuntimeMessagesWire
from trivet_simulator.wires.bedrock import BedrockWire
from trivet_simulator.wires.vertex import VertexWire
from trivet_simulator.wires.wire import Route, Wire

WIRES: dict[str, type[Wire]] = {
    "anthropic": AnthropicWire,
    "bedrock": BedrockWire,
    "vertex": VertexWire,
    "messages": RuntimeMessagesWire,
    "mantle": MantleWire,
    "platform": PlatformWire,
}

__all__ = ["WIRES", "AnthropicWire", "BedrockWire", "Route", "VertexWire", "Wire"]
