"""The gateway's application without a server: unexpected exceptions, and bodies that break off or come too slowly."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from trivet.gateway.app import make_app
from trivet.gateway.context import BodyMemory
from trivet.gateway.principal import Principal
from trivet.gateway.resources import batch_upload
from trivet_tasks.config.gateway import GatewaySettings

SECRET = "the text of a prompt"


class Access:
    """Admits every request, or fails as no one expects."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def admit(self, headers: Mapping[str, str]) -> Principal:
        if self.error is not None:
            raise self.error
        return Principal("k", "tests", admin=True)

    async def check_budget_known(self, principal: Principal) -> None:
        assert principal.budget is None


def asked(
    path: str, receive: Callable[[], Awaitable[Message]], access: Access, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of the answer to a POST, as a server would hand it in."""
    gateway = SimpleNamespace(
        access=access,
        bounds=GatewaySettings(),
        bodies=BodyMemory(2**30),
        admitted=contextlib.nullcontext,
    )
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "state": {},
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(make_app(gateway)(scope, receive, send))  # type: ignore[arg-type]
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def pieces(*given: bytes, then: Message) -> Callable[[], Awaitable[Message]]:
    """Return what hands in these pieces of a body, then a last message."""
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in given]

    async def receive() -> Message:
        return left.pop(0) if left else then

    return receive


DISCONNECT: Message = {"type": "http.disconnect"}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/trivet/v1/jobs", "/trivet/v1/batches"])
def test_a_body_that_breaks_off_is_no_fault_of_trivets_own(path: str, caplog: pytest.LogCaptureFixture) -> None:
    status, body = asked(path, pieces(b'{"model": ', then=DISCONNECT), Access())
    assert (status, body["error"]["message"]) == (400, "The body was broken off.")
    assert caplog.records == []


def test_an_unexpected_exception_is_answered_and_its_text_logged_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        status, body = asked("/v1/messages", pieces(then=DISCONNECT), Access(KeyError(SECRET)))
    assert (status, body["error"]["type"]) == (500, "api_error")
    assert body["request_id"] in caplog.text
    assert "KeyError at " in caplog.text
    assert SECRET not in caplog.text


def test_a_batch_that_trickles_in_keeps_its_place_for_no_longer_than_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_upload, "PACE_S", 0.3)

    async def trickle() -> AsyncIterator[Message]:
        for _ in range(200):
            await asyncio.sleep(0.05)
            yield {"type": "http.request", "body": b"\n", "more_body": True}
        yield DISCONNECT

    stream = trickle()
    status, body = asked("/trivet/v1/batches", stream.__anext__, Access())
    assert (status, body["error"]["message"]) == (408, "The body came too slowly: less than 4 MiB in 0.3 s.")
