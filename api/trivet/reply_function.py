"""A function of a test that decides what the simulated model answers.

It runs in the test's own process, on threads: the simulator asks for each reply over loopback, and waits for it no longer
than its timeout. So closures, fixtures and breakpoints work, and a function that fails ends the call, never the simulator.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_urlsafe
from typing import Any

import orjson


class ModelRequest(dict[str, Any]):
    """The body of one call as the provider got it, with `model` as answers name it: first-party, maybe with its date."""

    provider: str = ""
    """Name of the simulated provider that was called."""
    attempt: str | None = None
    """Id of the attempt; two calls for one job have two."""

    @property
    def text(self) -> str:
        """All text of the last message, blocks joined by newlines."""
        content = (self.get("messages") or [{}])[-1].get("content")
        if isinstance(content, str):
            return content
        texts = [block.get("text") for block in content or () if isinstance(block, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))


@dataclass(frozen=True)
class ErrorReply:
    """An error in place of an answer: a fault of `trivet simulate`, by name or status, and what goes with it.

    Example:
        `ErrorReply("overloaded")`, `ErrorReply(429, retry_after_s=2)`, `ErrorReply("refusal", category="bio")`
    """

    kind: str | int
    fields: Mapping[str, Any]

    def __init__(self, kind: str | int, **fields: Any) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "fields", fields)


Reply = str | list[Any] | Mapping[str, Any] | ErrorReply | None
"""A text, content blocks, fields of the message, an error; None: what the simulated model would say."""


def as_json_reply(value: object) -> Any:
    """Return a reply as the simulator takes it. TypeError where it is none."""
    if isinstance(value, ErrorReply):
        return {"error": value.kind, **value.fields}
    from trivet_tasks.requests.request_objects import (
        plain_request,  # slow to import, and every run of pytest loads this module
    )

    plain = plain_request({"reply": value})
    made = plain["reply"] if isinstance(plain, dict) else None
    if made is not None and not isinstance(made, str | list | dict):
        raise TypeError(
            f"a reply is a text, a list of content blocks, a dict, an ErrorReply or None, not {type(value).__name__}"
        )
    return made


@dataclass
class ReplyFunction:
    """Serves a function to the simulator. `requests` and `errors` grow while it runs; `close` ends it."""

    function: Callable[[ModelRequest], Reply]
    requests: list[ModelRequest] = field(default_factory=list)
    """Requests it was asked, in order. Probes of routes are not among them."""
    errors: list[Exception] = field(default_factory=list)
    """Exceptions it raised."""

    def __post_init__(self) -> None:
        secret = f"/{token_urlsafe(16)}"
        self._server = _Server(self, secret)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{secret}"
        threading.Thread(target=self._server.serve_forever, name="trivet-replies", daemon=True).start()

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the reply to the simulator for one call."""
        from trivet_store.jobs.enqueue import PING

        request = ModelRequest(asked["request"])
        if all(request.get(name) == value for name, value in PING.request().items()):
            return {"reply": None}
        request["model"] = asked["model"]
        request.provider, request.attempt = asked["provider"], asked["attempt"]
        self.requests.append(request)
        try:
            reply = as_json_reply(self.function(request))
            orjson.dumps(reply)
        except Exception as error:  # whatever a test's function raises
            self.errors.append(error)
            return {"failed": type(error).__name__}
        return {"reply": reply}

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, replies: ReplyFunction, secret: str) -> None:
        self.replies = replies
        self.secret = secret
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    wbufsize = -1

    def do_POST(self) -> None:
        """Answer one question of the simulator."""
        if self.path != self.server.secret:
            self.send_error(404)
            return
        body = orjson.dumps(
            self.server.replies.answer(orjson.loads(self.rfile.read(int(self.headers["content-length"]))))
        )
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on standard error."""
