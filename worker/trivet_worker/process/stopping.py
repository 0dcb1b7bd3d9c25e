"""Ordered stop of a worker process, in time whatever hangs.

The first SIGTERM (or SIGINT; SIGHUP where its terminal is gone): no new work is taken, and running calls get the grace
time; calls that still run then are dropped and recorded. The second: the grace time is over now. In both cases jobs that
could not be recorded in time are put back by one statement, and the process ends, whatever state Celery, the broker and
the database are in.
"""

import logging
import threading
import time

from trivet_tasks.errors import StoreUnavailable, place_of
from trivet_tasks.processes.signals import StopRequests, leave
from trivet_worker.process.runtime import Runtime

log = logging.getLogger("trivet.worker")

WRITE_S = 1.2
"""Maximum time to record dropped calls."""
WRITE_NOW_S = 0.4
"""The same after a second signal."""
PUT_BACK_S = 0.8
"""Maximum time to release the lease."""
PUT_BACK_NOW_S = 0.3
"""The same after a second signal."""
FORKS_S = 0.5
"""Maximum time for the fork server to end: it is told, and only has to be let run."""
FORKS_NOW_S = 0.1
"""The same after a second signal."""
CELERY_S = 0.3
"""Maximum time for Celery to say goodbye once nothing is in hand."""
_LOOK_S = 0.02
_LEFT_TO_LEASE = 1
"""The exit code where jobs had to be left to the lease's end."""


class Stopper:
    """Waits, in a thread of its own, to be asked to end the process."""

    def __init__(self, runtime: Runtime, grace_s: float, requests: StopRequests) -> None:
        """Prepare; nothing happens yet."""
        self._runtime = runtime
        self._grace_s = grace_s
        self._requests = requests
        self._code = 0
        self._released = threading.Event()
        self._celery_ended = False
        self._thread = threading.Thread(target=self._run, name="trivet-stop", daemon=True)

    def start(self) -> None:
        """Handle the signals from now on. Call it in the main thread."""
        self._thread.start()
        self._requests.signals.install()

    def finish(self) -> int:
        """End the rest after Celery has ended, asked or not. Returns the exit code, with which the caller exits."""
        self._celery_ended = True
        self._requests.end_by_itself()
        self._released.wait()
        return self._code

    def _run(self) -> None:
        first = self._requests.first()
        hurried = False
        try:
            hurried = self._wind_down(first)
        except Exception as error:  # it must end
            log.error("stopping met a fault of Trivet's own: %s", place_of(error))
        self._close(PUT_BACK_NOW_S if hurried else PUT_BACK_S)
        self._runtime.wait_for_forks(FORKS_NOW_S if hurried else FORKS_S)
        self._released.set()
        if not hurried:
            time.sleep(CELERY_S)
        if not self._celery_ended:  # it hangs, or nobody waits for it
            leave(self._code)

    def _wind_down(self, first: float) -> bool:
        """Let calls end, then drop them. Returns whether somebody asked a second time."""
        self._runtime.begin_stop()
        if self._runtime.in_hand:
            log.info("stopping: %d calls may go on for %g s", self._runtime.in_hand, self._grace_s)
        hurried = self._wait(first, first + self._grace_s)
        if self._runtime.idle:
            return hurried
        if self._runtime.in_hand:
            log.warning("%d calls are dropped, their jobs wait again", self._runtime.in_hand)
        if not hurried:
            hurried = self._wait(first, time.monotonic() + WRITE_S, dropping=True)
        if hurried:
            self._wait(float("inf"), time.monotonic() + WRITE_NOW_S, dropping=True)
        return hurried

    def _wait(self, first: float, until: float, *, dropping: bool = False) -> bool:
        """Wait until nothing is in hand, time is up, or a second request comes; return whether one came."""
        while not self._runtime.idle and (left := until - time.monotonic()) > 0:
            if dropping:
                self._runtime.drop_calls()  # again and again: a chunk may have been about to begin some
            if self._requests.again(first, min(_LOOK_S, left)):
                return True
        return False

    def _close(self, within_s: float) -> None:
        """Release the lease with its jobs, if the database answers in time."""
        closing = threading.Thread(target=self._close_safely, name="trivet-close", daemon=True)
        self._code = _LEFT_TO_LEASE
        closing.start()
        closing.join(within_s)
        if self._code == _LEFT_TO_LEASE:
            log.error("the database does not answer in time: the lease runs out by itself, its jobs are rescued then")

    def _close_safely(self) -> None:
        in_hand = self._runtime.in_hand
        try:
            put_back = self._runtime.close()
        except StoreUnavailable:
            return
        except Exception as error:
            log.error("the lease was not released, by a fault of Trivet's own: %s", place_of(error))
            return
        self._code = 0
        if put_back:
            log.warning("%d jobs wait again; what came of their calls is not known (%d in hand)", put_back, in_hand)
