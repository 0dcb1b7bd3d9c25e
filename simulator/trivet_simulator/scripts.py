"""Turning an answer into the script that sends it: plain, streamed, or spoiled by a fault of transport."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from trivet_simulator.answers import Answer
from trivet_simulator.faults import Fault
from trivet_simulator.http import LAST_CHUNK, Ending, Piece, Script, chunk, head, response
from trivet_simulator.wires.wire import Wire

Headers = Callable[[], dict[str, str]]
TOKENS_PER_EVENT = 3
"""Tokens of an answer that one event of its stream carries."""
LEAST_PIECES = 12
"""Parts into which a short streamed text is cut."""
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
    wire: Wire, answer: Answer, headers: Headers, latency_s: float, paced_s: float, fault: Fault | None
) -> Script:
    """The script of a streamed call; `paced_s` is the part of its time that its tokens take, 0 = not said."""
    kind, seconds = (fault.kind, fault.seconds) if fault else (None, 0.0)
    pieces = max(LEAST_PIECES, answer.usage.output_tokens // TOKENS_PER_EVENT)
    frames = [wire.frame(event) for event in answer.events(pieces)]
    first_s = latency_s - paced_s if paced_s else latency_s * FIRST_SHARE
    first: tuple[float, Piece] = (first_s, lambda: head(200, headers(), length=None))
    middle = len(frames) // 2
    if kind == "slow_drip":
        return Script([first, *((seconds / DRIPS, chunk(p)) for p in _parts(b"".join(frames))), (0.0, LAST_CHUNK)])
    ending, last = Ending.KEEP, [(0.0, LAST_CHUNK)]
    match kind:
        case "cut":
            frames, ending, last = [*frames[:middle], frames[middle][: len(frames[middle]) // 2]], Ending.CLOSE, []
        case "stalled_stream":
            frames, ending, last = _up_to(frames, fault.after_bytes if fault else None), Ending.HANG, []
        case "garbled":
            frames = [*frames[:middle], wire.broken_frame(), *frames[middle:]]
        case "empty":
            frames = []
        case "stream_error":
            frames = [*frames[:middle], wire.error_frame()]
        case "stream_without_end":
            frames = frames[:-2]
    gap = (latency_s - first_s) / max(1, len(frames))
    return Script([first, *((gap, chunk(frame)) for frame in frames), *last], ending)


def _up_to(frames: list[bytes], after_bytes: int | None) -> list[bytes]:
    """Return the frames up to the middle, or so many bytes of them."""
    if after_bytes is None:
        return frames[: len(frames) // 2]
    kept: list[bytes] = []
    for frame in frames:
        kept.append(frame[:after_bytes])
        after_bytes -= len(kept[-1])
    return list(filter(None, kept))


def _parts(body: bytes) -> list[bytes]:
    size = max(1, -(-len(body) // DRIPS))
    return [body[i : i + size] for i in range(0, len(body), size)]
