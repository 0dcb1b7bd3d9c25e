"""Detection of stalled loops: each loop beats once per pass, and the monitor looks, in a thread of its own.

A process whose heartbeat goes on while its working loop is stalled would look healthy to all others.
"""

import threading
import time
from collections.abc import Callable

from trivet_routing.liveness.process_impairments import BROKER, SHARED_STATE, STALLED, STOPPING, ProcessImpairments

START_S = 5.0
"""Seconds that the first pass of a loop may take."""
RECONNECT_S = 5.0
"""Seconds a loop that waits for the broker may take to go on once the broker answers again."""
WAITING_S = 1.0
"""A transaction under way for this many seconds explains a stalled loop."""
PAUSED_S = 2.5
"""After a pause this long between two looks the process itself was stopped: its loops are given time to beat again."""


class Pulse:
    """The beat of one loop.

    Args:
        what: names the loop in a sentence: `Its Celery consumer`.
        patience_s: seconds without a beat after which it counts as stalled.
        needs_broker: whether it must pause while the broker is away.
    """

    def __init__(self, what: str, patience_s: float, *, needs_broker: bool = False) -> None:
        self.what = what
        self.patience_s = patience_s
        self.needs_broker = needs_broker
        self._last = time.monotonic() + START_S

    def beat(self) -> None:
        """Note that the loop has completed a pass."""
        self._last = time.monotonic()

    def excuse(self, seconds: float) -> None:
        """Count the time from now on, plus this many seconds."""
        self._last = time.monotonic() + seconds

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat."""
        return max(0.0, time.monotonic() - self._last)


class Pulses:
    """The loops of one process. `look` once a second; a loop that stalls is an impairment until it beats again.

    Args:
        on_change: called when one stalls or goes on, e.g. to tell others at once.
        waited_s: seconds that a transaction has been under way. One that hangs is reported as such
            (`DependencyMonitor`), and loops that wait for it do not count as stalled.
    """

    def __init__(
        self,
        process_impairments: ProcessImpairments,
        *pulses: Pulse,
        on_change: Callable[[], None] = lambda: None,
        waited_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._waited_s = waited_s
        self._process_impairments = process_impairments
        self._pulses = pulses
        self._on_change = on_change
        self._started = threading.Event()
        self._looked_at = 0.0

    def start(self) -> None:
        """Count from now."""
        for pulse in self._pulses:
            pulse.excuse(START_S)
        self._looked_at = time.monotonic()
        self._started.set()

    def look(self) -> None:
        """Note the loops that are stalled."""
        if not self._started.is_set():
            return
        paused = time.monotonic() - self._looked_at > PAUSED_S
        self._looked_at = time.monotonic()
        if paused or self._process_impairments.seen(STOPPING, "signal"):
            return
        away = (
            self._process_impairments.of(BROKER) is not None or self._process_impairments.of(SHARED_STATE) is not None
        )
        for pulse in self._pulses:
            if away and pulse.needs_broker:
                pulse.excuse(RECONNECT_S)
            elif self._waited_s() > WAITING_S:
                pulse.excuse(0.0)
            self._judge(pulse)

    def _judge(self, pulse: Pulse) -> None:
        silent_s = pulse.silent_s
        stalled, known = silent_s > pulse.patience_s, self._process_impairments.seen(STALLED, pulse.what)
        if stalled:
            why = f"{pulse.what} has not moved for {silent_s:.0f} s. If this stays, restart the process."
            self._process_impairments.note(STALLED, pulse.what, why)
        elif known:
            self._process_impairments.over(STALLED, pulse.what)
        if stalled != known:
            self._on_change()
