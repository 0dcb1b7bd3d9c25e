"""Streamed calls: the limits of silence on the three wires, the parsing of a whole stream, and which calls are streamed."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import call
from tests.unit.breakers_world import World
from tests.wires import BODY, MODELS, WIRES, answered_with, framed, response, settings_of, stream_type, with_caller

from trivet_simulator import SimulatorProcess
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import DEFAULTS, ClassSettings, Latency
from trivet_tasks.outcomes import HealthSignal, Outcome
from trivet_worker.adapters.assembly import Assembly
from trivet_worker.adapters.protocol import Answer, CallLimits, Failure, StreamLimits
from trivet_worker.adapters.stream_events import ServerSentEvents, reader_for
from trivet_worker.adapters.streaming import StreamedAnswer, silence_limits
from trivet_worker.run.calls import CallResult
from trivet_worker.run.permit_release import release_of
from trivet_worker.run.stream_choice import IDLE_S, LONG_S, stream_limits

pytestmark = pytest.mark.usefixtures("no_credentials")

STALL_S = 0.4


def called(
    simulator: SimulatorProcess, wire: str, limits: StreamLimits | None = None, *, total_s: float = 30, **route: Any
) -> Answer | Failure:
    settings = settings_of(wire, simulator.endpoints.providers[wire], **route)
    stream = limits or StreamLimits(STALL_S, STALL_S)
    found: Answer | Failure = with_caller(
        settings, lambda caller: caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(total_s, stream))
    )
    return found


# limits of silence


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_that_stops_is_left_within_its_limit(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.fault(wire, "stalled_stream", after_bytes=200)
    failure = called(simulator, wire)
    assert isinstance(failure, Failure)
    assert (failure.outcome, failure.stalled, failure.status) == (Outcome.TIMEOUT, True, 200)
    assert failure.message == f"no byte for {STALL_S} s after 200 bytes"


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_that_stops_in_its_middle_may_be_billed(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.fault(wire, "stalled_stream")
    failure = called(simulator, wire)
    assert isinstance(failure, Failure)
    assert (failure.stalled, failure.may_be_billed, failure.usage) == (True, True, None)


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_that_never_begins_is_left_within_its_limit(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.fault(wire, "hang")
    failure = called(simulator, wire)
    assert isinstance(failure, Failure)
    assert (failure.outcome, failure.stalled) == (Outcome.TIMEOUT, True)
    assert failure.message == f"no byte of its answer within {STALL_S} s"


@pytest.mark.parametrize("wire", WIRES)
def test_a_slow_stream_is_no_stalled_one(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.fault(wire, "slow_drip", seconds=3 * STALL_S)
    assert isinstance(called(simulator, wire, StreamLimits(2.0, 2.0)), Answer)


def test_the_whole_time_of_a_call_bounds_its_stream_too(simulator: SimulatorProcess) -> None:
    simulator.control.fault("anthropic", "hang")
    failure = called(simulator, "anthropic", StreamLimits(), total_s=0.3)
    assert isinstance(failure, Failure)
    assert (failure.outcome, failure.stalled) == (Outcome.TIMEOUT, False)


@pytest.mark.parametrize("wire", WIRES)
def test_a_route_that_shall_not_stream_does_not(simulator: SimulatorProcess, wire: str) -> None:
    assert isinstance(called(simulator, wire, stream=False), Answer)
    assert [one.stream for one in simulator.control.calls()] == [False]


@pytest.mark.parametrize("wire", WIRES)
def test_a_gateway_that_does_not_stream_is_understood(simulator: SimulatorProcess, wire: str) -> None:
    message = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    simulator.control.fault(
        wire, "raw", status=200, body=orjson.dumps(message).decode(), headers={"content-type": "application/json"}
    )
    answer = called(simulator, wire)
    assert isinstance(answer, Answer)
    assert orjson.loads(answer.message)["content"] == message["content"]


@pytest.mark.parametrize(
    ("body", "pings", "first_byte_s", "stall_s"),
    [
        (b"{}", True, 30, 30),
        (b"{}", False, 60, 60),
        (b"a" * 400_000, True, 40, 30),
        (b'{"thinking":{"type":"enabled"}}', True, 60, 30),
        (b'{"thinking":{"type":"enabled"}}', False, 120, 300),
    ],
)
def test_limits_of_silence_follow_the_request_and_the_wire(
    body: bytes, pings: bool, first_byte_s: float, stall_s: float
) -> None:
    found = silence_limits(StreamLimits(), body, pings=pings)
    assert found == pytest.approx((first_byte_s, stall_s), abs=0.01)
    assert silence_limits(StreamLimits(5, 10), body, pings=pings) == (5, 10)


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_that_quotes_the_last_event_is_whole(wire: str) -> None:
    text = 'It ends with {"type":"message_stop"}, or with {"type":"error"}: event: error, message_stop.'
    events = [
        {"type": "message_start", "message": {"type": "message", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for _ in range(9)),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    body = b"".join(framed(wire, orjson.dumps(event)) for event in events)
    answer = answered_with(wire, response(body, content_type=stream_type(wire)), streams=True)
    assert isinstance(answer, Answer)
    assert orjson.loads(answer.message)["content"] == [{"type": "text", "text": 9 * text}]


# parsing of a whole stream

FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@pytest.mark.parametrize("extra", [{}, {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 9}}])
@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_that_stays_open_is_over_with_its_last_event(wire: str, extra: dict[str, Any]) -> None:
    answer = StreamedAnswer(reader_for(stream_type(wire), wire), httpx2.Headers())
    events = [
        {"type": "message_start", "message": {"type": "message", "content": []}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ]
    for event in events:
        answer.keep(framed(wire, orjson.dumps(event)))
    assert not answer.over
    answer.keep(framed(wire, orjson.dumps({"type": "message_stop", **extra})))
    assert answer.over


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream of long runs of deltas, in which other events may stand, written as providers do or differently."""
    named, spaced = draw(st.booleans()), draw(st.booleans())

    def sent(event: dict[str, Any]) -> bytes:
        data = orjson.dumps(event)
        if spaced:
            data = data.replace(b'":', b'": ')
        if event["type"] == "content_block_delta":
            data = re.sub(rb'"\}\}$', b'"}' + b" " * draw(st.integers(0, 3)) + b"}", data)
        return (b"event: " + event["type"].encode() + b"\n" if named else b"") + b"data: " + data + b"\n\n"

    parts = [sent({"type": "message_start", "message": {"type": "message", "content": []}})]
    for index in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("text", "thinking")))
        parts.append(sent({"type": "content_block_start", "index": index, "content_block": {"type": kind, kind: ""}}))
        kinds = [f"{kind}_delta"] * 12 + ["signature_delta"] * draw(st.integers(0, 1))
        for _ in range(draw(st.integers(0, 60))):
            delta = draw(st.sampled_from(kinds))
            at = index if draw(st.integers(0, 40)) else draw(st.integers(0, index))
            text = draw(
                st.sampled_from(("Hello", ' "quoted"', "\\", "line\nline", "}}", "", "\u00e9", 'data: {"type":"ping"}'))
            )
            parts.append(
                sent({"type": "content_block_delta", "index": at, "delta": {"type": delta, FIELDS[delta]: text}})
            )
            if not draw(st.integers(0, 20)):
                parts.append(PING)
        parts.append(sent({"type": "content_block_stop", "index": index}))
    parts.append(sent({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}))
    return b"".join([*parts, sent({"type": "message_stop"})])


def read_at_once(stream: bytes) -> dict[str, Any]:
    answer = StreamedAnswer(reader_for("text/event-stream", "anthropic"), httpx2.Headers())
    answer.keep(stream)
    answer.end()
    return answer.assembly.message()


def read_line_by_line(stream: bytes) -> dict[str, Any]:
    reader, assembly = ServerSentEvents(), Assembly()
    for line in stream.splitlines(keepends=True):
        for event in reader.feed(line):
            assembly.take(orjson.loads(event.data))
    return assembly.message()


@given(streams())
def test_a_stream_read_at_once_is_the_message_of_its_events(stream: bytes) -> None:
    assert read_at_once(stream) == read_line_by_line(stream)


# which calls are streamed


def settings(**terms: Any) -> Settings:
    return Settings(
        classes={**DEFAULTS, Latency.BATCH: ClassSettings(**{**DEFAULTS[Latency.BATCH].model_dump(), **terms})}
    )


def limits_of(
    p95_s: float | None, *, terms: dict[str, Any] | None = None, timeout_s: float = 300, **job: Any
) -> StreamLimits | None:
    return stream_limits(replace(call(**job), timeout_s=timeout_s), settings(**terms or {}), p95_s)


def test_calls_are_streamed_where_those_of_their_kind_were_long() -> None:
    assert limits_of(LONG_S) == StreamLimits()
    assert limits_of(LONG_S - 0.1) is None
    # what they allow does not count once it is known what they take
    assert limits_of(5.0, max_tokens=60_000) is None


def test_where_nothing_is_known_the_longest_answer_decides() -> None:
    assert limits_of(None, max_tokens=300) is None
    assert limits_of(None, max_tokens=60_000) == StreamLimits()
    assert limits_of(None, max_tokens=60_000, timeout_s=IDLE_S - 1) is None


def test_a_class_with_limits_of_silence_always_streams() -> None:
    assert limits_of(0.5, terms={"stall_timeout_s": 10}) == StreamLimits(None, 10)
    assert limits_of(0.5, terms={"first_token_timeout_s": 5}) == StreamLimits(5, None)


def test_probes_are_not_streamed() -> None:
    assert limits_of(LONG_S, terms={"stall_timeout_s": 10}, probe=True) is None


@pytest.fixture
def took() -> Sequence[float]:
    return [1.0] * 17 + [40.0] * 3


def test_a_permit_brings_the_pace_of_its_class(world: World, took: Sequence[float]) -> None:
    breaker = world.breaker()
    grant = breaker.take()
    assert grant.p95_s is None
    breaker.settle(HealthSignal.NEUTRAL)
    for seconds in took:
        breaker.call(took_s=seconds)
    assert breaker.take(latency=Latency.BATCH).p95_s == 40.0
    assert breaker.take(latency=Latency.ASYNC).p95_s is None


@pytest.mark.parametrize(("stalled", "signal"), [(True, HealthSignal.FAILED), (False, HealthSignal.NEUTRAL)])
def test_a_stall_counts_against_the_route_however_little_time_the_call_had(stalled: bool, signal: HealthSignal) -> None:
    late = Failure(Outcome.TIMEOUT, "no byte for 30 s after 1,200 bytes", stalled=stalled)
    result = CallResult(replace(call(max_tokens=60_000), full_time=False), late, 31.0)
    assert release_of(result).signal is signal
