"""Gathered streams: chunks taken apart, the results of calls as without gathering, few reads, and a connection that is kept."""

import asyncio
import gzip
import itertools
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wires import (
    BODY,
    MODELS,
    WIRES,
    answered_with,
    fed_wire,
    framed,
    in_chunks,
    response,
    settings_of,
    stream_type,
    worked,
)

from trivet_worker.adapters.gathering import Chunks, GatheredBody
from trivet_worker.adapters.protocol import Answer, Caller, CallLimits, Failure, StreamLimits

pytestmark = pytest.mark.usefixtures("no_credentials")

LAST = b"0\r\n\r\n"


def events(words: int = 30) -> list[dict[str, Any]]:
    """The events of an answer of so many words."""
    usage = {"input_tokens": 9, "output_tokens": 1}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
    return [
        {"type": "message_start", "message": {"type": "message", "content": [], "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[delta] * words,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}},
        {"type": "message_stop"},
    ]


def frames(wire: str, of: Iterable[dict[str, Any]]) -> list[bytes]:
    return [framed(wire, orjson.dumps(event), event["type"]) for event in of]


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


# chunks

payloads = st.lists(st.binary(min_size=1, max_size=400) | st.text("\r\n01af{", min_size=1).map(str.encode), max_size=12)


@given(
    payloads, st.lists(st.integers(0, 6_000)), st.sampled_from((LAST, LAST + b"HTTP/1.1", b"0\r\nX-Trailer: a\r\n\r\n"))
)
def test_chunks_are_taken_apart_however_they_come(pieces: Sequence[bytes], cuts: Sequence[int], last: bytes) -> None:
    sent = b"".join(map(chunk, pieces)) + last
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    chunks, body, rest = Chunks(), b"", b""
    for start, end in itertools.pairwise(places):
        if rest:
            rest += sent[start:end]
            continue
        payload, left = chunks.feed(sent[start:end])
        body, rest = body + payload, left or b""
    assert (body, rest) == (b"".join(pieces), last)


@pytest.mark.parametrize("sent", [b"5\r\nabcdeXX", b"x\r\n", b"\r\n", b"1\nab", b"123456789\r\n", b"1;" + b"e" * 300])
def test_what_is_no_chunk_is_left_to_the_http_client(sent: bytes) -> None:
    assert Chunks().feed(chunk(b"good") + sent)[1] is not None


# results


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.97, 1.0])
@pytest.mark.parametrize("wire", WIRES)
def test_a_cut_stream_has_the_result_of_an_ungathered_one(wire: str, share: float) -> None:
    whole = b"".join(frames(wire, events()))
    cut = whole[: round(share * len(whole))]
    kind = stream_type(wire)
    gathered = in_chunks([cut[i : i + 97] for i in range(0, len(cut), 97)], content_type=kind)
    expected = answered_with(wire, response(cut, content_type=kind), streams=True)
    assert answered_with(wire, gathered, streams=True) == expected


@pytest.mark.parametrize("wire", WIRES)
def test_chunks_that_break_off_leave_what_came(wire: str) -> None:
    limits, kind = StreamLimits(0.5, 0.5), stream_type(wire)
    broken = in_chunks(frames(wire, events()[:-1]), last=False, content_type=kind) + b"no chunk\r\n"
    answer = asyncio.run(called(wire, broken, limits))
    assert isinstance(answer, Answer)  # it has its stop reason and its usage
    assert answer.usage is not None
    assert answer.usage.output_tokens == 30
    cut = in_chunks(frames(wire, events()[:20]), last=False, content_type=kind) + b"no chunk\r\n"
    failure = asyncio.run(called(wire, cut, limits))
    assert isinstance(failure, Failure)
    assert failure.may_be_billed


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_whose_end_is_not_seen_is_read_when_its_time_is_over(wire: str) -> None:
    body = b"".join(frames(wire, events()))
    pieces = [
        body[i : i + 7] for i in range(0, len(body), 7)
    ]  # no piece holds a sign of the end, and no last chunk comes
    reply = in_chunks(pieces, last=False, content_type=stream_type(wire))
    answer = asyncio.run(called(wire, reply, StreamLimits(0.5, 0.5)))
    assert isinstance(answer, Answer)
    assert orjson.loads(answer.message)["content"][0]["text"] == "word " * 30


async def called(wire: str, reply: bytes, limits: StreamLimits) -> Answer | Failure:
    async with fed_wire() as fed:
        fed.reply = reply
        found: Answer | Failure = await worked(
            settings_of(wire, fed.url),
            lambda caller: caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(30, limits)),
        )
        return found


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("wire", WIRES)
def test_an_error_in_a_gathered_stream_is_the_providers_failure(wire: str, last: bool) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    pieces = [*frames(wire, events()[:20]), *frames(wire, [error])]
    expected = answered_with(wire, response(b"".join(pieces), content_type=stream_type(wire)), streams=True)
    assert isinstance(expected, Failure)
    assert expected.message == "Overloaded"
    whole = in_chunks(pieces, last=last, content_type=stream_type(wire))
    for reply in (whole, (whole[i : i + 300] for i in range(0, len(whole), 300))):
        assert answered_with(wire, reply, streams=True) == expected


def test_a_compressed_stream_is_read_too() -> None:
    body = gzip.compress(b"".join(frames("anthropic", events())))
    reply = in_chunks([body[:50], body[50:]], content_type=stream_type("anthropic"), content_encoding="gzip")
    assert isinstance(answered_with("anthropic", reply, streams=True), Answer)


# connections and reads


@pytest.mark.parametrize("wire", WIRES)
def test_a_connection_serves_one_stream_after_the_other(wire: str) -> None:
    async def run() -> int:
        async with fed_wire() as fed:
            fed.reply = in_chunks(frames(wire, events()), content_type=stream_type(wire))

            async def calls(caller: Caller) -> None:
                for stream in (StreamLimits(), StreamLimits(), None, StreamLimits()):
                    if stream is None:
                        message = {"type": "message", "content": [], "stop_reason": "end_turn"}
                        fed.reply, streamed = response(orjson.dumps(message)), fed.reply
                    result = await caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(30, stream))
                    assert isinstance(result, Answer)
                    if stream is None:
                        fed.reply = streamed

            await worked(settings_of(wire, fed.url), calls)
            return fed.connections

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("wire", WIRES)
def test_a_connection_whose_last_chunk_comes_late_is_kept(wire: str) -> None:
    async def run() -> int:
        async with fed_wire() as fed:
            fed.reply = [in_chunks(frames(wire, events()), last=False, content_type=stream_type(wire)), LAST]
            fed.pause_s = 0.05

            async def calls(caller: Caller) -> None:
                for _ in range(3):
                    result = await caller.call(BODY, MODELS[wire], "attempt-1", CallLimits(30, StreamLimits()))
                    assert isinstance(result, Answer)

            await worked(settings_of(wire, fed.url), calls)
            return fed.connections

    assert asyncio.run(run()) == 1


@pytest.mark.skipif(not hasattr(socket, "SO_RCVLOWAT"), reason="the system does not gather")
def test_the_pieces_of_a_slow_stream_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = GatheredBody.data_received

    def counted(self: GatheredBody, data: bytes) -> None:
        reads.append(len(data))
        read(self, data)

    monkeypatch.setattr(GatheredBody, "data_received", counted)
    sent = frames("anthropic", events(200))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = in_chunks([], last=False, content_type=stream_type("anthropic"))
        for piece in (head, *map(chunk, sent), LAST):
            writer.write(piece)
            await asyncio.sleep(0.01)
        writer.close()

    async def run() -> Answer | Failure:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            found: Answer | Failure = await worked(
                settings_of("anthropic", url),
                lambda caller: caller.call(BODY, MODELS["anthropic"], "a", CallLimits(60, StreamLimits())),
            )
            return found

    answer = asyncio.run(run())
    assert isinstance(answer, Answer)
    assert orjson.loads(answer.message)["content"][0]["text"] == "word " * 200
    assert len(reads) < len(sent) * 0.7
