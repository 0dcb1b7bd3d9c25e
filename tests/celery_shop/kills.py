"""Kills (SIGKILL) of the workers of both sides in turn, each started again at once."""

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator

from tests.celery_shop.running import Shop

from trivet.testing import RunningTrivet


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
        turns = [self._shop_worker, self._pool_child, self._trivet_process("worker-1-bulk"), self._scheduler]
        turn = 0
        while not self.over.wait(self._every_s):
            turns[turn % len(turns)]()
            turn += 1

    def _shop_worker(self) -> None:
        self._shop.kill()
        self._shop.start(self._trivet.settings.source)
        self.kills["shop"] += 1

    def _pool_child(self) -> None:
        children = self._shop.family()[1:]
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(children[0].pid, signal.SIGKILL)
                self.kills["child"] += 1

    def _scheduler(self) -> None:
        self._trivet_process("scheduler")()

    def _trivet_process(self, name: str):  # type: ignore[no-untyped-def]
        def kill() -> None:
            pid = self._trivet.local.supervisor.pid(name)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.kills[name] += 1

        return kill


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
