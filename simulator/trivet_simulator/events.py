"""The events of a streamed answer: each content block begins, grows and ends as on the real wires."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

Event = dict[str, Any]


def block_events(index: int, block: Mapping[str, Any], pieces: int) -> Iterator[Event]:
    """Yield the events of one block, what grows in at most `pieces` deltas."""
    started, deltas = _parts(block, pieces)
    yield {"type": "content_block_start", "index": index, "content_block": started}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _parts(block: Mapping[str, Any], pieces: int) -> tuple[dict[str, Any], list[Event]]:
    """The block as it begins, and its deltas. A kind that does not grow begins whole."""
    match block.get("type"):
        case "text" if isinstance(text := block.get("text"), str):
            started = {**block, "text": ""}
            citations = block.get("citations")
            deltas: list[Event] = [{"type": "text_delta", "text": part} for part in _cut(text, pieces)]
            if citations:
                started["citations"] = []
                deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
            return started, deltas
        case "thinking" if isinstance(thinking := block.get("thinking"), str):
            deltas = [{"type": "thinking_delta", "thinking": part} for part in _cut(thinking, pieces)]
            deltas.append({"type": "signature_delta", "signature": block.get("signature", "")})
            return {**block, "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use" | "mcp_tool_use" if block.get("input"):
            written = orjson.dumps(block["input"]).decode()
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", *_cut(written, pieces))]
            return {**block, "input": {}}, deltas
        case "compaction" if isinstance(content := block.get("content"), str):
            return {**block, "content": None}, [{"type": "compaction_delta", "content": content}]
        case _:
            return dict(block), []


def _cut(text: str, pieces: int) -> list[str]:
    size = max(1, math.ceil(len(text) / max(1, pieces)))
    return [text[i : i + size] for i in range(0, len(text), size)]
