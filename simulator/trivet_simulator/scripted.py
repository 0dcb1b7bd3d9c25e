"""Replies that a test or a user scripts: which request gets which answer.

A rule has a filter (`provider`, `model`, `contains`, `matches`, `times`) and one of
    reply      a text; a list of content blocks; an object with fields of the message (`content`, `stop_reason`, `usage`, …)
               over what the model would say; `{"error": KIND, …}` with the fields of a fault
    callback   a URL on this machine that is asked with each request and answers with `{"reply": …}` of those forms, or
               `{"failed": NAME}`
The first rule that fits a request decides.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

from trivet_simulator import matching
from trivet_simulator.answers import Answer
from trivet_simulator.checks import ControlError, known, mapping, number, text, whole
from trivet_simulator.content import CHARS_PER_TOKEN
from trivet_simulator.faults import Fault, fault_from
from trivet_simulator.matching import RequestFilter, filter_from

FIELDS = ("provider", *matching.FIELDS, "times", "reply", "callback", "timeout_s")
CALLBACK_TIMEOUT_S = 10.0
MAX_CALLBACK_TIMEOUT_S = 600.0
_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read",
    "cache_creation_input_tokens": "cache_write_5m",
}
_HERE = ("127.0.0.1", "localhost", "::1")


class CallbackFailed(Exception):
    """The callback gave no reply; `str()` says why, for whoever wrote it."""


@dataclass(slots=True)
class ReplyRule:
    """One rule, and how often it has decided."""

    provider: str | None
    only: RequestFilter
    times: int | None
    reply: Any = None
    callback: str | None = None
    timeout_s: float = CALLBACK_TIMEOUT_S
    hits: int = 0
    id: int = 0
    """Given by the book."""

    def fits(self, provider: str, model: str, document: Mapping[str, Any]) -> bool:
        """Return whether the rule is for this request."""
        if self.provider not in (None, provider) or (self.times is not None and self.hits >= self.times):
            return False
        return self.only.passes(model, document)


def rules_from(document: object, providers: Mapping[str, str]) -> list[ReplyRule]:
    """Read one rule or a list from control input; `providers` maps names to wires. ControlError names a bad field."""
    given = document if isinstance(document, list) else [document]
    return [_rule_from(mapping(one, "reply"), providers) for one in given]


def _rule_from(document: Mapping[str, Any], providers: Mapping[str, str]) -> ReplyRule:
    known(document, FIELDS)
    provider = text(document, "provider", choices=tuple(providers))
    callback = text(document, "callback")
    if (callback is None) == (document.get("reply") is None):
        raise ControlError("reply", "give reply or callback, one of the two")
    if callback is not None and (urlsplit(callback).scheme != "http" or urlsplit(callback).hostname not in _HERE):
        raise ControlError("callback", "must be an http URL of this machine")
    if callback is None:
        for wire in {providers[provider]} if provider else set(providers.values()):
            check_reply(document["reply"], wire)
    return ReplyRule(
        provider,
        filter_from(document),
        whole(document, "times", low=1),
        document.get("reply"),
        callback,
        number(document, "timeout_s", above=True, high=MAX_CALLBACK_TIMEOUT_S) or CALLBACK_TIMEOUT_S,
    )


def check_reply(reply: object, wire: str) -> Fault | None:
    """Check a reply; returns the fault where it is an error. ControlError names what is wrong."""
    if isinstance(reply, str):
        return None
    if isinstance(reply, list):
        _check_content(reply)
        return None
    fields = mapping(reply, "reply")
    if "error" in fields:
        fault = {name: value for name, value in fields.items() if name != "error"}
        return fault_from({"kind": fields["error"], **fault}, wire)
    content = fields.get("content")
    if content is not None and not isinstance(content, str):
        _check_content(content)
    if fields.get("usage") is not None:
        mapping(fields["usage"], "reply.usage")
    return None


def _check_content(blocks: object) -> None:
    if not isinstance(blocks, list):
        raise ControlError("reply.content", "must be a text or a list of content blocks")
    for index, block in enumerate(blocks):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise ControlError(f"reply.content[{index}]", "must be an object with a type")


def apply(reply: object, answer: Answer) -> None:
    """Lay a checked reply that is no error over the answer. Tokens are counted anew where the content is."""
    fields: dict[str, Any] = dict(reply) if isinstance(reply, dict) else {"content": reply}
    content = fields.pop("content", None)
    usage = fields.pop("usage", None)
    if content is not None:
        answer.blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if isinstance(content, str) and not content:
            answer.blocks = []
        answer.extra_usage = {}
        size = sum(len(str(block.get("text", ""))) or len(orjson.dumps(block)) for block in answer.blocks)
        answer.usage.output_tokens = max(1, size // CHARS_PER_TOKEN)
        calls = any(block["type"] == "tool_use" for block in answer.blocks)
        answer.stop_reason = "tool_use" if calls else "end_turn"
    for name, attribute in (
        ("id", "id"),
        ("model", "model"),
        ("stop_reason", "stop_reason"),
        ("stop_details", "stop_details"),
    ):
        if name in fields:
            setattr(answer, attribute, fields.pop(name))
    fields.pop("type", None)
    fields.pop("role", None)
    answer.extra = fields
    for name, value in (usage or {}).items():
        if name in _COUNTS and isinstance(value, int) and not isinstance(value, bool):
            setattr(answer.usage, _COUNTS[name], value)
            if name == "cache_creation_input_tokens":
                answer.usage.cache_write_1h = 0
        else:
            answer.extra_usage[name] = value


def ask_callback(url: str, call: Mapping[str, Any], timeout_s: float) -> Any:
    """Ask a callback for the reply to a call; blocks. Returns the reply, None for what the model would say.

    Raises:
        CallbackFailed: it raised, was too slow, is not there, or answered something else.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", parts.path or "/", orjson.dumps(call), {"content-type": "application/json"})
        answered = orjson.loads(connection.getresponse().read())
    except TimeoutError:
        raise CallbackFailed(f"the reply function gave no answer within {timeout_s:g} s") from None
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
        raise CallbackFailed(f"the reply function cannot be asked: {type(error).__name__}") from None
    finally:
        connection.close()
    if not isinstance(answered, dict) or "failed" in answered:
        said = answered.get("failed") if isinstance(answered, dict) else None
        raise CallbackFailed(f"the reply function failed: {said}")
    return answered.get("reply")


@dataclass
class ReplyBook:
    """The rules of one simulator, in order; those it was started with come last and stay."""

    lasting: list[ReplyRule] = field(default_factory=list)
    rules: list[ReplyRule] = field(default_factory=list)

    _given: int = 0

    def put(self, rules: list[ReplyRule], *, before: bool) -> None:
        """Set rules in place of those before, or `before` them."""
        for rule in rules:
            self._given += 1
            rule.id = self._given
        self.rules = [*rules, *(self.rules if before else ())]

    def remove(self, number: int) -> bool:
        """Take the rule of this id back; False where there is none."""
        found = len(self.rules)
        self.rules = [rule for rule in self.rules if rule.id != number]
        return len(self.rules) < found

    def pick(self, provider: str, model: str, document: Mapping[str, Any]) -> ReplyRule | None:
        """Return the rule for a request, counted, or None."""
        for rule in (*self.rules, *self.lasting):
            if rule.fits(provider, model, document):
                rule.hits += 1
                return rule
        return None

    def as_json(self) -> list[dict[str, Any]]:
        """Return filters and counts, without the replies."""
        return [
            {
                "id": rule.id,
                "provider": rule.provider,
                "model": rule.only.model,
                "contains": rule.only.contains,
                "matches": rule.only.matches,
                "times": rule.times,
                "callback": rule.callback,
                "hits": rule.hits,
            }
            for rule in (*self.rules, *self.lasting)
        ]
