"""The events of a whole message: those by which a provider would have streamed it.

Events: platform.claude.com/docs/en/build-with-claude/streaming.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

_LATE = ("stop_reason", "stop_sequence", "stop_details")
"""Fields of a message that its last events bring."""


class Event(NamedTuple):
    """One event of a streamed answer. `data` is its JSON, without line ends; `type` its type, e.g. `message_start`."""

    data: bytes
    type: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Event":
        """Return the event of a document that has a type."""
        return cls(orjson.dumps(document), document["type"])


MESSAGE_STOP = Event.of({"type": "message_stop"})


def message_events(message: Mapping[str, Any]) -> Iterator[Event]:
    """Yield the events of a message: each content block begins, grows by one delta of each kind, and ends.

    [event.type for event in message_events({"content": [], "stop_reason": "end_turn", "usage": {"output_tokens": 1}})]
    ["message_start", "message_delta", "message_stop"]
    """
    given = message.get("usage")
    usage = given if isinstance(given, Mapping) else {}
    late = {name: message.get(name) for name in _LATE if name in message}
    begun = {
        **message,
        **dict.fromkeys(late),
        "content": [],
        "usage": {"input_tokens": 0, **usage, "output_tokens": 0},
    }
    yield Event.of({"type": "message_start", "message": begun})
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        started, deltas = _parts(block)
        yield Event.of({"type": "content_block_start", "index": index, "content_block": started})
        for delta in deltas:
            yield Event.of({"type": "content_block_delta", "index": index, "delta": delta})
        yield Event.of({"type": "content_block_stop", "index": index})
    change = {"stop_reason": None, "stop_sequence": None, **late}
    yield Event.of({"type": "message_delta", "delta": change, "usage": {"output_tokens": 0, **usage}})
    yield MESSAGE_STOP


def _parts(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the block as it begins, and its deltas. A kind that does not grow begins whole."""
    match block.get("type"):
        case "text" if isinstance(text := block.get("text"), str):
            started = {**block, "text": ""}
            deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": text}] if text else []
            if isinstance(citations := block.get("citations"), list):
                started["citations"] = []
                deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
            return started, deltas
        case "thinking" if isinstance(thinking := block.get("thinking"), str):
            deltas = [{"type": "thinking_delta", "thinking": thinking}] if thinking else []
            deltas.append({"type": "signature_delta", "signature": block.get("signature") or ""})
            return {**block, "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use" | "mcp_tool_use" if block.get("input"):
            written = orjson.dumps(block["input"]).decode()
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": written}]
        case "compaction" if isinstance(text := block.get("content"), str):
            return {**block, "content": None}, [{"type": "compaction_delta", "content": text}]
        case _:
            return block, []
