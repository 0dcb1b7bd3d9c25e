"""Keys seen before, for any number of lines: in a temporary file, with a bounded part of it in memory."""

import sqlite3
from types import TracebackType

from trivet_tasks.errors import InvalidRequest

CACHE_KIB = 16_000
"""Maximum part of it in memory; the rest is on disk, about 26 bytes for each key."""


class Seen:
    """Digests of 8 bytes, each with another 8 bytes that it came with first.

    They lie in a database of SQLite's that has no name and is gone when it is closed, in the folder for temporary files
    (`TMPDIR`). A dict holds 136 bytes for each key; this takes 8 microseconds instead of one, and no more memory.
    """

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> "Seen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: bytes) -> bytes | None:
        """Return the value that the key came with first, or None."""
        if self._database is None:
            return None
        row = self._database.execute("SELECT value FROM seen WHERE key = ?", (_number(key),)).fetchone()
        return None if row is None else int(row[0]).to_bytes(8, "big", signed=True)

    def earlier(self, key: bytes, value: bytes) -> bytes | None:
        """Return the value that the key came with first; None where it is new. It is remembered from now on.

        Raises:
            InvalidRequest: the folder for temporary files is full.
        """
        database = self._database or self._open()
        try:
            new = database.execute(
                "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", (_number(key), _number(value))
            ).rowcount
        except sqlite3.Error as error:
            raise InvalidRequest(
                f"The keys of the file cannot be kept in a temporary file: {error}.",
                hint="Let TMPDIR name a folder with more room.",
            ) from None
        return None if new else self.get(key)

    def close(self) -> None:
        """Forget everything."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        self._database.execute("BEGIN")
        return self._database


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "big", signed=True)
