"""A clock that only the test moves."""

import time
from types import ModuleType

import pytest


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
