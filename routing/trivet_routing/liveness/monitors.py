"""Monitors of a process: of its dependencies, which may hang or refuse to write, and of its threads' pulses."""

import logging
import threading
import time
from collections.abc import Callable

import redis

from trivet_routing.liveness.process_impairments import (
    BROKER,
    DATABASE,
    SHARED_STATE,
    STALLED,
    STOPPING,
    WATCH,
    ProcessImpairments,
    announce,
    withdraw,
)
from trivet_store.database.engine import Store
from trivet_tasks.config.server_urls import masked, read_server_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import place_of
from trivet_tasks.server_errors import explain
from trivet_tasks.shared_state import check_writable, connect, unavailable_text

START_S = 5.0
"""Seconds that the first pass of a loop may take."""
RECONNECT_S = 5.0
"""Seconds a loop that waits for the broker may take to go on once the broker answers again."""
WAITING_S = 1.0
"""A transaction under way for this many seconds explains a stalled loop."""
PAUSED_S = 2.5
"""Seconds between two looks that show that the process itself was stopped: its loops are given time to beat again."""

log = logging.getLogger("trivet")

LOOK_EVERY_S = 1.0
HUNG_S = 5.0
"""A transaction that takes longer is an impairment: nothing here needs a tenth of it."""


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


class DependencyMonitor:
    """One per process. Looks once a second, from a thread of its own, because the others may hang."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        process_impairments: ProcessImpairments,
        *,
        process: str,
        part: str,
        look_also: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the monitor; nothing is started yet.

        Args:
            look_also: called at each look, before the queries that may hang.
        """
        self._store = store
        self._look_also = look_also
        self._url = settings.redis_url
        self._client = connect(self._url)
        self._broker_url = settings.broker_url
        self._broker = _broker_beside(settings)
        self._process_impairments = process_impairments
        self._process = process
        self._part = part
        self._announced = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trivet-watch", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking. Announcements expire by themselves within seconds."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self._look()
            except Exception as error:
                log.error("the dependency monitor failed by a fault of Trivet's own: %s", place_of(error))

    def _look(self) -> None:
        self._process_impairments.forget_old()
        self._look_also()
        if (waited_s := self._store.waited_s) > HUNG_S:
            why = f"The database {self._store.shown_url} has not answered for {waited_s:.0f} s."
            self._process_impairments.note(DATABASE, WATCH, why)
        else:
            self._process_impairments.over(DATABASE, WATCH)
        if self._broker is not None:
            self._look_at_broker(self._broker)
        try:
            check_writable(self._client)  # one without memory answers a PING
        except redis.RedisError as error:
            self._process_impairments.note(SHARED_STATE, WATCH, unavailable_text(self._url, error))
            return
        self._process_impairments.over(SHARED_STATE, WATCH)
        self._announce()

    def _look_at_broker(self, broker: redis.Redis) -> None:
        try:
            check_writable(broker)
        except redis.RedisError as error:
            self._process_impairments.note(BROKER, WATCH, f"The broker {masked(self._broker_url)} {explain(error)}")
            return
        self._process_impairments.over(BROKER, WATCH)

    def _announce(self) -> None:
        impairment = self._process_impairments.text
        try:
            if impairment:
                announce(self._client, self._process, self._part, impairment, self._process_impairments.since)
            elif self._announced:
                withdraw(self._client, self._process)
        except redis.RedisError as error:
            self._process_impairments.note(SHARED_STATE, WATCH, unavailable_text(self._url, error))
        else:
            self._announced = bool(impairment)


def _broker_beside(settings: Settings) -> redis.Redis | None:
    """Return a client of the broker, where that is a Redis and not the one of the shared state."""
    broker, shared = read_server_url(settings.broker_url), read_server_url(settings.redis_url)
    return None if broker.is_amqp or broker == shared else connect(settings.broker_url)
