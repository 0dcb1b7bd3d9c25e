"""The calls that one worker process may have in flight."""

import threading
import time


class Slots:
    """A counted number of slots. Threads take as many as are free; a finished call gives its slot back."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()

    @property
    def in_use(self) -> int:
        """Number of slots in use."""
        return self.total - self._free

    def take(self, wanted: int, timeout_s: float) -> int:
        """Take up to `wanted` slots, at least one if any comes free within `timeout_s`; 0 if none did."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while self._free == 0:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return 0
            taken = min(wanted, self._free)
            self._free -= taken
            return taken

    def give(self, count: int) -> None:
        """Give slots back."""
        if count:
            with self._changed:
                self._free += count
                self._changed.notify_all()
