"""The kind of content that a request asks for, and an answer of that kind: thinking, tool calls, JSON, a web search."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from trivet_simulator.schema import instance_of

CHARS_PER_TOKEN = 4
"""Roughly, for English text; see Anthropic's glossary on tokens."""
_THINKING_CHARS = 160
_FIELDS = ("tools", "thinking", "output_config", "output_format")


@dataclass(slots=True)
class Content:
    """The content of an answer, why it stops, and what it adds to the usage."""

    blocks: list[dict[str, Any]]
    stop_reason: str
    output_tokens: int
    usage: dict[str, Any] = field(default_factory=dict)


def content_for(document: Mapping[str, Any], text: str, lot: int, max_tokens: int) -> Content | None:
    """Return the content that a request asks for beyond plain text, or None. `text` is what the model would say."""
    if not any(document.get(name) for name in _FIELDS):
        return None
    rng = random.Random(lot)
    words = text.split() or ["stone"]
    blocks, usage, thought = _thinking(document, text, lot)
    used = thought
    called = _forced_calls(document, rng, words, lot)
    schema = _schema(document)
    if called:
        answer, stop = called, "tool_use"
    elif schema is not None:
        answer, stop = [_text(orjson.dumps(instance_of(schema, rng, words)).decode())], "end_turn"
    else:
        searched = _search(document, words, lot)
        if searched:
            usage["server_tool_use"] = {"web_search_requests": 1, "web_fetch_requests": 0}
        elif not blocks:
            return None
        answer, stop = [*searched, _text(text)], "end_turn"
    used += max(1, len(orjson.dumps(answer)) // CHARS_PER_TOKEN)
    if used > max_tokens:
        answer, stop, used = _cut(answer, max(0, max_tokens - thought)), "max_tokens", max_tokens
    if "output_tokens_details" in usage:
        usage["output_tokens_details"]["thinking_tokens"] = min(thought, used)
    return Content([*blocks, *answer], stop, used, usage)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _id(prefix: str, lot: int, number: int = 0) -> str:
    return f"{prefix}_01{base64.b32encode((lot + number).to_bytes(16, 'big')).decode().rstrip('=')}"


def _thinking(document: Mapping[str, Any], text: str, lot: int) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """The thinking block where thinking is on, its usage, and its tokens."""
    thinking = document.get("thinking")
    form = thinking.get("type") if isinstance(thinking, Mapping) else None
    if form not in ("enabled", "adaptive"):
        return [], {}, 0
    signature = base64.b64encode(lot.to_bytes(16, "big") * 4).decode()
    thought = text[:_THINKING_CHARS]
    shown = "" if isinstance(thinking, Mapping) and thinking.get("display") == "omitted" else thought
    tokens = max(1, len(thought) // CHARS_PER_TOKEN)
    block = {"type": "thinking", "thinking": shown, "signature": signature}
    return [block], {"output_tokens_details": {"thinking_tokens": tokens}}, tokens


def _forced_calls(
    document: Mapping[str, Any], rng: random.Random, words: list[str], lot: int
) -> list[dict[str, Any]] | None:
    """The tool calls that `tool_choice` forces, each with an input valid for its schema; None where it forces none."""
    choice, tools = document.get("tool_choice"), document.get("tools")
    form = choice.get("type") if isinstance(choice, Mapping) else None
    if form not in ("any", "tool") or not isinstance(choice, Mapping) or not isinstance(tools, list):
        return None
    own = [tool for tool in tools if isinstance(tool, Mapping) and isinstance(tool.get("name"), str)]
    if form == "tool":
        chosen = [tool for tool in own if tool["name"] == choice.get("name")][:1]
    else:
        alone = choice.get("disable_parallel_tool_use") or len(own) < 2
        chosen = rng.sample(own, k=1 if alone else rng.randint(1, 2)) if own else []
    return [
        {
            "type": "tool_use",
            "id": _id("toolu", lot, number),
            "name": tool["name"],
            "input": _input(tool, rng, words),
        }
        for number, tool in enumerate(chosen)
    ] or None


def _input(tool: Mapping[str, Any], rng: random.Random, words: list[str]) -> dict[str, Any]:
    made = instance_of(tool.get("input_schema", {"type": "object"}), rng, words)
    return made if isinstance(made, dict) else {}


def _schema(document: Mapping[str, Any]) -> object | None:
    config = document.get("output_config")
    form = config.get("format") if isinstance(config, Mapping) else document.get("output_format")
    return form.get("schema") if isinstance(form, Mapping) and form.get("type") == "json_schema" else None


def _search(document: Mapping[str, Any], words: list[str], lot: int) -> list[dict[str, Any]]:
    """A web search and its results, where the request has that tool and does not forbid tools."""
    choice, tools = document.get("tool_choice"), document.get("tools")
    forbidden = isinstance(choice, Mapping) and choice.get("type") == "none"
    kinds = [tool.get("type") for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    if forbidden or not any(isinstance(kind, str) and kind.startswith("web_search_") for kind in kinds):
        return []
    call = _id("srvtoolu", lot)
    found = {
        "type": "web_search_result",
        "url": "https://example.org/simulated",
        "title": " ".join(words[:4]),
        "encrypted_content": base64.b64encode(lot.to_bytes(16, "big")).decode(),
        "page_age": None,
    }
    return [
        {"type": "server_tool_use", "id": call, "name": "web_search", "input": {"query": " ".join(words[:3])}},
        {"type": "web_search_tool_result", "tool_use_id": call, "content": [found]},
    ]


def _cut(blocks: list[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    """Blocks as far as the tokens go: text breaks off, a tool call that does not fit has no input, the rest is missing."""
    left = tokens * CHARS_PER_TOKEN
    made: list[dict[str, Any]] = []
    for block in blocks:
        size = len(orjson.dumps(block))
        if size > left:
            if block["type"] == "text" and left:
                made.append(_text(block["text"][:left]))
            elif block["type"] == "tool_use":
                made.append({**block, "input": {}})
            break
        made.append(block)
        left -= size
    return made
