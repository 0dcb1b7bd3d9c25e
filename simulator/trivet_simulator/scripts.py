"""Turning an answer into the script that sends it: plain, streamed, or spoiled by a fault of transport."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from trivet_simulator.answers import Answer
from trivet_simulator.http import LAST_CHUNK, Ending, Piece, Script, chunk, head, response
from trivet_simulator.wires.wire import Wire

Headers = Callable[[], dict[str, str]]
PIECES = 12
"""Parts into which a streamed text is cut."""
DRIPS = 20
"""Parts into which a dripped body is cut."""
FIRST_SHARE = 0.4
"""The share of a streamed call's latency before its first event."""


def json_script(answer: Answer, headers: Headers, latency_s: float, kind: str | None, seconds: float) -> Script:
    """The script of a call that does not stream; `kind` is the fault, if any."""
    body = orjson.dumps(answer.message())
    half = body[: len(body) // 2]
    match kind:
        case "cut":
            return Script([(latency_s, lambda: head(200, headers(), length=len(body)) + half)], Ending.CLOSE)
        case "stalled_stream":
            return Script([(latency_s, lambda: head(200, headers(), length=len(body)) + half)], Ending.HANG)
        case "garbled":
            return Script([(latency_s, lambda: response(200, headers(), half))])
        case "empty":
            return Script([(latency_s, lambda: response(200, headers(), b""))])
        case "slow_drip":
            first: tuple[float, Piece] = (latency_s, lambda: head(200, headers(), length=len(body)))
            return Script([first, *((seconds / DRIPS, part) for part in _parts(body))])
        case _:
            return Script([(latency_s, lambda: response(200, headers(), body))])


def stream_script(
    wire: Wire, answer: Answer, headers: Headers, latency_s: float, kind: str | None, seconds: float
) -> Script:
    """The script of a streamed call; `kind` is the fault, if any."""
    frames = [wire.frame(event) for event in answer.events(PIECES)]
    first: tuple[float, Piece] = (latency_s * FIRST_SHARE, lambda: head(200, headers(), length=None))
    middle = len(frames) // 2
    if kind == "slow_drip":
        return Script([first, *((seconds / DRIPS, chunk(p)) for p in _parts(b"".join(frames))), (0.0, LAST_CHUNK)])
    ending, last = Ending.KEEP, [(0.0, LAST_CHUNK)]
    match kind:
        case "cut":
            frames, ending, last = [*frames[:middle], frames[middle][: len(frames[middle]) // 2]], Ending.CLOSE, []
        case "stalled_stream":
            frames, ending, last = frames[:middle], Ending.HANG, []
        case "garbled":
            frames = [*frames[:middle], wire.broken_frame(), *frames[middle:]]
        case "empty":
            frames = []
        case "stream_error":
            frames = [*frames[:middle], wire.error_frame()]
        case "stream_without_end":
            frames = frames[:-2]
    gap = latency_s * (1 - FIRST_SHARE) / max(1, len(frames))
    return Script([first, *((gap, chunk(frame)) for frame in frames), *last], ending)


def _parts(body: bytes) -> list[bytes]:
    size = max(1, -(-len(body) // DRIPS))
    return [body[i : i + size] for i in range(0, len(body), size)]
