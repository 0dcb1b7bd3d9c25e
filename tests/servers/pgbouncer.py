"""Debian's PgBouncer for the tests, before a PostgreSQL of `tests.postgres`: `PgBouncer(program, server, database).url`.

It refuses to run as root; run by root it becomes `nobody`. The end of the test kills it with its process group.
"""

import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import Self

from sqlalchemy import make_url
from tests.postgres import PostgresServer
from tests.processes import ServerProcess, free_port, listens


class PgBouncer:
    """One PgBouncer in transaction mode on a free port of 127.0.0.1, which stays the same over restarts."""

    def __init__(self, program: str, server: PostgresServer, database: str, *, server_connections: int = 20) -> None:
        self._url = make_url(server.url(database))
        self._folder = Path(tempfile.mkdtemp(prefix="trivet-bouncer-", dir="/tmp"))
        self._nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.port = free_port()
        self._write(server.port, server_connections)
        command = [program, "-q", str(self._folder / "pgbouncer.ini")]
        self._process = ServerProcess(command, self._folder, user=self._nobody)

    @property
    def url(self) -> str:
        """The URL of the database through it."""
        return self._url.set(port=self.port).render_as_string(hide_password=False)

    @property
    def log(self) -> str:
        """Its log."""
        return self._process.log

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process.start(lambda: listens(self.port))

    def kill(self) -> None:
        """SIGKILL, as when its machine is gone."""
        self._process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
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
