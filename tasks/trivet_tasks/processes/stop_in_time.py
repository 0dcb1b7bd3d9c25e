"""Stop signals of a process that has nothing to lose: the first asks it to end, and bounds its time; the second ends it."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from trivet_tasks.processes.stop_signals import handled_stop_signals

SAME_S = 0.5
"""A signal this soon after the first is the same, sent to a whole group of processes."""
LEAVE_S = 2.0
"""Seconds that it may take to end by itself: what it waits for may hang."""


class StopInTime:
    """Calls `stop` at the first signal, from the handler."""

    def __init__(self, stop: Callable[[], None], *, reloads: bool) -> None:
        """Handle nothing yet.

        Args:
            stop: called in the signal handler.
            reloads: whether SIGHUP makes it read its configuration again.
        """
        self._stop = stop
        self._reloads = reloads
        self._asked: queue.SimpleQueue[float] = queue.SimpleQueue()  # its put() may interrupt itself, unlike an Event's

    def start(self) -> None:
        """Handle the signals from now on. Call it in the main thread."""
        threading.Thread(target=self._run, name="trivet-stop", daemon=True).start()
        for number in handled_stop_signals(reloads=self._reloads):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.put(time.monotonic())
        self._stop()

    def _run(self) -> None:
        first = self._asked.get()
        while (left := first + LEAVE_S - time.monotonic()) > 0:
            try:
                again = self._asked.get(timeout=left)
            except queue.Empty:
                break
            if again - first > SAME_S:
                break
        os._exit(0)  # what was under way is rolled back, or done again by the next
