"""The time that all processes of one Trivet agree on, in seconds since the epoch.

On PostgreSQL it is the server's. SQLite has no server, but all who share its file share a machine: there it is the time
since the machine's boot, which no process can have set, plus an offset that the database holds. So a wall clock that
jumps, of the machine or of one process, moves no lease and no back-off. The offset is set anew when a process starts while
no worker lives and the two have grown apart, and at the first start after a boot.
"""

import time
from functools import lru_cache
from pathlib import Path

from sqlalchemy import Connection, text

APART_S = 1.0
"""Maximum difference in seconds between the wall clock and Trivet's clock before the latter is set anew."""

_POSTGRES_NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")
_OFFSET = text('SELECT "offset" FROM boot_clock WHERE boot = :boot')
_SET = text(
    """
    INSERT INTO boot_clock (id, boot, "offset") VALUES (1, :boot, :offset)
    ON CONFLICT (id) DO UPDATE SET boot = :boot, "offset" = :offset
    """
)
_LIVING = text("SELECT 1 FROM leases WHERE expires_at >= :now LIMIT 1")


class Clock:
    """One database's clock, as this process knows it."""

    def __init__(self, *, sqlite: bool) -> None:
        self._sqlite = sqlite
        self._ahead: float | None = None

    def now(self, connection: Connection) -> float:
        """Return the time, by one small query."""
        now = self._sqlite_now(connection) if self._sqlite else self._postgres_now(connection)
        self._ahead = now - time.monotonic()
        return now

    def reckoned(self) -> float:
        """Return the last time from `now`, advanced by this process's clock, without a query; else the wall clock."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    @property
    def ahead(self) -> float | None:
        """Seconds that the clock is ahead of this process's monotonic clock; changes only when one of them jumps."""
        return self._ahead

    def _postgres_now(self, connection: Connection) -> float:
        return float(connection.execute(_POSTGRES_NOW).scalar_one())

    def _sqlite_now(self, connection: Connection) -> float:
        boot = _boot()
        offset = connection.execute(_OFFSET, {"boot": boot}).scalar_one_or_none() if boot else None
        return time.time() if offset is None else _since_boot() + float(offset)


def is_off(connection: Connection) -> bool:
    """Return whether SQLite's clock was not set since the boot, or differs from the wall clock while nobody works."""
    boot = _boot()
    if boot is None:
        return False
    offset = connection.execute(_OFFSET, {"boot": boot}).scalar_one_or_none()
    if offset is None:
        return True
    now = _since_boot() + float(offset)
    return abs(time.time() - now) > APART_S and connection.execute(_LIVING, {"now": now}).one_or_none() is None


def set_anew(connection: Connection) -> None:
    """Set SQLite's clock by the wall clock, if it is off. The caller's transaction must be one that writes."""
    if is_off(connection):
        connection.execute(_SET, {"boot": _boot(), "offset": time.time() - _since_boot()})


@lru_cache(maxsize=1)
def _boot() -> str | None:
    """Return the id of the machine's boot; None where it is not known (not Linux): the wall clock is used then."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
