"""Waiting for what other threads and processes bring about, and a clock that only the test moves."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import pytest

T = TypeVar("T")
PATIENCE_S = 120.0
"""Enough for a machine that runs other tests too; a test that measures a time passes its own."""


def until(
    look: Callable[[], T],
    what: str = "the condition",
    within_s: float = PATIENCE_S,
    *,
    fits: Callable[[T], object] = bool,
    pause_s: float = 0.01,
) -> T:
    """Look again and again, and return the first value that fits. AssertionError, naming `what`, when time runs out."""
    deadline = time.monotonic() + within_s
    while not fits(found := look()):
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(pause_s)
    return found


class MovedClock:
    """The `time` module as one module of the product sees it: its monotonic clock is still until the test moves it."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


def moved_clock(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> MovedClock:
    """Let a module that reads `time.monotonic` alone read a clock of the test's."""
    clock = MovedClock()
    monkeypatch.setattr(module, "time", clock)
    return clock
