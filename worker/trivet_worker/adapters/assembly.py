"""Putting a message together from the events of a stream.

The SDK has its own (`lib.streaming`), over pydantic models rebuilt at each event, and it drops kinds of delta it does
not know: 5 ms of CPU a call, and a message that may lack something in silence. Here what is not known is an error.
Events: platform.claude.com/docs/en/build-with-claude/streaming.
"""

from typing import Any

import orjson

from trivet_tasks.usage import Usage
from trivet_worker.adapters.messages import read_usage

_GROWS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("input", "partial_json"),
}
"""Kind of delta: the field of the block that grows, and the field of the delta it grows by."""


class BrokenStream(Exception):
    """The events do not make a message."""


class Assembly:
    """A message being put together. Feed it every event in order; at the end `message` is it."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._pieces: dict[int, dict[str, list[str]]] = {}  # of each open block, what its fields grow by
        self.ended = False
        """The stream's own last event has come."""

    @property
    def message(self) -> dict[str, Any]:
        """The message as far as it came."""
        return self._message

    @property
    def usage(self) -> Usage | None:
        """What the call used as far as the provider said; the output so far, once it has begun."""
        usage = self._message.get("usage")
        return read_usage(usage, self._message) if isinstance(usage, dict) else None

    def take(self, event: object) -> None:
        """Add one event. BrokenStream when it does not fit what came before or is not understood."""
        try:
            self._take(event)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise BrokenStream(f"an event of the stream makes no sense ({type(error).__name__})") from None
        except orjson.JSONDecodeError:
            raise BrokenStream("the input of a tool call is not JSON") from None

    def _take(self, event: Any) -> None:
        kind = event["type"]
        if kind == "message_start":
            self._message = dict(event["message"])
            self._message["content"] = list(self._message["content"])
        elif kind == "content_block_start":
            if event["index"] != len(self._message["content"]):
                raise BrokenStream("the stream skipped a content block")
            self._message["content"].append(dict(event["content_block"]))
        elif kind == "content_block_delta":
            self._add(event["index"], event["delta"])
        elif kind == "content_block_stop":
            self._close(event["index"])
        elif kind == "message_delta":
            self._message.update(event["delta"])
            # cumulative totals; what does not apply is left out, and then the first event's figure holds
            told = {name: value for name, value in event.get("usage", {}).items() if value is not None}
            self._message["usage"] = {**self._message["usage"], **told}
        elif kind == "message_stop":
            if not self._message or self._pieces:
                raise BrokenStream("the stream ended in the middle of its message")
            self.ended = True
        # other kinds (ping, and what may come) carry nothing of the message

    def _add(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta["type"]
        if kind in _GROWS:
            field, source = _GROWS[kind]
            self._pieces.setdefault(index, {}).setdefault(field, []).append(delta[source])
        elif kind == "citations_delta":
            block = self._message["content"][index]
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        elif kind == "signature_delta":
            self._message["content"][index]["signature"] = delta["signature"]
        else:
            raise BrokenStream("the stream holds a kind of content this Trivet does not know")

    def _close(self, index: int) -> None:
        block = self._message["content"][index]
        for field, pieces in self._pieces.pop(index, {}).items():
            grown = "".join(pieces)
            if field != "input":
                block[field] = block.get(field, "") + grown
            elif grown:
                block[field] = orjson.loads(grown)
