"""A paid answer is never thrown away: streams and bodies as gateways and clouds send them, on each wire, through the real SDK."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.answers import check, fed
from tests.wires import (
    BODY,
    MODELS,
    WIRES,
    answered_with,
    fed_wire,
    framed,
    response,
    settings_of,
    stream,
    stream_type,
    worked,
)

from trivet_tasks.outcomes import Outcome, Usage
from trivet_worker.adapters.headers import MAX_WAIT_S
from trivet_worker.adapters.protocol import Answer, CallLimits, Failure

pytestmark = pytest.mark.usefixtures("no_credentials")

Event = dict[str, Any]
START: Event = {
    "type": "message_start",
    "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
                "usage": {"input_tokens": 9, "output_tokens": 1}},
}  # fmt: skip
STOP: Event = {"type": "message_stop"}
TEXT: list[Event] = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_stop", "index": 0},
]


def end(stop_reason: str = "end_turn", /, **more: Any) -> list[Event]:
    usage = more.pop("usage", {"output_tokens": 12})
    return [{"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage, **more}, STOP]


def grown(index: int, **delta: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def opened(index: int, **block: Any) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def streamed(wire: str, events: list[Any], **headers: str) -> Answer | Failure:
    reply = response(stream(wire, events), content_type=stream_type(wire), **headers)
    return answered_with(wire, reply, streams=True)


def answered(result: Answer | Failure) -> tuple[Answer, dict[str, Any]]:
    assert isinstance(result, Answer), result
    return result, orjson.loads(result.message)


def failed(result: Answer | Failure) -> Failure:
    assert isinstance(result, Failure), result
    return result


def whole(**change: Any) -> bytes:
    message = {"type": "message", "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
               "usage": {"input_tokens": 3, "output_tokens": 4}, **change}  # fmt: skip
    return json.dumps(message).encode()


def tool(*pieces: str) -> list[Event]:
    return [
        opened(0, type="tool_use", id="t", name="f", input={}),
        *(grown(0, type="input_json_delta", partial_json=piece) for piece in pieces),
        {"type": "content_block_stop", "index": 0},
    ]


STREAMS: dict[str, tuple[list[Any], list[Any]]] = {
    "compaction": (
        [START, opened(0, type="compaction", content=None), grown(0, type="compaction_delta", content="so far", encrypted_content="e"),
         {"type": "content_block_stop", "index": 0}, *end()],
        [{"type": "compaction", "content": "so far", "encrypted_content": "e"}],
    ),
    "unknown delta of a known block": (
        [START, TEXT[0], grown(0, type="hologram_delta", text="He", beam=[1]), grown(0, type="hologram_delta", text="llo", beam=[2]),
         TEXT[2], *end()],
        [{"type": "text", "text": "Hello", "beam": [1, 2]}],
    ),
    "unknown block": (
        [START, opened(0, type="hologram", beam="a"), grown(0, type="hologram_delta", beam="b"), *end()],
        [{"type": "hologram", "beam": "ab"}],
    ),
    "unknown events": ([START, {"type": "weather", "index": "x"}, *TEXT, {"type": "ping"}, *end()], [{"type": "text", "text": "Hello"}]),
    "no content in message_start": (
        [{"type": "message_start", "message": {"type": "message", "content": None, "usage": {"input_tokens": 9, "output_tokens": 1}}},
         *TEXT, *end()],
        [{"type": "text", "text": "Hello"}],
    ),
    "indexes with gaps": (
        [START, opened(3, type="text", text="b"), opened(1, type="text", text="a"), grown(3, type="text_delta", text="c"), *end()],
        [{"type": "text", "text": "a"}, {"type": "text", "text": "bc"}],
    ),
    "a block that was not begun": ([START, *TEXT[1:], *end()], [{"type": "text", "text": "Hello"}]),
    "a block that was not ended": ([START, *TEXT[:2], *end()], [{"type": "text", "text": "Hello"}]),
    "tool input cut off": (
        [START, *tool('{"a": [1, 2], "b": "cut o'), *end("max_tokens")],
        [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, 2]}}],
    ),
    "tool input cut off at once": ([START, *tool("}"), *end("max_tokens")],
                                   [{"type": "tool_use", "id": "t", "name": "f", "input": {"INVALID_JSON": "}"}}]),
    "a surrogate pair in two deltas": (
        [START, TEXT[0], b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\ud83d"}}',
         b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\ude00b"}}', TEXT[2], *end()],
        [{"type": "text", "text": "a\U0001f600b"}],
    ),
    "a lone half": (
        [START, TEXT[0], b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\ude00b"}}', TEXT[2], *end()],
        [{"type": "text", "text": "a\ufffdb"}],
    ),
    "a pair in two pieces of tool input": ([START, *tool('{"a": "\\ud83d', '\\ude00"}'), *end("tool_use")],
                                           [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "\U0001f600"}}]),
}  # fmt: skip


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_is_not_as_documented_is_an_answer_all_the_same(wire: str, case: str) -> None:
    events, content = STREAMS[case]
    answer, message = answered(streamed(wire, events))
    assert message["content"] == content
    assert answer.usage == Usage(9, 12, model=message.get("model"))
    assert answer.stop_reason == message["stop_reason"]


@pytest.mark.parametrize("wire", WIRES)
def test_what_the_last_events_bring_beside_the_delta_is_part_of_the_message(wire: str) -> None:
    more = {"context_management": {"applied_edits": []}, "input_transformations": [{"type": "x"}], "new": 1}
    _, message = answered(streamed(wire, [START, *TEXT, *end(**more)]))
    assert {name: message[name] for name in more} == more


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("usage", [None, "", [], {"output_tokens": -1}, {"output_tokens": 2**31}, {"output_tokens": 1.5},
                                   {"output_tokens": True}, {"output_tokens": "12"}, {"output_tokens": 10**19}])  # fmt: skip
def test_a_stream_without_a_readable_usage_is_an_answer_whose_cost_is_estimated(wire: str, usage: Any) -> None:
    answer, _ = answered(streamed(wire, [START, *TEXT, *end(usage=usage)]))
    assert answer.usage is None


@pytest.mark.parametrize("wire", WIRES)
def test_message_start_without_usage(wire: str) -> None:
    start = {"type": "message_start", "message": {"type": "message", "content": []}}
    assert answered(streamed(wire, [start, *TEXT, *end()]))[0].usage is None
    used = answered(streamed(wire, [start, *TEXT, *end(usage={"input_tokens": 7, "output_tokens": 8})]))[0].usage
    assert used == Usage(7, 8)


@pytest.mark.parametrize("wire", ["anthropic", "vertex"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_events_without_names_and_with_any_line_ends(wire: str, ending: bytes) -> None:
    body = b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in [START, *TEXT, *end()]).replace(b"\n", ending)
    pieces = [response(body[:1], content_type="text/event-stream", content_length=str(len(body))), *([body[1:]])]
    assert answered(answered_with(wire, pieces, streams=True))[1]["content"][0]["text"] == "Hello"


@pytest.mark.parametrize("wire", WIRES)
def test_what_an_unusable_stream_used_is_booked(wire: str) -> None:
    failure = failed(streamed(wire, [START, *tool("}{"), *end("tool_use")]))
    assert (failure.outcome, failure.usage) == (Outcome.INCOMPLETE, Usage(9, 12, model="m"))
    garbled = failed(streamed(wire, [START, TEXT[0], b'{"type": ', *TEXT[1:], *end()]))
    assert (garbled.outcome, garbled.usage) == (Outcome.INCOMPLETE, Usage(9, 12, model="m"))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_a_cut_stream_is_no_result_and_nobody_knows_what_it_cost(wire: str, kept: int) -> None:
    failure = failed(streamed(wire, [START, *TEXT][:kept]))
    assert (failure.outcome, failure.usage, failure.may_be_billed) == (Outcome.INCOMPLETE, None, True)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [(503, "UNAVAILABLE", Outcome.OVERLOADED), (500, "INTERNAL", Outcome.SERVER_ERROR)],
)
def test_a_google_error_object_in_a_stream_is_an_error_like_any(
    wire: str, listed: bool, code: int, status: str, outcome: Outcome
) -> None:
    error = {"error": {"code": code, "message": "not now", "status": status}}
    failure = failed(streamed(wire, [START, [error] if listed else error]))
    assert (failure.outcome, failure.message, failure.usage, failure.may_be_billed) == (
        outcome,
        "not now",
        Usage(9, 1, model="m"),
        True,
    )
    body = json.dumps([error] if listed else error).encode()
    assert failed(answered_with(wire, response(body), streams=False)).outcome is outcome


def test_a_google_quota_error_in_a_vertex_stream_is_a_rate_limit() -> None:
    error = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED",
                       "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]}}  # fmt: skip
    failure = failed(streamed("vertex", [error]))
    assert (failure.outcome, failure.retry_after_s, failure.may_be_billed) == (Outcome.RATE_LIMITED, 7.0, False)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("usage", [None, [], {}, {"input_tokens": None, "output_tokens": None}, {"input_tokens": 3},
                                   {"input_tokens": 3, "output_tokens": -1}, {"input_tokens": 10**12, "output_tokens": 1},
                                   {"input_tokens": 10**19, "output_tokens": 1}, {"input_tokens": 3, "output_tokens": 0.5},
                                   {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 2**31},
                                   {"input_tokens": 2**31 - 1, "output_tokens": 4, "cache_read_input_tokens": 1}])  # fmt: skip
def test_a_whole_answer_is_a_result_whatever_its_usage(wire: str, usage: Any) -> None:
    answer, message = answered(answered_with(wire, response(whole(usage=usage)), streams=False))
    assert (answer.usage, message["usage"]) == (None, usage)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'"\\ud83d"', "\ufffd"), (b'"\\ud83d\\ude00"', "\U0001f600"), (b'"\xed\xa0\xbd\xed\xb8\x80"', "\U0001f600"), (b'"a\xffb"', "a\ufffdb"),
        (b"[" * 1_500 + b"]" * 1_500, None), (b"[" * 240 + b"]" * 240, None),
    ],
    ids=["lone half", "pair", "pair in UTF-8", "no UTF-8", "1,500 levels", "240 levels"],
)  # fmt: skip
def test_a_whole_answer_is_stored_readable(wire: str, sent: bytes, kept: str | None) -> None:
    content = whole(content=[{"type": "tool_use", "input": {"a": "?"}}]).replace(b'"?"', sent)
    _, message = answered(answered_with(wire, response(content), streams=False))
    orjson.dumps({"line": {"of": {"a": {"file": message}}}})
    if kept is not None:
        assert message["content"][0]["input"]["a"] == kept


def test_an_answer_without_flaws_is_kept_byte_by_byte() -> None:
    body = (
        b' {"content": [ ],"type":"message",  "stop_reason":"end_turn","usage":{"output_tokens":1,"input_tokens":2}}\n'
    )
    result = answered_with("anthropic", response(body), streams=False)
    assert answered(result)[0].message == body


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, gzip", ""])
@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_over_64_mb_once_decoded_is_not_read(wire: str, coding: str, streams: bool) -> None:
    body = _bomb(coding)
    kind = stream_type(wire) if streams else "application/json"
    reply = response(body, content_type=kind, **({"content_encoding": coding} if coding else {}))
    failure = failed(answered_with(wire, reply, streams=streams))
    assert failure.outcome is Outcome.INCOMPLETE
    assert "MB" in failure.message or "checksum" in failure.message


def _bomb(coding: str) -> bytes:
    body = b'{"type":"message","content":[{"type":"text","text":"' + bytes([97]) * 70_000_000
    for one in coding.split(", ") if coding else ():
        body = gzip.compress(body, 1) if one == "gzip" else zlib.compress(body, 1)
    return body


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("calls", [1, 2])
def test_the_body_of_an_error_over_1_mb_is_not_read(wire: str, calls: int) -> None:
    """The first call goes through the SDK, which would read it all; the second does not."""
    reply = response(gzip.compress(bytes(200_000_000), 1), 503, content_encoding="gzip")
    failure = failed(answered_with(wire, reply, streams=False, calls=calls))
    assert (failure.outcome, failure.message) == (
        Outcome.OVERLOADED,
        "HTTP 503 without a readable error body (application/json)",
    )


def test_the_connection_of_a_call_that_is_aborted_is_dropped() -> None:
    async def run() -> tuple[Answer | Failure, int]:
        async with fed_wire() as provider:
            head = response(b"", content_length=str(10**9))
            provider.reply = [head, *([bytes(2**20)] * 300)]
            settings = settings_of("anthropic", provider.url, stream=False)
            result = await worked(settings, lambda caller: caller.call(BODY, MODELS["anthropic"], "a", CallLimits(30)))
            return result, provider.sent

    result, sent = asyncio.run(run())
    assert failed(result).outcome is Outcome.INCOMPLETE
    assert sent < 200 * 2**20


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("told", "wait_s"), [("4294967", MAX_WAIT_S), ("1e300", MAX_WAIT_S), ("3600", 3600), ("13262", MAX_WAIT_S),
                                              ("inf", None), ("nan", None), ("-5", 0), ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WAIT_S)])  # fmt: skip
def test_no_wait_is_longer_than_an_hour(wire: str, told: str, wait_s: float | None) -> None:
    body = json.dumps({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}).encode()
    failure = failed(answered_with(wire, response(body, 429, retry_after=told), streams=False))
    assert (failure.outcome, failure.retry_after_s) == (Outcome.RATE_LIMITED, wait_s)
    assert failure.message.startswith("slow down")
    assert ("retry-after capped: 3,600 s" in failure.message) == (wait_s == MAX_WAIT_S and told != "3600")


@pytest.mark.parametrize("wire", WIRES)
def test_a_providers_words_steer_no_terminal(wire: str) -> None:
    said = "no\x1b[2J \x1b]0;title\x07 way\u202e \x9b31m\u200bout\r\nagain\ufeff"
    body = json.dumps({"error": {"message": said, "type": "\x1b[1mbad"}}).encode()
    failure = failed(answered_with(wire, response(body, 422), streams=False))
    assert failure.message == "no  way out again"
    stopped = answered(answered_with(wire, response(whole(stop_reason="end\x1b[31m_turn\u202e")), streams=False))[0]
    assert stopped.stop_reason == "end_turn"
    tier = {"input_tokens": 1, "output_tokens": 1, "service_tier": "sta\x1b[1mndard\u2066"}
    used = answered(answered_with(wire, response(whole(usage=tier)), streams=False))[0].usage
    assert used is not None
    assert used.service_tier == "standard"


@pytest.mark.parametrize("wire", WIRES)
def test_an_event_over_16_mb_is_not_read(wire: str) -> None:
    body = framed(wire, b'{"type":"ping","x":"' + b"a" * (20 * 2**20) + b'"}')
    failure = failed(answered_with(wire, response(body, content_type=stream_type(wire)), streams=True))
    assert failure.outcome is Outcome.INCOMPLETE
    assert "16 MB" in failure.message


def test_a_gateway_that_does_not_stream_is_read_whole() -> None:
    assert answered(answered_with("anthropic", response(whole()), streams=True))[0].usage == Usage(3, 4)


def test_an_error_that_is_a_broken_character_is_read() -> None:
    failure = failed(answered_with("anthropic", response(b'"\\ud83d"', 599), streams=True))
    assert failure.outcome is Outcome.SERVER_ERROR


@given(rng=st.randoms(use_true_random=False), wire=st.sampled_from(WIRES), streams=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_answer_harms_the_readers(rng: Any, wire: str, streams: bool) -> None:
    """The short form of `make fuzz`."""
    answer = fed(wire, rng, streams=streams)
    check(answered_with(wire, answer.reply, streams=streams), answer)
