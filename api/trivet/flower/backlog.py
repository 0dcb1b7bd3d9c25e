"""The backlog for Flower's pages: read beside its event loop, and no more often than is cheap."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from trivet.admin import Admin, Backlog
from trivet_tasks.errors import StoreError

log = logging.getLogger("trivet.flower")

BATCHES = 15
"""Number of batches on a page, those with most waiting jobs first."""
PATIENCE_S = 3.0
"""Seconds that a page waits for the database before it does without."""
STALE_S = 30.0
"""Figures up to this age are shown without a word while newer ones take their time."""
LEAST_PAUSE_S = 1.0
PAUSE_FACTOR = 5
"""Reads are at least a second apart, and at least this many times as long as the last one took, so that open pages and
scrapes together cost the database a sixth of its time at most, however large the backlog."""


class BacklogReader:
    """Reads the backlog in a thread of its own. `latest` is for one event loop; calls at the same time share one read."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trivet-backlog")
        self._last = Backlog()
        self._next_at = 0.0
        self._read_until = -STALE_S
        self._reading: asyncio.Task[None] | None = None

    @property
    def last(self) -> Backlog:
        """Return the backlog that was read last, without waiting."""
        return self._last

    async def latest(self) -> Backlog:
        """Return the backlog, at most a few seconds old. Never raises: if the database is away, `impairment` says so."""
        if self._reading is None and time.monotonic() >= self._next_at:
            self._reading = asyncio.create_task(self._refresh())
        reading = self._reading
        if reading is not None:
            await asyncio.wait({reading}, timeout=PATIENCE_S)
            if not reading.done() and time.monotonic() - self._read_until > STALE_S:
                return replace(self._last, impairment=f"The database has not answered for {PATIENCE_S:g} s.")
        return self._last

    def close(self) -> None:
        """Start no further read; one under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _refresh(self) -> None:
        began = time.monotonic()
        try:
            self._last = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        finally:
            ended = self._read_until = time.monotonic()
            self._next_at = ended + max(LEAST_PAUSE_S, PAUSE_FACTOR * (ended - began))
            self._reading = None

    def _read(self) -> Backlog:
        try:
            return self._admin.health.backlog(batches=BATCHES)
        except StoreError as error:
            return replace(self._last, impairment=str(error))
        except Exception as error:  # a page without figures is better than none
            log.exception("the backlog cannot be read")
            return replace(
                self._last, impairment=f"The backlog cannot be read ({type(error).__name__}); see Flower's log."
            )
