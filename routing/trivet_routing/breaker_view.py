"""Reading the answer of `lua/view.lua`."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trivet_routing.permits import BreakerView, Pace, Quota
from trivet_tasks.foreign_text import clean
from trivet_tasks.latency import Latency
from trivet_tasks.states import RouteState

FORGOTTEN = "the shared state lost its memory; limits and health are being put back"
FORGOTTEN_WAIT_S = 1.0
_WORDS_CHARS = 2_000


def view_from(answer: Sequence[Any], quota: Quota) -> BreakerView:
    """Return the view that the script's answer describes."""
    epoch, state, cause, wait, in_flight, places, levels, rates, calls, failed, share, since, now, paces, *rest = answer
    doubt, proven, generation = rest
    have = [_number(level) for level in levels]
    view = BreakerView(
        state=RouteState(state.decode()),
        cause=_words(cause),
        wait_s=float(wait),
        in_flight=int(in_flight),
        places=int(places),
        headroom=max(0.0, have[0]),
        input_headroom=max(0.0, have[1]),
        output_headroom=max(0.0, have[2]) / quota.output_factor,
        rates=(_number(rates[0]), _number(rates[1]), _number(rates[2]) / quota.output_factor),
        calls=int(calls),
        failed=int(failed),
        share=float(share),
        since=float(since) if since else None,
        doubt=_words(doubt),
        proven_s=_number(proven),
        generation=generation.decode(),
        paces=_paces(paces, float(now)),
    )
    if not epoch:
        return _without_memory(view)
    return view


def _without_memory(view: BreakerView) -> BreakerView:
    return replace(
        view,
        state=RouteState.LIMITED,
        cause=FORGOTTEN,
        wait_s=FORGOTTEN_WAIT_S,
        headroom=0.0,
        input_headroom=0.0,
        output_headroom=0.0,
        since=None,
    )


def _words(text: bytes) -> str:
    """Return text from the shared state made safe to show, as anybody may have written it."""
    return clean(text.decode(errors="replace"), _WORDS_CHARS)


def _number(text: bytes) -> float:
    """Empty where nothing limits, or nothing is known."""
    return float(text) if text else math.inf


def _paces(flat: Sequence[bytes], now: float) -> dict[Latency, Pace]:
    """From `p50:batch`, 0.21, `p95:batch`, …"""
    fields: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        kind, _, latency = name.decode().partition(":")
        fields[latency][kind] = float(value)
    return {
        Latency(latency): Pace(found["p50"], found["p95"], int(found["n"]), max(0.0, now - found["seen"]))
        for latency, found in fields.items()
    }
