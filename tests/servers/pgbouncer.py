"""Debian's PgBouncer for the tests, before a PostgreSQL of `tests.postgres`: `PgBouncer(program, server, database).url`.

It refuses to run as root; run by root it becomes `nobody`. The end of the test kills it with its process group.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import make_url
from tests.postgres import PostgresServer

_READY_S = 20.0
_POLL_S = 0.02


class PgBouncer:
    """One PgBouncer in transaction mode on a free port of 127.0.0.1, which stays the same over restarts."""

    def __init__(self, program: str, server: PostgresServer, database: str, *, server_connections: int = 20) -> None:
        self._program = program
        self._url = make_url(server.url(database))
        self._folder = Path(tempfile.mkdtemp(prefix="trivet-bouncer-", dir="/tmp"))
        self._nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._write(server.port, server_connections)

    @property
    def url(self) -> str:
        """The URL of the database through it."""
        return self._url.set(port=self.port).render_as_string(hide_password=False)

    @property
    def log(self) -> str:
        """Its log."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-q", str(self._folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._nobody.pw_uid if self._nobody else None,
                group=self._nobody.pw_gid if self._nobody else None,
                extra_groups=[] if self._nobody else None,
            )
        until = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL, as when its machine is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(_READY_S)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, server_port: int, server_connections: int) -> None:
        users = self._folder / "users"
        users.write_text(f'"{self._url.username}" "{self._url.password}"\n', encoding="ascii")
        (self._folder / "pgbouncer.ini").write_text(
            f"""\
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {server_connections}
max_client_conn = 500
server_round_robin = 1
""",
            encoding="ascii",
        )
        if self._nobody is not None:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, self._nobody.pw_uid, self._nobody.pw_gid)
