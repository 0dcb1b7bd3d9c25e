"""Every fault of the catalogue, as the real SDK clients see it."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from typing import Any

import anthropic
import httpx2
import pytest

from trivet_simulator import Control, ControlError, Endpoints
from trivet_simulator.catalogue import BEHAVIOURS, REPLIES, Reply

from .sdk import BODY, MODELS, WIRES, call, client, message, request, streamed

CLASS_OF = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    402: anthropic.PaymentRequiredError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    408: anthropic.RequestTimeoutError,
    413: anthropic.ContentTooLargeError,
    422: anthropic.UnprocessableEntityError,
    424: anthropic.APIStatusError,
    429: anthropic.RateLimitError,
    500: anthropic.InternalServerError,
    502: anthropic.InternalServerError,
    503: anthropic.ServiceUnavailableError,
    504: anthropic.GatewayTimeoutError,
    529: anthropic.OverloadedError,
}
ROWS = [(wire, name, reply) for name, row in REPLIES.items() for wire in WIRES if (reply := row.on(wire)) is not None]


def _failing(endpoints: Endpoints, wire: str, **changes: Any) -> anthropic.APIStatusError:
    with pytest.raises(anthropic.APIStatusError) as caught:
        asyncio.run(call(endpoints, wire, **changes))
    return caught.value


@pytest.mark.parametrize(("wire", "name", "reply"), ROWS, ids=[f"{w}-{n}" for w, n, _ in ROWS])
def test_error_answers(control: Control, endpoints: Endpoints, wire: str, name: str, reply: Reply) -> None:
    control.fault(wire, name)
    error = _failing(endpoints, wire)
    assert type(error) is CLASS_OF[reply.status] or isinstance(error, CLASS_OF[reply.status])
    assert error.status_code == reply.status
    body: Any = error.body
    if wire == "anthropic" or reply.passed_on:
        assert (error.type, error.error_code) == (reply.kind, reply.code)
    elif wire == "bedrock":
        assert error.response.headers["x-amzn-errortype"].partition(":")[0] == reply.kind
        assert body["message"] == reply.message.replace("{model}", MODELS[wire])
    else:
        assert body[0]["error"]["status"] == reply.kind
        assert body[0]["error"]["code"] == (reply.code_in_body or reply.status)
    assert ("retry-after" in error.response.headers) == (reply.retry_after_s is not None)
    (logged,) = control.calls()
    assert (logged.status, logged.fault, logged.complete) == (reply.status, name, False)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", [400, 403, 404, 413, 429, 500, 503])
def test_a_bare_status_will_do(control: Control, endpoints: Endpoints, wire: str, status: int) -> None:
    control.fault(wire, status)
    assert _failing(endpoints, wire).status_code == status


@pytest.mark.parametrize("wire", WIRES)
def test_retry_after_in_every_form(control: Control, endpoints: Endpoints, wire: str) -> None:
    def headers(**figures: Any) -> Any:
        control.fault(wire, "rate_limited", **figures)
        return _failing(endpoints, wire).response.headers

    assert headers(retry_after_s=20)["retry-after"] == "20"
    assert headers(retry_after_s=1.25, retry_after_as="float")["retry-after"] == "1.250"
    assert headers(retry_after_s=1.25, retry_after_as="ms")["retry-after-ms"] == "1250"
    assert headers(retry_after_s=4 * 3600)["retry-after"] == "14400"
    none = headers(retry_after_s=20, retry_after_as="none")
    assert "retry-after" not in none
    assert "retry-after-ms" not in none
    before = time.time()
    date = headers(retry_after_s=60, retry_after_as="date")["retry-after"]
    assert before + 60 <= email.utils.parsedate_to_datetime(date).timestamp() <= time.time() + 61


def test_a_fault_with_an_end_tells_how_long_is_left(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "rate_limited", for_s=600)
    assert 500 < int(_failing(endpoints, "anthropic").response.headers["retry-after"]) <= 600


def test_a_fault_that_has_ended_hits_no_more(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "overloaded", for_s=0.001)
    assert asyncio.run(message(endpoints, "anthropic")).stop_reason == "end_turn"


def test_only_the_first_calls(control: Control, endpoints: Endpoints) -> None:
    control.fault("bedrock", "server_error", times=2)
    for _ in range(2):
        assert _failing(endpoints, "bedrock").status_code == 500
    assert asyncio.run(message(endpoints, "bedrock")).stop_reason == "end_turn"
    assert control.providers()["bedrock"]["faults"][0]["hits"] == 2


def test_only_one_model(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "overloaded", model="claude-haiku-*")
    assert _failing(endpoints, "anthropic", model="claude-haiku-4-5").status_code == 529
    assert asyncio.run(message(endpoints, "anthropic")).stop_reason == "end_turn"


def test_several_faults_the_first_match_hits(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "overloaded", model="claude-haiku-*")
    control.fault("anthropic", "server_error", add=True)
    assert _failing(endpoints, "anthropic", model="claude-haiku-4-5").status_code == 529
    assert _failing(endpoints, "anthropic").status_code == 500
    control.clear("anthropic")
    assert asyncio.run(message(endpoints, "anthropic")).stop_reason == "end_turn"


async def _statuses(endpoints: Endpoints, wire: str, number: int) -> list[int]:
    async with client(endpoints, wire) as made:

        async def one() -> int:
            try:
                await made.messages.create(**request(wire))
            except anthropic.APIStatusError as error:
                return error.status_code
            return 200

        return [await one() for _ in range(number)]


def test_a_share_of_calls(control: Control, endpoints: Endpoints) -> None:
    control.fault("vertex", "server_error", share=0.5)
    statuses = asyncio.run(_statuses(endpoints, "vertex", 80))
    assert 10 < statuses.count(500) < 70  # outside by chance: once in 10^11
    assert statuses.count(200) == 80 - statuses.count(500)


def test_flapping_comes_and_goes(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "overloaded", flap=(0.1, 0.1))

    async def until_seen() -> set[int]:
        seen: set[int] = set()
        changes = 0
        last = 0
        async with asyncio.timeout(30):
            while changes < 4:
                (status,) = await _statuses(endpoints, "anthropic", 1)
                changes += status != last
                last = status
                seen.add(status)
        return seen

    assert asyncio.run(until_seen()) == {200, 529}


def test_a_raw_answer(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "raw", status=418, body='{"tea": true}', headers={"x-pot": "short"})
    error = _failing(endpoints, "anthropic")
    assert (error.status_code, error.body, error.response.headers["x-pot"]) == (418, {"tea": True}, "short")


def test_a_gateway_with_an_html_page(control: Control, endpoints: Endpoints) -> None:
    control.fault("vertex", "raw", status=502, body="<html>bad gateway</html>", headers={"content-type": "text/html"})
    error = _failing(endpoints, "vertex")
    assert (error.status_code, error.body) == (502, "<html>bad gateway</html>")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("ask", [message, streamed], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("kind", "stop"),
    [
        ("refusal", "refusal"),
        ("pause_turn", "pause_turn"),
        ("max_tokens", "max_tokens"),
        ("context_window_exceeded", "model_context_window_exceeded"),
        ("no_stop_reason", None),
    ],
)
def test_stop_reasons(control: Control, endpoints: Endpoints, wire: str, ask: Any, kind: str, stop: str | None) -> None:
    control.fault(wire, kind)
    answer = asyncio.run(ask(endpoints, wire))
    assert answer.stop_reason == stop
    assert [c.complete for c in control.calls()] == [stop is not None]
    if kind == "refusal":
        assert answer.content == []
        assert answer.stop_details.type == "refusal"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("ask", [message, streamed], ids=["plain", "streamed"])
@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_broken_connections(control: Control, endpoints: Endpoints, wire: str, ask: Any, kind: str) -> None:
    control.fault(wire, kind)
    # a stream that breaks off after its headers reaches the caller as the HTTP library's own error
    with pytest.raises((anthropic.APIConnectionError, httpx2.TransportError)):
        asyncio.run(ask(endpoints, wire))
    (logged,) = control.calls()
    assert (logged.fault, logged.complete, logged.client_gone) == (kind, False, False)
    assert logged.status == (None if kind == "reset" else 200)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", ["garbled", "empty"])
def test_unreadable_bodies(control: Control, endpoints: Endpoints, wire: str, kind: str) -> None:
    control.fault(wire, kind)

    async def read() -> bytes:
        raw = await call(endpoints, wire)
        assert raw.status_code == 200
        return bytes(await raw.read())

    body = asyncio.run(read())
    assert (body == b"") == (kind == "empty")
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    assert [c.complete for c in control.calls()] == [False]


@pytest.mark.parametrize("wire", WIRES)
def test_garbled_stream(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.fault(wire, "garbled")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - JSONDecodeError, or botocore's ChecksumMismatch
        asyncio.run(streamed(endpoints, wire))
    assert type(caught.value).__name__ in ("JSONDecodeError", "ChecksumMismatch", "APIResponseValidationError")
    assert [c.complete for c in control.calls()] == [False]


@pytest.mark.parametrize("wire", WIRES)
def test_error_event_inside_a_stream(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.fault(wire, "stream_error")
    with pytest.raises(anthropic.APIStatusError) as caught:
        asyncio.run(streamed(endpoints, wire))
    assert caught.value.type in ("overloaded_error", "modelStreamErrorException")
    assert [(c.status, c.complete) for c in control.calls()] == [(200, False)]
    assert asyncio.run(message(endpoints, wire)).stop_reason == "end_turn"


async def _events(endpoints: Endpoints, wire: str) -> list[str]:
    async with client(endpoints, wire) as made:
        stream = await made.messages.create(**request(wire, stream=True))
        return [event.type async for event in stream]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", [None, "stream_without_end", "empty"])
def test_ends_of_streams(control: Control, endpoints: Endpoints, wire: str, kind: str | None) -> None:
    if kind is not None:
        control.fault(wire, kind)
    events = asyncio.run(_events(endpoints, wire))
    assert ("message_stop" in events) == (kind is None)
    assert ("message_start" in events) == (kind != "empty")
    assert [c.complete for c in control.calls()] == [kind is None]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", ["hang", "stalled_stream"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_silence_until_the_client_leaves(
    control: Control, endpoints: Endpoints, wire: str, kind: str, stream: bool
) -> None:
    control.fault(wire, kind)
    ask = streamed if stream else message

    async def give_up() -> None:
        asking = asyncio.create_task(ask(endpoints, wire))
        await asyncio.to_thread(control.wait_for_calls, 1, of="started")
        (running,) = control.calls(running=True)
        assert running.finished is None
        assert running.status == (None if kind == "hang" else 200)
        assert not asking.done()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(give_up())
    control.wait_for_calls(1)
    (logged,) = control.calls()
    assert (logged.fault, logged.complete, logged.client_gone) == (kind, False, True)


@pytest.mark.parametrize("ask", [message, streamed], ids=["plain", "streamed"])
@pytest.mark.parametrize("kind", ["slow_first_byte", "slow_drip"])
@pytest.mark.parametrize("wire", WIRES)
def test_slow_answers_are_whole(control: Control, endpoints: Endpoints, wire: str, kind: str, ask: Any) -> None:
    control.fault(wire, kind, seconds=0.3)
    assert asyncio.run(ask(endpoints, wire)).stop_reason == "end_turn"
    (logged,) = control.calls()
    assert logged.complete
    assert logged.finished is not None
    assert logged.finished - logged.started >= 0.25


@pytest.mark.parametrize("ask", [message, streamed], ids=["plain", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
def test_a_held_answer_comes_whole_once_the_fault_is_cleared(
    control: Control, endpoints: Endpoints, wire: str, ask: Any
) -> None:
    async def until_cleared() -> Any:
        control.fault(wire, "held")
        asking = asyncio.create_task(ask(endpoints, wire))
        await asyncio.to_thread(control.wait_for_calls, 1, of="started")
        (running,) = control.calls(running=True)
        assert running.finished is None
        assert not asking.done()
        await asyncio.to_thread(control.clear, wire)
        return await asking

    assert asyncio.run(until_cleared()).stop_reason == "end_turn"
    control.wait_for_calls(1)
    (logged,) = control.calls()
    assert (logged.fault, logged.complete, logged.client_gone) == ("held", True, False)


def test_a_dripped_body_outlives_the_socket_timeout(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "slow_drip", seconds=2.0)

    async def ask() -> Any:
        async with client(endpoints, "anthropic", timeout=1.0) as made:
            return await made.messages.create(model=MODELS["anthropic"], **BODY)

    assert asyncio.run(ask()).stop_reason == "end_turn"


def test_latency_is_set_and_multiplied(control: Control, endpoints: Endpoints) -> None:
    control.latency("anthropic", median_s=0.05)
    asyncio.run(message(endpoints, "anthropic"))
    control.fault("anthropic", "latency", factor=6)
    asyncio.run(message(endpoints, "anthropic"))
    usual, slow = (c.finished - c.started for c in control.calls() if c.finished is not None)
    assert usual >= 0.045
    assert slow >= 0.29


@pytest.mark.parametrize("wire", WIRES)
def test_down_refuses_and_up_serves_on_the_same_port(control: Control, endpoints: Endpoints, wire: str) -> None:
    port = control.providers()[wire]["port"]
    control.fault(wire, "hang")

    async def cut_off() -> None:
        asking = asyncio.create_task(message(endpoints, wire))
        await asyncio.to_thread(control.wait_for_calls, 1, of="started")
        await asyncio.to_thread(control.down, wire)
        with pytest.raises(anthropic.APIConnectionError):
            await asking
        with pytest.raises(anthropic.APIConnectionError):
            await message(endpoints, wire)

    asyncio.run(cut_off())
    control.wait_for_calls(1)
    (logged,) = control.calls()
    assert (logged.fault, logged.client_gone, logged.status) == ("down", False, None)
    assert control.providers()[wire]["up"] is False
    others = [w for w in WIRES if w != wire]
    assert [asyncio.run(message(endpoints, w)).stop_reason for w in others] == ["end_turn"] * 2
    control.clear(wire)
    control.up(wire)
    assert (control.providers()[wire]["up"], control.providers()[wire]["port"]) == (True, port)
    assert asyncio.run(message(endpoints, wire)).stop_reason == "end_turn"


def test_down_and_up_again_and_again(control: Control, endpoints: Endpoints) -> None:
    for _ in range(20):
        control.down("vertex")
        control.down("vertex")
        control.up("vertex")
        control.up("vertex")
    assert asyncio.run(message(endpoints, "vertex")).stop_reason == "end_turn"


def test_the_catalogue_can_be_read(control: Control) -> None:
    table = control.catalogue()
    assert set(table) == set(REPLIES) | set(BEHAVIOURS)
    assert table["quota_exceeded"]["bedrock"] == "400 ServiceQuotaExceededException"


def test_a_fault_the_wire_does_not_have(control: Control) -> None:
    with pytest.raises(ControlError, match="the anthropic wire has no 'model_not_ready'"):
        control.fault("anthropic", "model_not_ready")
