"""Signals of a process of Trivet: those that stop it, and SIGHUP, on which some read their configuration again.

A signal that the parent ignores stays ignored in its children: SIGHUP under `nohup`, SIGINT in a background job of a
shell script. A service of Trivet (`up`, `worker`, `scheduler`, `flower`, `simulate`, `demo`) stops on SIGINT and SIGTERM all
the same, as Celery and uvicorn do. It leaves SIGHUP ignored where the parent ignores it: `nohup` asks for that.

On SIGHUP `up`, `worker` and `scheduler` read their configuration again (`Reloader`). Where their standard input is a
terminal, SIGHUP says that this terminal is gone, and stops them as it does the other services.

Every handler is installed by `StopSignals` (the simulator's by its event loop): it raises KeyboardInterrupt in a command
(`interrupt`), stops the parts in their order in a supervisor, and asks the thread that ends the process in a scheduler or
worker (`StopRequests`).
"""

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from trivet_tasks.errors import ConfigError, TrivetError, place_of

if TYPE_CHECKING:
    from trivet_tasks.config.settings import Settings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_S = 0.5
"""A signal this soon after the first counts as the same: supervisors, ours too, signal every process of a group."""
LEAVE_S = 2.0
"""Seconds that a process with nothing to lose may take to end by itself: what it waits for may hang."""
_BY_ITSELF = 0.0
"""Time of a request that no signal made; earlier than all others."""


def handled_stop_signals(*, reloads: bool = False) -> tuple[signal.Signals, ...]:
    """Return the stop signals that a service handles: all, but for a SIGHUP that is ignored, or has another meaning.

    Args:
        reloads: whether the service reads its configuration again on SIGHUP.
    """
    hangup = not hangup_ignored() and not (reloads and reloads_on_hangup())
    return tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP or hangup)


def reloads_on_hangup() -> bool:
    """Return whether SIGHUP asks a service that can do so to read its configuration again, rather than to stop."""
    return not hangup_ignored() and not os.isatty(0)


def hangup_ignored() -> bool:
    """Return whether the parent had SIGHUP ignored."""
    return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def drop_inherited_settings() -> None:
    """Undo what would break a process that starts others, or that has to stop. Call it in the main thread.

    An ignored SIGCHLD loses the exit codes of children; a blocked stop signal never arrives.
    """
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCHLD))


class StopSignals:
    """Calls a function at each stop signal, from its handler. As a context manager it puts the earlier handlers back.

    Example:
        with StopSignals(interrupt):
            work()  # ends with KeyboardInterrupt at any stop signal
    """

    def __init__(self, on_stop: Callable[[], None], on_hangup: Callable[[], None] | None = None) -> None:
        """Handle nothing yet.

        Args:
            on_hangup: called at a SIGHUP that asks for the configuration to be read again; None: SIGHUP stops, too.
        """
        self._on_stop = on_stop
        self._on_hangup = on_hangup
        self._before: dict[signal.Signals, object] = {}

    @property
    def active(self) -> bool:
        """True while it handles the signals."""
        return bool(self._before)

    def install(self) -> None:
        """Handle the signals from now on. Call it in the main thread."""
        for number in handled_stop_signals(reloads=self._on_hangup is not None):
            self._before[number] = signal.signal(number, self._stop)
        if self._on_hangup is not None and reloads_on_hangup():
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hangup)

    def restore(self) -> None:
        """Put the earlier handlers back."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._on_stop()

    def _hangup(self, _number: int, _frame: FrameType | None) -> None:
        assert self._on_hangup is not None
        self._on_hangup()


def interrupt() -> NoReturn:
    """Break off the work of the main thread, as Ctrl-C does."""
    raise KeyboardInterrupt


class StopRequests:
    """Stop signals as requests to the thread that ends the process. A second request asks it to hurry."""

    def __init__(self, on_stop: Callable[[], None], on_hangup: Callable[[], None] | None = None) -> None:
        """Handle nothing yet.

        Args:
            on_stop: called in the signal handler, too: it must not wait for anything.
            on_hangup: see `StopSignals`.
        """
        self._on_stop = on_stop
        self.signals = StopSignals(self._ask, on_hangup)
        # a queue's put() may interrupt itself, unlike an Event's set()
        self._moments: queue.SimpleQueue[float] = queue.SimpleQueue()

    def end_by_itself(self) -> None:
        """Ask without a signal, as the work has ended. It is never a second request."""
        self._moments.put(_BY_ITSELF)

    def first(self) -> float:
        """Wait for the first request and return its time, on the monotonic clock."""
        return self._moments.get() or time.monotonic()

    def again(self, first: float, within_s: float) -> bool:
        """Wait for a further request; return whether one came that is not the same as the first."""
        try:
            return self._moments.get(timeout=within_s) - first > SAME_S
        except queue.Empty:
            return False

    def _ask(self) -> None:
        self._moments.put(time.monotonic())
        self._on_stop()


def stop_in_time(stop: Callable[[], None], on_hangup: Callable[[], None]) -> None:
    """Handle the signals of a process that has nothing to lose: the first stops it in bounded time, the second ends it.

    Args:
        stop: called in the signal handler.
        on_hangup: see `StopSignals`.
    """
    requests = StopRequests(stop, on_hangup)
    threading.Thread(target=_end_in_time, args=(requests,), name="trivet-stop", daemon=True).start()
    requests.signals.install()


def _end_in_time(requests: StopRequests) -> None:
    first = requests.first()
    while (left := first + LEAVE_S - time.monotonic()) > 0 and not requests.again(first, left):
        pass
    os._exit(0)  # what was under way is rolled back, or done again by the next


class Reloader:
    """Reads the file again when asked, in a thread of its own. A file that is wrong changes nothing."""

    def __init__(self, settings: "Settings", take_over: Callable[["Settings"], None], log: logging.Logger) -> None:
        """Start the thread.

        Args:
            take_over: applies what may change while the process runs: routes, budgets, schedules, applications.
        """
        self._settings = settings
        self._take_over = take_over
        self._log = log
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()  # see `StopRequests`
        threading.Thread(target=self._run, name="trivet-reload", daemon=True).start()

    def ask(self) -> None:
        """Have the file read; may be called in a signal handler."""
        self._asked.put(None)

    def reload(self) -> None:
        """Read the file now."""
        try:
            again = self._settings.read_again()
        except ConfigError as error:
            self._log.error("the configuration was read again and is wrong, so nothing changes: %s", error)
            return
        if sections := self._settings.sections_unlike(again):
            self._log.warning("of the changed configuration, [%s] counts from the next start on", "], [".join(sections))
        try:
            self._take_over(again)
        except TrivetError as error:
            self._log.error("the configuration was read again, but could not be put in force: %s", error)
            return
        self._log.info("the configuration was read again: %s", again.source)

    def _run(self) -> None:
        while True:
            self._asked.get()
            try:
                self.reload()
            except Exception as error:  # the next SIGHUP must find this thread
                self._log.error("the configuration was not read again, by a fault of Trivet's own: %s", place_of(error))


def leave(code: int) -> NoReturn:
    """End the process now, whatever other threads do: Python's own end of threads and modules may take seconds."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
