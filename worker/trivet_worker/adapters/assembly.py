"""Putting a message together from the events of a stream.

The SDK has its own (`lib.streaming`), over pydantic models rebuilt at each event: 5 ms of CPU a call. This one follows
its rules, and goes on where the SDK stops or drops something: the data that came was paid for. A delta of an unknown
kind grows the fields of its block that it names. A fault that makes the message useless is noted, and the events after
it are still read, for the last ones state the usage of the call.
Events: platform.claude.com/docs/en/build-with-claude/streaming.
"""

from dataclasses import dataclass, field
from typing import Any

import jiter

from trivet_tasks.foreign_text import paired
from trivet_tasks.outcomes import Usage
from trivet_worker.adapters.answers import NotJson, loads
from trivet_worker.adapters.usage import usage_of

MAX_BLOCKS = 10_000
"""Maximum number of content blocks of one message."""
UNPARSED = "INVALID_JSON"
"""Key under which the vendor has tool input sent back that is no JSON (platform.claude.com, "Fine-grained tool streaming")."""
_STARTS_ITSELF = {"text_delta": "text", "thinking_delta": "thinking"}
"""Kinds of delta whose block is known without the event that starts it."""
_REPLACES = frozenset({"signature_delta", "compaction_delta"})
"""Kinds of delta that bring their fields whole."""
_COMPLETE = frozenset({"end_turn", "tool_use", "stop_sequence"})
"""Stop reasons after which tool input is complete; after others (`max_tokens`) it may end in its middle."""
_NOT_OF_THE_DELTA = frozenset({"type", "role", "content", "usage", "delta"})
"""Fields of a message that no `message_delta` changes in the ordinary way."""


class BrokenStream(Exception):
    """The events do not form a message. The text is for a person."""


@dataclass(slots=True)
class _Block:
    index: int
    value: dict[str, Any]
    grown: dict[str, list[str]] = field(default_factory=dict)
    """Texts that a field has grown by."""
    input: list[str] = field(default_factory=list)
    """The JSON of a tool's input, in pieces."""
    open: bool = True

    def grow(self, delta: dict[str, Any]) -> None:
        """Add a delta by its kind; of an unknown kind, texts and lists grow and the rest is replaced."""
        kind = _kind(delta)
        if isinstance(delta.get("partial_json"), str):
            self.input.append(delta["partial_json"])
        elif kind == "citations_delta":
            known = self.value.get("citations")
            if not isinstance(known, list):
                known = self.value["citations"] = []
            known.append(delta.get("citation"))
        elif kind in _REPLACES:
            self.value.update((name, value) for name, value in delta.items() if name != "type")
        else:
            for name, value in delta.items():
                if name != "type":
                    self._grow(name, value)

    def _grow(self, name: str, value: object) -> None:
        known = self.value.get(name)
        if isinstance(value, str) and (known is None or isinstance(known, str)):
            self.grown.setdefault(name, []).append(value)
        elif isinstance(value, list) and isinstance(known, list):
            known.extend(value)
        elif isinstance(value, dict) and isinstance(known, dict):
            known.update(value)
        elif value is not None:
            self.value[name] = value

    def whole(self, *, cut: bool) -> dict[str, Any]:
        """Return the block with all that it grew by.

        Args:
            cut: its tool input may end in its middle.

        Raises:
            NotJson: its tool input is not JSON.
        """
        for name, pieces in self.grown.items():
            known = self.value.get(name)
            self.value[name] = "".join([known, *pieces] if isinstance(known, str) else pieces)
        if grown := paired("".join(self.input)):
            self.value["input"] = _tool_input(grown, cut=cut)
        return self.value


class Assembly:
    """A message being put together. Feed it every event in order; after the last, `message` gives it."""

    def __init__(self) -> None:
        self._message: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}
        self._blocks: list[_Block] = []
        self._at: dict[int, _Block] = {}  # the last block of each index
        self._last = -1
        self._fault = ""
        self._counted = False
        self.ended = False
        """True once the stream's own last event has come."""

    @property
    def began(self) -> bool:
        """Return whether anything of a message has come: the provider has done work."""
        return self._message is not None or bool(self._blocks)

    @property
    def spoiled(self) -> bool:
        """Return whether no message can result any more."""
        return bool(self._fault)

    @property
    def is_whole(self) -> bool:
        """Return whether nothing of the message can be missing: it has a stop reason, and all that was begun is ended."""
        stopped = self._message is not None and bool(self._message.get("stop_reason"))
        return self.ended or (stopped and not self._fault and not any(block.open for block in self._blocks))

    @property
    def usage(self) -> Usage | None:
        """Return the call's usage as far as the provider stated it; the output so far, once it has begun."""
        content = [block.value if not (block.grown or block.input) else {"type": "grown"} for block in self._blocks]
        return usage_of({**(self._message or {}), "content": content, "usage": self._usage})

    @property
    def final_usage(self) -> Usage | None:
        """Return the call's whole usage, once the provider has stated the answer's length."""
        return self.usage if self._counted else None

    def message(self) -> dict[str, Any]:
        """Return the message. Its usage is left out where the stream did not state the answer's final length.

        Raises:
            BrokenStream: the events form no message; says why.
        """
        if self._fault:
            raise BrokenStream(self._fault)
        if self._message is None or not self.is_whole:
            raise BrokenStream("the stream ended in the middle of its message")
        stop_reason = self._message.get("stop_reason")
        cut = not isinstance(stop_reason, str) or stop_reason not in _COMPLETE
        try:
            blocks = sorted(self._blocks, key=lambda block: block.index)
            self._message["content"] = [block.whole(cut=cut) for block in blocks]
        except NotJson:
            raise BrokenStream("the input of a tool call is not JSON") from None
        if self._usage and self._counted:
            self._message["usage"] = self._usage
        else:
            self._message.pop("usage", None)
        return self._message

    def spoil(self, reason: str) -> None:
        """Note why no message can result. Later events still state the usage of the call."""
        self._fault = self._fault or reason

    def take(self, event: object) -> None:
        """Add one event. Unknown kinds carry nothing of the message and are skipped."""
        if not isinstance(event, dict):
            return self.spoil("an event of the stream makes no sense")
        kind = event.get("type")
        if kind == "content_block_delta":
            self._grow(event)
        elif kind == "content_block_start":
            self._start_block(event)
        elif kind == "content_block_stop":
            self._stop_block(event)
        elif kind == "message_start":
            self._start(event.get("message"))
        elif kind == "message_delta":
            self._change(event)
        elif kind == "message_stop":
            self.ended = True
        return None

    def _start(self, message: object) -> None:
        if not isinstance(message, dict):
            return self.spoil("the stream begins without a message")
        self._count(message.get("usage"))
        if self._message is not None:  # once more, in the middle: it has nothing new
            return None
        self._message = {**message, "content": []}
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            self._start_block({"content_block": block})
            self._stop_block({})
        return None

    def _start_block(self, event: dict[str, Any]) -> None:
        value = event.get("content_block")
        if not isinstance(value, dict):
            return self.spoil("a content block of the stream is none")
        if len(self._blocks) >= MAX_BLOCKS:
            return self.spoil(f"the stream has more than {MAX_BLOCKS:,} content blocks")
        index = _index(event, self._last + 1)
        self._add(_Block(index, dict(value)))
        return None

    def _add(self, block: _Block) -> _Block:
        self._blocks.append(block)
        self._at[block.index] = block
        self._last = block.index
        return block

    def _grow(self, event: dict[str, Any]) -> None:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            return self.spoil("a delta of the stream is none")
        index = _index(event, max(0, self._last))
        block = self._at.get(index)
        if block is None:
            kind = _STARTS_ITSELF.get(_kind(delta))
            if kind is None:
                return self.spoil("the stream goes on with a content block that it has not begun")
            block = self._add(_Block(index, {"type": kind, kind: ""}))
        block.grow(delta)
        return None

    def _stop_block(self, event: dict[str, Any]) -> None:
        block = self._at.get(_index(event, max(0, self._last)))
        if block is not None:
            block.open = False

    def _change(self, event: dict[str, Any]) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._counted = self._counted or usage.get("output_tokens") is not None
            self._count(usage)
        if self._message is None:
            return self.spoil("the stream ended without having begun its message")
        delta = event.get("delta")
        for changes in (event, delta if isinstance(delta, dict) else {}):
            for name, value in changes.items():
                if name not in _NOT_OF_THE_DELTA and (value is not None or name not in self._message):
                    self._message[name] = value
        return None

    def _count(self, usage: object) -> None:
        """Take cumulative totals; where a figure is left out, that of an earlier event holds."""
        if isinstance(usage, dict):
            self._usage.update((name, value) for name, value in usage.items() if value is not None)


def _kind(delta: dict[str, Any]) -> str:
    kind = delta.get("type")
    return kind if isinstance(kind, str) else ""


def _index(event: dict[str, Any], otherwise: int) -> int:
    index = event.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else otherwise


def _tool_input(text: str, *, cut: bool) -> Any:
    """Parse tool input; where it may be cut off, as far as it goes, as the SDK does."""
    raw = text.encode()
    try:
        return loads(raw)
    except NotJson:
        if not cut:
            raise
    try:
        return jiter.from_json(raw, partial_mode=True)
    except ValueError:
        return {UNPARSED: text}
