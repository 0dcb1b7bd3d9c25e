"""The view of a reader of a streamed answer: one attempt's events whole and in order, or an honest error; never a splice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given
from hypothesis import strategies as st

from trivet_routing.answer_reading import ANEW, GAP, AnswerReading
from trivet_routing.answer_stream import AttemptEnd, EntryKind, StreamEntry, StreamSeal
from trivet_routing.message_events import message_events

KEY = b"k" * 32


def message(text: str, **more: Any) -> dict[str, Any]:
    """A whole message with one text."""
    usage = {"input_tokens": 10, "output_tokens": 7}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
        **more,
    }


@dataclass(frozen=True)
class Attempt:
    """One call: its pieces of text, how many of its entries came to be, and its end."""

    name: str
    pieces: tuple[str, ...]
    written: int
    outcome: str | None
    """None: its process was killed."""

    @property
    def whole(self) -> dict[str, Any]:
        return message("".join(self.pieces))

    def entries(self) -> list[StreamEntry]:
        start, begin, _, stop, delta, end = (event.data for event in message_events(self.whole))
        deltas = [
            orjson.dumps({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})
            for piece in self.pieces
        ]
        data = [start, begin, *deltas, stop, delta, end]
        entries = [StreamEntry(self.name, number, EntryKind.EVENTS, one) for number, one in enumerate(data)]
        if self.outcome == "succeeded":
            last = AttemptEnd("succeeded", "")
        else:
            entries = entries[: self.written]
            last = AttemptEnd(self.outcome or "", "the provider's words")
        if self.outcome is not None:
            entries.append(StreamEntry(self.name, len(entries), EntryKind.END, last.data()))
        return entries


def attempts() -> st.SearchStrategy[list[Attempt]]:
    pieces = st.lists(st.text("abcdef ", min_size=1, max_size=5), min_size=1, max_size=6).map(tuple)
    failed = st.builds(
        Attempt, st.just(""), pieces, st.integers(0, 10), st.sampled_from([None, "overloaded", "incomplete"])
    )
    whole = st.builds(Attempt, st.just(""), pieces, st.just(0), st.just("succeeded"))
    made = st.tuples(st.lists(failed, max_size=3), st.lists(whole, max_size=1)).map(lambda both: [*both[0], *both[1]])
    return made.map(lambda many: [Attempt(f"a{n}", a.pieces, a.written, a.outcome) for n, a in enumerate(many)])


def text_of(documents: list[Mapping[str, Any]]) -> str:
    deltas = (document["delta"] for document in documents if document["type"] == "content_block_delta")
    return "".join(delta["text"] for delta in deltas)


@given(data=st.data(), made=attempts())
def test_what_is_shown_is_the_beginning_of_one_answer_and_whole_only_if_it_is_the_stored_one(
    data: st.DataObject, made: list[Attempt]
) -> None:
    entries = [entry for attempt in made for entry in attempt.entries()]
    lost = data.draw(st.sets(st.integers(0, max(0, len(entries) - 1)), max_size=2)) if entries else set()
    doubled = data.draw(st.sets(st.integers(0, max(0, len(entries) - 1)), max_size=3)) if entries else set()
    reading = AnswerReading()
    shown: list[Mapping[str, Any]] = []

    def read() -> None:
        shown.extend(orjson.loads(event.data) for event in reading.events())

    for number, entry in enumerate(entries):
        if number not in lost:
            reading.take(entry)
        if number in doubled and number not in lost:
            reading.take(entry)
        if data.draw(st.booleans()):
            read()
        assert not reading.complete, "not before the job has ended with this answer"
    winner = made[-1] if made and made[-1].outcome == "succeeded" else None
    stored = winner.whole if winner else message("from the cache") if data.draw(st.booleans()) else None
    reading.conclude(winner.name if winner else None, stored)
    read()
    kinds = [document["type"] for document in shown]
    assert kinds.count("message_start") <= 1
    assert kinds == sorted(kinds, key=["message_start", "content_block_start", "content_block_delta",
                                       "content_block_stop", "message_delta", "message_stop"].index)  # fmt: skip
    text = text_of(shown)
    if reading.complete:
        assert stored is not None
        assert kinds[-1] == "message_stop"
        assert text == stored["content"][0]["text"], "what was shown whole is what is stored"
        assert reading.cut is None
    else:
        assert "message_stop" not in kinds
        assert any("".join(attempt.pieces).startswith(text) for attempt in made) or not text, "of one attempt alone"
        assert not shown or reading.cut is not None or stored is None, "an honest end"


def test_a_failover_before_the_first_content_is_not_seen() -> None:
    reading = AnswerReading()
    for entry in Attempt("a", ("never",), 2, "overloaded").entries():
        reading.take(entry)
    assert reading.events() == []
    second = Attempt("b", ("He", "llo"), 0, "succeeded")
    for entry in second.entries():
        reading.take(entry)
    assert reading.conclude("b", second.whole)
    documents = [orjson.loads(event.data) for event in reading.events()]
    assert text_of(documents) == "Hello"
    assert documents[-1] == {"type": "message_stop"}


def test_after_the_first_content_another_attempt_is_an_error() -> None:
    reading = AnswerReading()
    for entry in (*Attempt("a", ("He", "llo"), 3, None).entries(), *Attempt("b", ("Ha",), 0, "succeeded").entries()):
        reading.take(entry)
    assert text_of([orjson.loads(event.data) for event in reading.events()]) == "He"
    assert reading.cut is not None
    assert reading.cut.message == ANEW


def test_the_rest_is_waited_for_and_then_missing() -> None:
    reading = AnswerReading()
    whole = Attempt("a", ("He", "llo"), 0, "succeeded")
    for entry in whole.entries()[:3]:
        reading.take(entry)
    assert not reading.conclude("a", whole.whole, patient=True)
    assert not reading.over
    reading.conclude("a", whole.whole)
    assert reading.cut is not None
    assert reading.cut.message == GAP


@pytest.mark.parametrize(
    "garbled", [b"", b"{", b"[]", b"{}", b'{"type":[]}', b'{"type":"content_block_delta","x":"\\ud83d"}']
)
@pytest.mark.parametrize("at", [1, 3])
def test_an_event_that_cannot_be_read_is_missing_and_nothing_after_it_counts(garbled: bytes, at: int) -> None:
    reading = AnswerReading()
    whole = Attempt("a", ("He", "llo"), 0, "succeeded")
    entries = whole.entries()
    entries[at] = entries[at]._replace(data=garbled)
    for entry in entries:
        reading.take(entry)
    reading.conclude("a", whole.whole)
    documents = [orjson.loads(event.data) for event in reading.events()]
    if at == 1:  # nothing was shown: the answer comes from what is stored
        assert text_of(documents) == "Hello"
        assert reading.complete
    else:
        assert text_of(documents) == "He"
        assert reading.cut is not None
        assert reading.cut.message == GAP


def test_an_entry_counts_only_for_the_job_attempt_and_place_that_it_was_signed_for() -> None:
    seal = StreamSeal(KEY)
    entry = StreamEntry("a1", 3, EntryKind.EVENTS, b'{"type":"ping"}')
    fields = {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in seal.fields("job", entry).items()
    }
    assert seal.open("job", fields) == entry
    assert seal.open("another", fields) is None
    assert StreamSeal(b"x" * 32).open("job", fields) is None
    for name, value in {b"a": b"a2", b"n": b"4", b"k": b"end", b"d": b"{}", b"m": b"", b"n ": b"-1"}.items():
        forged = {**fields, name.strip(): value}
        assert seal.open("job", forged) is None
    assert seal.open("job", {}) is None


BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": "Hello", "citations": [{"type": "char_location", "cited_text": "x", "document_index": 0,
     "document_title": None, "start_char_index": 0, "end_char_index": 1, "file_id": None}]},
    {"type": "text", "text": ""},
    {"type": "thinking", "thinking": "Hm", "signature": "sig"},
    {"type": "redacted_thinking", "data": "opaque"},
    {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": [1, "ü"]}},
    {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
    {"type": "server_tool_use", "id": "t3", "name": "web_search", "input": {"query": "q"}},
]  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["type"])
def test_the_sdk_puts_made_events_together_to_the_message_they_were_made_of(block: dict[str, Any]) -> None:
    whole = message("", content=[block], stop_reason="stop_sequence", stop_sequence="END")
    whole["usage"] |= {"cache_read_input_tokens": 5, "cache_creation_input_tokens": 0}
    snapshot: Any = None
    for event in message_events(whole):
        snapshot = accumulate_event(event=orjson.loads(event.data), current_snapshot=snapshot, json_bufs={0: b""})
    found = snapshot.to_dict()
    assert {name: found[name] for name in whole if name != "usage"} == {
        name: value for name, value in whole.items() if name != "usage"
    }
    assert {name: found["usage"][name] for name in whole["usage"]} == whole["usage"]
