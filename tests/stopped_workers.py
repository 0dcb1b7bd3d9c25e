"""Workers of a running Trivet that stand still, so that a test sees what is in their queues."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator

import redis
from tests.timing import until

from trivet.testing import RunningTrivet
from trivet_tasks.config.database_url import sqlite_path

BULK, REALTIME = "worker-1-bulk", "worker-1-realtime"


@contextlib.contextmanager
def stopped(system: RunningTrivet, shared: redis.Redis) -> Iterator[None]:
    """The workers take nothing as long as the block lasts; none was in the middle of a write, or asks for a message."""
    pids = [pid for name in (BULK, REALTIME) if (pid := system.local.supervisor.pid(name))]

    def signal_all(number: int) -> None:
        for pid in pids:
            os.kill(pid, number)

    def still() -> bool:
        signal_all(signal.SIGSTOP)
        path = sqlite_path(system.settings.store_url)
        try:
            if path is not None:
                with contextlib.closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            signal_all(signal.SIGCONT)
            return False
        return True

    until(still, "a moment at which it writes nothing")
    try:
        until(lambda: shared.info("clients")["blocked_clients"] == 0, "them to ask for messages")
        yield
    finally:
        signal_all(signal.SIGCONT)
