"""The last scene of the demo: the official SDK, pointed at the gateway by its base URL alone, streams one answer."""

import contextlib
import socket
import time
from dataclasses import dataclass
from textwrap import shorten

from trivet.admin import Admin
from trivet.demo.documents import MODEL
from trivet.local.local_trivet import LocalTrivet
from trivet_tasks.errors import ProcessFailed
from trivet_tasks.latency import Lane

READY_S = 30.0
ANSWER_S = 30.0
LONGEST_TEXT = 100
PROMPT = "Summarise what has just happened, in one sentence."


@dataclass(frozen=True, slots=True)
class StreamedCall:
    """A streamed answer that came through the gateway."""

    text: str
    first_token_s: float
    """Seconds from the request to the first token."""
    seconds: float
    """Seconds from the request to the last event."""
    route: str
    error: str = ""
    """The reason for which it did not come; empty: it came."""

    def lines(self) -> list[str]:
        """Return what it shows, for a person."""
        if self.error:
            return [f"A streamed call through the gateway failed: {self.error}"]
        return [
            "One more call, streamed through the gateway by the unchanged Anthropic SDK:",
            '  anthropic.Anthropic(base_url="http://127.0.0.1:…").messages.stream(…)',
            f"  “{shorten(self.text, LONGEST_TEXT, placeholder=' …')}”",
            f"  first token after {self.first_token_s * 1_000:.0f} ms, all after {self.seconds * 1_000:.0f} ms, by {self.route}",
        ]


def stream_once(local: LocalTrivet, admin: Admin) -> StreamedCall:
    """Start a gateway and a realtime worker, and stream one answer through them."""
    import anthropic

    port = _free_port()
    key = admin.keys.create("demo").token.text
    try:
        local.start_part("worker-realtime", "worker", "--lane", Lane.REALTIME.value)
        local.start_gateway(port)
        for name in ("worker-realtime", "gateway"):
            local.supervisor.wait_ready(name, READY_S)
        client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key=key, timeout=ANSWER_S)
        with contextlib.closing(client):
            begun = time.monotonic()
            first, pieces = 0.0, []
            with client.messages.stream(
                model=MODEL, max_tokens=60, messages=[{"role": "user", "content": PROMPT}]
            ) as stream:
                for piece in stream.text_stream:
                    first = first or time.monotonic() - begun
                    pieces.append(piece)
            seconds = time.monotonic() - begun
        route = admin.jobs.life(stream.response.headers["x-trivet-job"]).job.route
    except (anthropic.APIError, ProcessFailed) as error:
        return StreamedCall("", 0.0, 0.0, "", str(error))
    return StreamedCall("".join(pieces), first, seconds, route or "")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
