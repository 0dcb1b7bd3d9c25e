"""Waiting for jobs: a notice wakes, SQL decides.

One thread per client listens to the notices and wakes the watchers of the job or batch: threads that wait, and functions
that it calls. A notice may be lost (it is only a hint), so a watcher also looks by itself, slowly.
"""

import contextlib
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import orjson
import redis

from trivet_tasks.errors import ClientClosed, ResultTimeout
from trivet_tasks.shared_state import FINISHED_CHANNEL, connect

T = TypeVar("T")

LOOK_EVERY_S = 2.0
"""Seconds between a watcher's own looks while notices come in."""
LOOK_WITHOUT_NOTICES_S = 0.25
"""Seconds between its looks while it cannot listen, e.g. because the broker is away."""
SUBSCRIBE_WITHIN_S = 1.0
RECENT = 8_192
"""Number of subjects whose last notices are kept, for watchers that begin just after them."""
GIVEN_UP: ContextVar[threading.Event | None] = ContextVar("given_up", default=None)
"""Set for a thread that waits for others, who set the event when they want the answer no more: within `LOOK_EVERY_S` it is free."""


class Notices:
    """The listening thread of one client, started when first needed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._watchers: dict[str, set[Callable[[], None]]] = defaultdict(set)
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._closed = threading.Event()

    def close(self) -> None:
        """End the thread; watchers are woken."""
        self._closed.set()
        with self._lock:
            watchers = [one for several in self._watchers.values() for one in several]
        for wake in watchers:
            wake()
        if self._thread is not None:
            self._thread.join(timeout=3)

    @property
    def listening(self) -> bool:
        """True while notices come in; else watchers have to look by themselves."""
        return self._listening.is_set()

    def start(self) -> None:
        """Listen from now on, so that `watch` misses nothing. Waits up to a second for the subscription."""
        self._start()

    def watch(self, subject: str, on_news: Callable[[], None]) -> Callable[[], None]:
        """Have a function called at each notice about `subject` ("job ID" or "batch ID"), and once listening begins anew.

        It is called at once, too, where a notice came shortly before. It must be quick and is called from the listening
        thread; it may be called once more after its end.

        Returns:
            The function that ends it.

        Example:
            unwatch = notices.watch(f"job {job_id}", lambda: loop.call_soon_threadsafe(news.set))
        """
        with self._lock:
            self._watchers[subject].add(on_news)
            missed = subject in self._recent
        if missed:
            on_news()
        return lambda: self._unwatch(subject, on_news)

    def forget_after_fork(self) -> None:
        """Start anew in the child: the thread is not there, nor perhaps a thread that holds the lock."""
        self.__init__(self._url)  # type: ignore[misc]

    def wait_for(
        self,
        subject: str,
        look: Callable[[], T | None],
        timeout_s: float | None,
        what: str,
        timed_out: Callable[[str], ResultTimeout] = ResultTimeout,
    ) -> T:
        """Look until there is an answer; woken by notices about `subject` ("job ID" or "batch ID").

        Args:
            timed_out: makes the error from its message when the time is over; it may look for the reason.

        Raises:
            ResultTimeout: there was none within `timeout_s` seconds, or it was given up.
            ClientClosed: the client was closed before or meanwhile.
        """
        self._check_open(what)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        given_up = GIVEN_UP.get()
        with self._watch(subject) as woken:
            while True:
                woken.clear()
                answer = look()
                if answer is not None:
                    return answer
                self._check_open(what)
                if given_up is not None and given_up.is_set():
                    raise ResultTimeout(f"{what} is not waited for any more.")
                pause = LOOK_EVERY_S if self._listening.is_set() else LOOK_WITHOUT_NOTICES_S
                if until is not None:
                    left = until - time.monotonic()
                    if left <= 0:
                        raise timed_out(f"{what} has not ended within {timeout_s:g} s.")
                    pause = min(pause, left)
                woken.wait(pause)

    def _check_open(self, what: str) -> None:
        if self._closed.is_set():
            raise ClientClosed(f"The client was closed: {what[0].lower()}{what[1:]} is not waited for.")

    @contextlib.contextmanager
    def _watch(self, subject: str) -> Iterator[threading.Event]:
        self._start()
        event = threading.Event()
        with self._lock:
            self._watchers[subject].add(event.set)
        try:
            yield event
        finally:
            self._unwatch(subject, event.set)

    def _unwatch(self, subject: str, on_news: Callable[[], None]) -> None:
        with self._lock:
            watchers = self._watchers.get(subject)
            if watchers is not None:
                watchers.discard(on_news)
                if not watchers:
                    del self._watchers[subject]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._listen, name="trivet-notices", daemon=True)
                self._thread.start()
        self._listening.wait(SUBSCRIBE_WITHIN_S)

    def _listen(self) -> None:
        client = connect(self._url)
        while not self._closed.is_set():
            try:
                with client.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(FINISHED_CHANNEL)
                    while not self._closed.is_set():
                        message = subscription.get_message(timeout=0.5)
                        if message and message["type"] == "subscribe":
                            self._listening.set()
                            self._wake_all()  # notices before the subscription were missed
                        elif message:
                            self._wake(message["data"])
            except redis.RedisError:
                self._listening.clear()
                self._closed.wait(1.0)
        client.close()

    def _wake(self, data: bytes) -> None:
        try:
            notice = orjson.loads(data)
            subjects = [f"job {job_id}" for job_id in notice["jobs"]]
            subjects += [f"batch {batch}" for batch in notice["batches"]]
        except (ValueError, TypeError, KeyError):
            return  # not a notice of Trivet's; watchers look by themselves
        with self._lock:
            for subject in subjects:
                self._recent[subject] = None
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
            woken = [wake for subject in subjects for wake in self._watchers.get(subject, ())]
        for wake in woken:
            wake()

    def _wake_all(self) -> None:
        with self._lock:
            woken = [wake for watchers in self._watchers.values() for wake in watchers]
        for wake in woken:
            wake()
