"""Faults for some requests only, pages of proxies, answers that harm their reader: as the SDK and a bare client see them."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import anthropic
import pytest

from trivet_simulator import Control, ControlError, Endpoints
from trivet_simulator.pages import PAGES

from .sdk import BODY, WIRES, call, message, streamed

POISON_TEXT = 'Angebot "Nr. 7" für Müller\n4711'


def _asking(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": f"Summarise: {text}"}]}]}


@pytest.mark.parametrize("wire", WIRES)
def test_a_fault_for_requests_that_contain_a_text(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.fault(wire, "firewall_page_403", contains=POISON_TEXT)
    assert asyncio.run(message(endpoints, wire)).stop_reason == "end_turn"
    with pytest.raises(anthropic.PermissionDeniedError):
        asyncio.run(call(endpoints, wire, **_asking(POISON_TEXT)))
    with pytest.raises(anthropic.PermissionDeniedError):
        asyncio.run(call(endpoints, wire, system=POISON_TEXT))
    assert control.providers()[wire]["faults"][0]["hits"] == 2


@pytest.mark.parametrize("wire", WIRES)
def test_a_fault_for_requests_that_match_a_pattern(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.fault(wire, "server_error", matches=r"\b47\d\d$")
    assert asyncio.run(message(endpoints, wire, **_asking("4811"))).stop_reason == "end_turn"
    with pytest.raises(anthropic.InternalServerError):
        asyncio.run(call(endpoints, wire, **_asking("4711")))


@pytest.mark.parametrize(("field", "value"), [("matches", "("), ("contains", "")])
def test_a_filter_that_cannot_be(control: Control, field: str, value: str) -> None:
    with pytest.raises(ControlError) as caught:
        control.fault("anthropic", "overloaded", **{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_html_without_an_api_error(control: Control, endpoints: Endpoints, wire: str, name: str) -> None:
    control.fault(wire, name)
    with pytest.raises(anthropic.APIStatusError) as caught:
        asyncio.run(call(endpoints, wire))
    error = caught.value
    assert error.status_code == int(name[-3:])
    assert error.response.headers["content-type"].startswith("text/html")
    assert isinstance(error.body, str)
    assert error.body.startswith("<html>")
    assert error.request_id is None
    assert "x-amzn-errortype" not in error.response.headers


def test_a_page_of_ones_own(control: Control, endpoints: Endpoints) -> None:
    control.fault("bedrock", "proxy_page_403", body="<p>no</p>", headers={"via": "1.1 proxy"}, status=451)
    with pytest.raises(anthropic.APIStatusError) as caught:
        asyncio.run(call(endpoints, "bedrock"))
    assert (caught.value.status_code, caught.value.body) == (451, "<p>no</p>")
    assert caught.value.response.headers["via"] == "1.1 proxy"


async def _plain(endpoints: Endpoints, wire: str) -> Any:
    raw = await call(endpoints, wire)
    return json.loads(await raw.read())


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("kind", "usage"),
    [("usage_null", None), ("counts_null", {None}), ("absurd_tokens", {10**19}), ("usage_missing", "missing")],
)
def test_usage_that_cannot_be_read(control: Control, endpoints: Endpoints, wire: str, kind: str, usage: Any) -> None:
    control.fault(wire, kind)
    answer = asyncio.run(_plain(endpoints, wire))
    assert answer["stop_reason"] == "end_turn"
    assert answer["content"][0]["text"]
    found = answer.get("usage", "missing")
    assert ({found["input_tokens"], found["output_tokens"]} if isinstance(found, dict) else found) == usage
    assert [c.complete for c in control.calls()] == [True]


@pytest.mark.parametrize("wire", WIRES)
def test_counts_of_a_stream_are_spoiled_too(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.fault(wire, "absurd_tokens", tokens=10**12)
    usage = asyncio.run(streamed(endpoints, wire)).usage
    assert (usage.input_tokens, usage.output_tokens) == (10**12, 10**12)


@pytest.mark.parametrize("kind", ["negative_tokens", "fractional_tokens"])
def test_counts_that_are_no_counts(control: Control, endpoints: Endpoints, kind: str) -> None:
    control.fault("anthropic", kind)
    count = asyncio.run(_plain(endpoints, "anthropic"))["usage"]["output_tokens"]
    assert count < 0 or count % 1 == 0.5


def _posted(url: str) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    body = json.dumps({"model": "claude-haiku-4-5", **BODY})
    connection.request("POST", "/v1/messages", body, {"x-api-key": "simulated"})
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return found


def test_a_bomb_of_gzip_is_whole(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "gzip_bomb", megabytes=8)
    status, headers, body = _posted(endpoints.anthropic)
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert len(body) < 20_000
    assert len(json.loads(gzip.decompress(body))["content"][0]["text"]) == 8 * 2**20
    (logged,) = control.calls()
    assert (logged.fault, logged.status, logged.complete) == ("gzip_bomb", 200, False)


def test_an_error_without_end_is_whole_and_may_be_left(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "huge_error", megabytes=4, status=529)
    status, _, body = _posted(endpoints.anthropic)
    assert status == 529
    assert len(json.loads(body)["error"]["message"]) == 4 * 2**20
    control.fault("anthropic", "huge_error", megabytes=10_000)

    async def leave() -> None:
        asking = asyncio.create_task(call(endpoints, "anthropic"))
        await asyncio.to_thread(control.wait_for_calls, 2, of="started")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(leave())
    control.wait_for_calls(2)
    assert control.calls()[-1].client_gone


def test_a_huge_retry_after(control: Control, endpoints: Endpoints) -> None:
    control.fault("anthropic", "rate_limited", retry_after_s=10**15)
    with pytest.raises(anthropic.RateLimitError) as caught:
        asyncio.run(call(endpoints, "anthropic"))
    assert caught.value.response.headers["retry-after"] == str(10**15)
