"""A streaming standby of a PostgreSQL of `tests.postgres`, made by pg_basebackup, and its promotion."""

import time

import psycopg
from tests.postgres import PostgresServer

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
        with self._connect() as connection:
            connection.execute("SELECT pg_promote(true, 30)")

    def wait_replayed(self) -> None:
        """Wait until it has everything that the primary has written so far."""
        with self._primary._connect() as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert row is not None
        until = time.monotonic() + _REPLAY_S
        with self._connect() as connection:
            while True:
                done = connection.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (row[0],)).fetchone()
                if done == (True,):
                    return
                assert time.monotonic() < until, self.log
                time.sleep(0.02)

    def _init_cluster(self) -> None:
        self._password = self._primary._password
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
    until = since + _REPLAY_S
    with server._connect() as connection:
        while time.monotonic() - since < _QUIET_S:
            assert time.monotonic() < until, "something is written although the server is read-only"
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert row is not None
            if str(row[0]) != written:
                written, since = str(row[0]), time.monotonic()
            time.sleep(0.02)


def read_only(server: PostgresServer, on: bool) -> None:
    """Let every transaction that begins from now on be read-only, also those of open connections: a demoted primary."""
    with psycopg.connect(
        host=str(server.folder), port=server.port, user="trivet", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        connection.execute("SELECT pg_reload_conf()")
