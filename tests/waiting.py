"""Waiting for what other threads and processes bring about."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 120.0
"""Enough for a machine that runs other tests too; a test that measures a time passes its own."""


def until(
    look: Callable[[], T],
    what: str = "the condition",
    *,
    fits: Callable[[T], object] = bool,
    within_s: float = PATIENCE_S,
) -> T:
    """Look again and again, and return the first value that fits. AssertionError, naming `what`, when time runs out."""
    deadline = time.monotonic() + within_s
    while not fits(found := look()):
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(0.01)
    return found
