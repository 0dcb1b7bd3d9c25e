"""Kills (SIGKILL) of the workers of both sides in turn, each started again at once.

One that is only starting is spared: on a busy machine a start takes longer than the time between two kills.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from tests.celery_shop.running import Shop

from trivet.testing import RunningTrivet
from trivet_tasks.errors import ProcessFailed


class _Kills(threading.Thread):
    """Kills one process every so many seconds until it is stopped."""

    def __init__(self, shop: Shop, trivet: RunningTrivet, every_s: float) -> None:
        super().__init__(name="kills", daemon=True)
        self._shop = shop
        self._trivet = trivet
        self._every_s = every_s
        self.over = threading.Event()
        self.kills: Counter[str] = Counter()

    def run(self) -> None:
        """Kill the shop's worker, a child of it, a worker of Trivet, its scheduler, and so on."""
        turns: list[Callable[[], None]] = [
            self._shop_worker,
            self._pool_child,
            partial(self._trivet_process, "worker-1-bulk"),
            partial(self._trivet_process, "scheduler"),
        ]
        for turn in itertools.cycle(turns):
            if self.over.wait(self._every_s):
                return
            turn()

    def _shop_worker(self) -> None:
        if self._shop.ready:
            self._shop.kill()
            self._shop.start(self._trivet.settings.source)
            self.kills["shop's worker"] += 1

    def _pool_child(self) -> None:
        children = self._shop.family()[1:]
        if self._shop.ready and children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(children[0].pid, signal.SIGKILL)
                self.kills["shop's child"] += 1

    def _trivet_process(self, name: str) -> None:
        supervisor = self._trivet.local.supervisor
        with contextlib.suppress(ProcessFailed, ProcessLookupError):
            supervisor.wait_ready(name, 0)
            pid = supervisor.pid(name)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.kills[name] += 1


@contextlib.contextmanager
def kills(shop: Shop, trivet: RunningTrivet, *, every_s: float) -> Iterator[Counter[str]]:
    """Kill a process every so many seconds as long as the block lasts. Yields the number of kills by process."""
    thread = _Kills(shop, trivet, every_s)
    thread.start()
    try:
        yield thread.kills
    finally:
        thread.over.set()
        thread.join()
