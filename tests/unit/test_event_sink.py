"""The events of a streamed call as they come: passed on whole, in order, up to a fault; and what a dropped call had stated."""

import asyncio
from typing import Any

import orjson
import pytest
from tests.wires import BODY, MODELS, WIRES, fed_wire, settings_of, with_caller, worked

from trivet_routing.message_events import message_events
from trivet_simulator import SimulatorProcess
from trivet_tasks.outcomes import Outcome
from trivet_worker.adapters.protocol import Answer, Caller, CallLimits, Failure, StreamLimits

pytestmark = pytest.mark.usefixtures("no_credentials")

LIMITS = CallLimits(30, StreamLimits(5, 5))
TEXT = " ".join(f"word{number}" for number in range(400))


class Sink:
    """Keeps the events, and says when there are so many."""

    def __init__(self, enough: int = 10**9) -> None:
        self.events: list[bytes] = []
        self.enough = asyncio.Event()
        self._enough = enough

    def put(self, event: bytes) -> None:
        self.events.append(event)
        if len(self.events) >= self._enough:
            self.enough.set()

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [orjson.loads(event) for event in self.events]

    @property
    def text(self) -> str:
        deltas = (one["delta"] for one in self.documents if one["type"] == "content_block_delta")
        return "".join(delta["text"] for delta in deltas)


@pytest.mark.parametrize("wire", WIRES)
def test_the_events_of_a_call_are_passed_on_as_they_are_assembled(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.reply(TEXT)
    sink = Sink()
    settings = settings_of(wire, simulator.endpoints.providers[wire])
    answer = with_caller(settings, lambda caller: caller.call(BODY, MODELS[wire], "a", LIMITS, sink=sink))
    assert isinstance(answer, Answer)
    message = orjson.loads(answer.message)
    kinds = [document["type"] for document in sink.documents]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert not any(b"\n" in event for event in sink.events)
    assert sink.text == message["content"][0]["text"]


@pytest.mark.parametrize("wire", WIRES)
def test_nothing_is_passed_on_after_a_garbled_event(simulator: SimulatorProcess, wire: str) -> None:
    simulator.control.reply(TEXT)
    simulator.control.fault(wire, "garbled")
    sink = Sink()
    settings = settings_of(wire, simulator.endpoints.providers[wire])
    failure = with_caller(settings, lambda caller: caller.call(BODY, MODELS[wire], "a", LIMITS, sink=sink))
    assert isinstance(failure, Failure)
    assert failure.usage is not None, "the events after it are read for the usage"
    assert sink.text
    assert TEXT.startswith(sink.text)
    assert "message_stop" not in {document["type"] for document in sink.documents}


@pytest.mark.parametrize("stated", [True, False])
def test_a_dropped_call_has_the_usage_that_its_stream_had_stated(stated: bool) -> None:
    """Before it is stated nobody knows: the call is cancelled as any other."""
    message = {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "usage": {"output_tokens": 7}}
    events = list(message_events(message))[: -1 if stated else 3]
    data = b"".join(b"event: %b\ndata: %b\n\n" % (event.type.encode(), event.data) for event in events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def drop() -> Answer | Failure:
        async with fed_wire() as fed:
            fed.reply = b"%b%x\r\n%b\r\n" % (head, len(data), data)  # its end does not come

            async def work(caller: Caller) -> Answer | Failure:
                sink = Sink(len(events))
                call = asyncio.ensure_future(caller.call(BODY, MODELS["anthropic"], "a", LIMITS, sink=sink))
                await sink.enough.wait()
                call.cancel()
                return await call

            return await worked(settings_of("anthropic", fed.url), work)

    if not stated:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(drop())
        return
    failure = asyncio.run(drop())
    assert isinstance(failure, Failure)
    assert failure.outcome is Outcome.CANCELLED
    assert failure.usage is not None
    assert failure.usage.output_tokens == 7


@pytest.mark.parametrize(
    "delta",
    [
        b'{"type":"text_delta","text":"half \\ud83d"}',
        b'{"type":"text_delta","text":"bad \xff"}',
        b'{"type":"text_delta","text":"a","score":NaN}',
        b'{"type":"text_delta","text":"a","score":1e999}',
        b'{"type":"text_delta",\ndata: "text":"two lines \\ud83d"}',
    ],
)
def test_an_event_that_had_to_be_repaired_is_passed_on_as_json_that_anybody_reads(delta: bytes) -> None:
    message = {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "usage": {"output_tokens": 7}}
    events = [(event.type, event.data) for event in message_events(message)]
    events.insert(3, ("content_block_delta", b'{"type":"content_block_delta","index":0,"delta":%b}' % delta))
    data = b"".join(b"event: %b\ndata: %b\n\n" % (kind.encode(), one) for kind, one in events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    sink = Sink()

    async def call() -> Answer | Failure:
        async with fed_wire() as fed:
            fed.reply = head + data
            return await worked(
                settings_of("anthropic", fed.url),
                lambda caller: caller.call(BODY, MODELS["anthropic"], "a", LIMITS, sink=sink),
            )

    answer = asyncio.run(call())
    assert isinstance(answer, Answer), answer
    assert not any(b"\n" in event for event in sink.events)
    assert [document["type"] for document in sink.documents] == [kind for kind, _ in events]
    assert sink.text == orjson.loads(answer.message)["content"][0]["text"]
