"""A Trivet that lives as long as one command, for the demo and rehearsals: stopping it, and its log."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from trivet.local.local_trivet import LocalTrivet
from trivet_tasks.processes.signals import StopSignals


class Stopping:
    """Goes around the work, inside the parts' own context: from its end on they are stopped.

    From then on a signal makes the stopping faster and cannot break it off halfway. What ran until then is remembered,
    to be looked for afterwards.
    """

    def __init__(self, local: LocalTrivet) -> None:
        self._local = local
        self._groups: set[int] = set()
        self.hastened = False
        """True if a signal came while the parts were being stopped."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        StopSignals(self._hasten).install()
        pids = {self._local.supervisor.pid(name) for name in self._local.parts}
        with contextlib.suppress(OSError, ValueError):
            pids.add(int((self._local.data_dir / "valkey.pid").read_text(encoding="ascii")))
        self._groups = {pid for pid in pids if pid is not None}

    def left_behind(self) -> tuple[int, ...]:
        """The process groups that are still there: each part leads one, and so does the broker."""
        return tuple(sorted(filter(_lives, self._groups)))

    def _hasten(self) -> None:
        self.hastened = True
        self._local.supervisor.kill_now()


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send this process's log to a file: on the screen it would tear the display apart."""
    root = logging.getLogger()
    before = root.handlers[:]
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root.handlers = [handler]
    try:
        yield
    finally:
        root.handlers = before
        handler.close()
