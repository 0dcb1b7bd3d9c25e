"""A streaming standby of a PostgreSQL of `tests.postgres`, made by pg_basebackup, and its promotion."""

import time

from tests.postgres import PostgresServer
from tests.timing import until

_REPLAY_S = 30.0
_QUIET_S = 1.5
"""Longer than the time between two heartbeats of a process."""


class Standby(PostgresServer):
    """A cluster that follows another and takes no writes until `promote`."""

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__()

    def promote(self) -> None:
        """Make it a primary; returns when it takes writes."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote(true, 30)")

    def wait_replayed(self) -> None:
        """Wait until it has everything that the primary has written so far."""
        with self._primary.connect() as connection:
            end = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        with self.connect() as connection:
            until(lambda: connection.execute(replayed, end).fetchone() == (True,), "the standby", within_s=_REPLAY_S)

    def _init_cluster(self) -> None:
        self.password = self._primary.password
        done = self._run(
            [
                self._bin / "pg_basebackup",
                *("--pgdata", self._dir / "data"),
                *("--host", self._primary.folder, "--port", str(self._primary.port), "--username", "trivet"),
                *("--write-recovery-conf", "--wal-method", "stream", "--checkpoint", "fast", "--no-sync"),
            ]
        )
        if done.returncode != 0:
            raise RuntimeError(f"pg_basebackup failed:\n{done.stdout}")


def wait_until_quiet(server: PostgresServer) -> None:
    """Wait until nothing has been written for longer than a heartbeat.

    A transaction that began before `read_only` may commit after it. What commits after the standby has caught up is lost,
    as at any failover without synchronous replication.
    """
    written, since = "", time.monotonic()
    deadline = since + _REPLAY_S
    with server.connect() as connection:
        while time.monotonic() - since < _QUIET_S:
            assert time.monotonic() < deadline, "something is written although the server is read-only"
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert row is not None
            if str(row[0]) != written:
                written, since = str(row[0]), time.monotonic()
            time.sleep(0.02)


def read_only(server: PostgresServer, on: bool) -> None:
    """Let every transaction that begins from now on be read-only, also those of open connections: a demoted primary."""
    with server.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        connection.execute("SELECT pg_reload_conf()")
