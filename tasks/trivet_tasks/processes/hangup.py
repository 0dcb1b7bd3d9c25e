"""Reload of the configuration on SIGHUP, for `trivet worker` and `trivet scheduler`."""

import logging
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType

from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError, TrivetError
from trivet_tasks.faults import place_of
from trivet_tasks.processes.stop_signals import reloads_on_hangup


class Reloader:
    """Reads the file again at each SIGHUP, in a thread of its own. A file that is wrong changes nothing."""

    def __init__(self, settings: Settings, take_over: Callable[[Settings], None], log: logging.Logger) -> None:
        """Handle nothing yet.

        Args:
            take_over: applies what may change while the process runs: routes and budgets.
        """
        self._settings = settings
        self._take_over = take_over
        self._log = log
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put() may interrupt itself, unlike an Event's

    def start(self) -> None:
        """Handle SIGHUP from now on, unless it means something else here. Call it in the main thread."""
        if not reloads_on_hangup():
            return
        threading.Thread(target=self._run, name="trivet-reload", daemon=True).start()
        signal.signal(signal.SIGHUP, self._on_signal)

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

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.put(None)

    def _run(self) -> None:
        while True:
            self._asked.get()
            try:
                self.reload()
            except Exception as error:  # the next SIGHUP must find this thread
                self._log.error("the configuration was not read again, by a fault of Trivet's own: %s", place_of(error))
