"""Answers to fuzz the response readers with: right ones of every kind, then spoiled; and what must hold of any result."""

import gzip
import itertools
import json
import random
import time
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
from tests.builders import call
from tests.wires import framed, in_chunks, response, stream_type

from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.cost_model import CostModel
from trivet_worker.adapters.protocol import MESSAGE_LIMIT, Answer, Failure
from trivet_worker.run.pricing import Pricing

PRICING = Pricing(CostModel(), time.time)
USAGE = {"input_tokens": 900, "output_tokens": 70}
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 10**12, 10**19, 1.5, 1e300, "", "x", "\ud83d", "\ude00\x1b[31m\u202e\x00", [], {}, [None], {"error": {}},
    {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "no"}}, {"type": "error", "error": {"type": "x"}}, "NaN",
)  # fmt: skip
DEEP = b'{"type":"content_block_start","index":0,"content_block":' + b'{"a":' * 1_500 + b"1" + b"}" * 1_500 + b"}"
HEADERS = (
    "retry-after",
    "retry-after-ms",
    "request-id",
    "content-encoding",
    "date",
    "anthropic-ratelimit-requests-reset",
)
VALUES = (
    "inf",
    "nan",
    "-1",
    "1e999",
    "99999999999",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "9999-12-31T23:59:59Z",
    "x\x9b31m",
    "br",
    "0",
)


class Fed(NamedTuple):
    """One answer as it is sent."""

    reply: bytes
    used: bool
    """True if the answer, before anything in it is spoiled, says that tokens were used."""


def events(rng: random.Random) -> list[Any]:
    """The events of a good stream."""
    blocks: list[list[dict[str, Any]]] = rng.choices(
        [
            [{"type": "text", "text": ""}, {"type": "text_delta", "text": "Gr\u00fc\u00dfe \U0001f600"}],
            [{"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm"},
             {"type": "signature_delta", "signature": "s"}],
            [{"type": "tool_use", "id": "t", "name": "f", "input": {}},
             {"type": "input_json_delta", "partial_json": '{"a": [1, '}, {"type": "input_json_delta", "partial_json": '"x"]}'}],
            [{"type": "compaction", "content": None}, {"type": "compaction_delta", "content": "so far"}],
            [{"type": "hologram", "beam": "a"}, {"type": "hologram_delta", "beam": "b", "more": [1]}],
        ],
        k=rng.randint(0, 4),
    )  # fmt: skip
    made: list[Any] = [
        {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "content": [],
                                              "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}}
    ]  # fmt: skip
    for index, (start, *deltas) in enumerate(blocks):
        made.append({"type": "content_block_start", "index": index, "content_block": start})
        made += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        made.append({"type": "content_block_stop", "index": index})
    stop = rng.choice(["end_turn", "max_tokens", "tool_use", "refusal"])
    made.append(
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": USAGE, "context_management": {"a": 1}}
    )
    made.append({"type": "message_stop"})
    return made


def message() -> dict[str, Any]:
    """A good message."""
    return {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
            "usage": dict(USAGE)}  # fmt: skip


def spoil_value(value: Any, rng: random.Random) -> Any:
    """The value with something in it replaced, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(sorted(value, key=str))
        made = {**value, name: spoil_value(value[name], rng)}
        if rng.random() < 0.15:
            del made[name]
        return made
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], spoil_value(value[at], rng), *value[at + 1 :]]
    return rng.choice(JUNK)


def spoil_bytes(body: bytes, rng: random.Random) -> bytes:
    """The bytes cut, with a bit turned, or with others among them."""
    at = rng.randrange(len(body) + 1)
    match rng.randrange(4):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
        case 2:
            return (
                body[:at] + rng.choice([b"\r", b"\n\n", b"\x00", b"\xff", b'"', b"data:", b"\xed\xa0\xbd"]) + body[at:]
            )
        case _:
            return body[:at] + body[max(0, at - 40) :]


def fed(wire: str, rng: random.Random, *, streams: bool) -> Fed:
    """One answer of this wire, more or less spoiled."""
    used = True
    if streams:
        sent = events(rng)
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            at, used = rng.randrange(len(sent)), False
            match rng.randrange(5):
                case 0:
                    del sent[at : at + rng.randint(0, 1)]
                    sent = sent or [None]
                case 1:
                    sent.insert(at, rng.choice(sent))
                case 2:
                    sent.insert(at, rng.choice([*JUNK, DEEP]))
                case _:
                    if not isinstance(sent[at], bytes):
                        sent[at] = spoil_value(sent[at], rng)
        frames = []
        for event in sent:
            name = rng.choice(["error", "ping"]) if rng.random() < 0.02 else None
            used = used and name is None
            frames.append(framed(wire, event if isinstance(event, bytes) else json.dumps(event).encode(), name))
        body = b"".join(frames)
    else:
        document: Any = message()
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            document, used = spoil_value(document, rng), False
        body = json.dumps(document).encode()
    if rng.random() < 0.3:
        body, used = spoil_bytes(body, rng), False
    status = 200 if rng.random() < 0.9 else rng.choice([204, 302, 400, 403, 429, 500, 529, 599])
    headers = {"content_type": stream_type(wire) if streams else "application/json"}
    if rng.random() < 0.1:
        body, headers["content_encoding"] = gzip.compress(body), "gzip"
    if rng.random() < 0.1:
        headers[rng.choice(HEADERS).replace("-", "_")] = rng.choice(VALUES)
        used = False
    used = used and status == 200
    if streams and status == 200 and rng.random() < 0.5:
        return Fed(in_chunks(_cut(body, rng), last=True, **headers), used)
    return Fed(response(body, status, **headers), used)


def _cut(body: bytes, rng: random.Random) -> list[bytes]:
    """Cut a body into pieces."""
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.choice([0, 1, 5, 40])))
    return [body[start:end] for start, end in itertools.pairwise([0, *cuts, len(body)])]


def check(result: Answer | Failure, fed: Fed) -> None:
    """Check the rules that hold for the result of any answer."""
    if isinstance(result, Answer):
        document = orjson.loads(result.message)
        orjson.dumps(document)
        assert isinstance(document["content"], list)
        assert result.stop_reason
        assert result.stop_reason.isprintable()
        settled = PRICING.settled(call(1), result, 1.0)
    else:
        assert not result.own_fault, result
        assert result.message.isprintable()
        assert len(result.message) <= MESSAGE_LIMIT
        assert result.retry_after_s is None or 0 <= result.retry_after_s <= 3_600
        settled = PRICING.failed(call(1), result, 1.0, called=True)
    assert result.request_id is None or (result.request_id.isprintable() and len(result.request_id) <= 200)
    if (
        result.usage is not None
        and result.usage.prompt_tokens + result.usage.output_tokens
        and not _is_refused(result.usage)
    ):
        assert settled.cost_usd != Decimal(0)
    if fed.used:
        assert isinstance(result, Answer), result
        assert result.usage is not None
    if isinstance(result, Answer):
        assert settled.cost_usd is None or settled.cost_usd > 0 or result.usage is not None


def _is_refused(usage: Usage) -> bool:
    """Return whether the call, or a pass of it, was refused before any output, which most providers do not bill."""
    return usage.refused is not None or any(part.refused is not None for part in usage.parts)
