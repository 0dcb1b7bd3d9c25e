"""Outages of the failover benchmark: what the providers do while the contenders run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trivet_simulator import Control

LEGS = ("anthropic", "bedrock", "vertex")
"""The first is the primary of every contender."""
PORT_CLOSED = "port closed"


@dataclass(frozen=True, slots=True)
class Outage:
    """Some legs fail in one way for a while. Times are seconds from the first job."""

    name: str
    about: str
    legs: tuple[str, ...]
    kind: str
    """A fault of the simulator's catalogue, or `PORT_CLOSED`."""
    down_s: float
    up_s: float
    end_s: float
    """Time of the last submit."""

    @property
    def logged(self) -> bool:
        """Return whether the simulator sees the calls made meanwhile; at a closed port it cannot."""
        return self.kind != PORT_CLOSED


def outages(down_s: float, lasts_s: float, after_s: float, limited_s: float) -> tuple[Outage, ...]:
    """The four outages: each begins at `down_s`; jobs go on being sent for some time after it."""
    up_s = down_s + lasts_s
    primary, end_s = LEGS[:1], up_s + after_s
    return (
        Outage("overloaded", "the primary answers 529 to every call", primary, "overloaded", down_s, up_s, end_s),
        Outage("hanging", "the primary takes every call and never answers", primary, "hang", down_s, up_s, end_s),
        Outage("refused", "the primary's port is closed", primary, PORT_CLOSED, down_s, up_s, end_s),
        Outage(
            "all limited",
            "all three answer 429 to every call; Anthropic says for how long",
            LEGS,
            "rate_limited",
            down_s,
            down_s + limited_s,
            down_s + limited_s + after_s / 3,
        ),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """Actual begin and end of an outage for one contender, in seconds since the epoch."""

    down: float
    up: float


def play(outage: Outage, start: float, simulators: Mapping[str, Control]) -> dict[str, Window]:
    """Play the outage on every contender's simulator, counted from `start`; returns when the legs are back."""
    began: dict[str, float] = {}
    sleep_until(start + outage.down_s)
    for name, control in simulators.items():
        began[name] = time.time()
        _down(control, outage)
    sleep_until(start + outage.up_s)
    windows: dict[str, Window] = {}
    for name, control in simulators.items():
        _up(control, outage.legs, outage.kind)
        windows[name] = Window(began[name], time.time())
    return windows


def _down(control: Control, outage: Outage) -> None:
    for leg in outage.legs:
        if outage.kind == PORT_CLOSED:
            control.down(leg)
        else:
            # what is left of for_s is what a provider that names it puts into retry-after
            control.fault(leg, outage.kind, for_s=outage.up_s - outage.down_s)


def _up(control: Control, legs: Sequence[str], kind: str) -> None:
    for leg in legs:
        if kind == PORT_CLOSED:
            control.up(leg)
        else:
            control.clear(leg)


def sleep_until(moment: float) -> None:
    """Sleep until this many seconds since the epoch."""
    time.sleep(max(0.0, moment - time.time()))
