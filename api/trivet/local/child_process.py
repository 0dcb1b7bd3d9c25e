"""One supervised process: started, watched by a thread of its own, started again after a crash, signalled safely.

A signal goes to the whole process group, so it reaches what the process started too. It is sent under a lock that is
also held while the process is reaped: a process id is never used after it may belong to somebody else.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trivet_tasks.processes.startup import PARENT_FD_VARIABLE, READY_FILE_VARIABLE

CONFIGURATION_ERROR = 2
"""The exit code that says: started again it would fail again."""
_CANNOT_RUN = 127  # as a shell says it
_LINE_BYTES = 65_536
KEEP_LOG_BYTES = 5_000_000
"""A log larger than this is set aside as `….1` when its process starts, in place of the one before."""
_TAIL_BYTES = 16_384
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restarts:
    """The restarts of a process that ended: after `first_s` seconds, doubling to `max_s`.

    The doubling starts anew once the process has run for `healthy_s` seconds.
    """

    first_s: float = 1.0
    max_s: float = 30.0
    healthy_s: float = 60.0

    def delay_s(self, crashes_in_a_row: int) -> float:
        """Seconds to wait after the n-th crash in a row (from 1)."""
        return float(min(self.max_s, self.first_s * 2 ** min(crashes_in_a_row - 1, 30)))


@dataclass(frozen=True, slots=True)
class Exit:
    """One end of a supervised process that nobody asked for."""

    name: str
    pid: int
    code: int
    """Its exit code; a signal's number as a negative, as in `subprocess`."""
    ran_s: float
    last_line: str
    """The last line it wrote to stderr (with a log file: to either), or nothing."""
    restart_in_s: float | None
    """Seconds until it is started again; None: it is not."""

    def __str__(self) -> str:
        how = f"was killed by signal {-self.code}" if self.code < 0 else f"ended with code {self.code}"
        then = "" if self.restart_in_s is None else f"; it starts again in {self.restart_in_s:g} s"
        said = f". Its last line: {self.last_line}" if self.last_line else ""
        return f"{self.name} {how} after {self.ran_s:.1f} s{then}{said}"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to run. `log_path` None: it writes where we write. `stage`: lower ones are stopped first."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log_path: Path | None
    ready_file: Path
    stage: int
    restarts: Restarts | None
    reloads: bool = False
    """True if it reads its configuration again on SIGHUP."""
    pass_fds: tuple[int, ...] = ()
    """File descriptors that it inherits, under the same numbers."""


class ChildProcess:
    """A process kept running until it is told to stop, for a supervisor, which gives the pipe and the callback."""

    def __init__(self, spec: ChildSpec, parent_fd: int, on_exit: Callable[[Exit], None]) -> None:
        self.spec = spec
        self.finished = threading.Event()
        """Set once it has ended and will not be started again."""
        self.last_exit: Exit | None = None
        self._parent_fd = parent_fd
        self._on_exit = on_exit
        self._lock = threading.RLock()  # a second Ctrl-C signals from its handler, perhaps inside send_signal()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._wake = threading.Event()
        self._spawned = threading.Event()
        self._spawn_error: OSError | None = None
        self._started_at = 0.0
        self._log_start = 0
        self._stderr: deque[bytes] = deque(maxlen=1)
        self._thread = threading.Thread(target=self._watch, name=f"watch-{spec.name}", daemon=True)

    def start(self) -> None:
        """Start it and watch it. Raises OSError if the program cannot be run."""
        # In the thread: an exception from a signal handler, which only the main thread sees, cannot come between the
        # start of the process and our knowing of it.
        self._thread.start()
        self._spawned.wait()
        if self._spawn_error is not None:
            self._thread.join()
            raise self._spawn_error

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        with self._lock:
            return self._process.pid if self._process is not None else None

    @property
    def ready(self) -> bool:
        """True if this run of it has announced itself (`trivet_tasks.processes.startup.announce_ready`)."""
        return self.spec.ready_file.exists()

    def send_signal(self, number: int) -> None:
        """Send a signal to its whole group, if it runs."""
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                    os.killpg(self._process.pid, number)

    def ask_to_reload(self) -> None:
        """Send it SIGHUP, and nothing to what it started; safe in a signal handler. One that starts up reads the file anyway."""
        with self._lock:
            if self._process is not None and self.spec.reloads and self.ready:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGHUP)

    def request_stop(self) -> None:
        """Never start it again, and send it SIGTERM. From a signal handler use `abandon`."""
        self.abandon(signal.SIGTERM)
        self._wake.set()

    def abandon(self, number: int) -> None:
        """Do as `request_stop` with this signal, without waking one that waits to be started again; safe in a signal handler."""
        self._stopping = True
        self.send_signal(number)

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; whether it came."""
        if self._thread.ident is None:  # a signal came before it was started; told to stop, it starts nothing any more
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _watch(self) -> None:
        crashes = 0
        try:
            while self._spawn():
                ended = self._wait(crashes)
                if ended is None:
                    return
                crashes = 1 if self._was_healthy(ended) else crashes + 1
                self._report(ended)
                if ended.restart_in_s is None or self._wake.wait(ended.restart_in_s):
                    return
        finally:
            self._spawned.set()
            self.finished.set()

    def _report(self, ended: Exit) -> None:
        self.last_exit = ended
        try:
            self._on_exit(ended)
        except Exception:  # a failing callback must not keep it from being started again
            _log.exception("could not report: %s", ended)

    def _was_healthy(self, ended: Exit) -> bool:
        return self.spec.restarts is not None and ended.ran_s >= self.spec.restarts.healthy_s

    def _spawn(self) -> bool:
        """Start the process; False if it was told to stop, or cannot be started."""
        environment = dict(self.spec.env) | {
            PARENT_FD_VARIABLE: str(self._parent_fd),
            READY_FILE_VARIABLE: str(self.spec.ready_file),
        }
        try:
            with contextlib.ExitStack() as files, self._lock:
                if self._stopping:
                    return False
                log = None
                if self.spec.log_path is not None:
                    set_aside_large(self.spec.log_path)
                    self._log_start = log_size(self.spec.log_path)
                    log = files.enter_context(self.spec.log_path.open("ab"))
                self._process = subprocess.Popen(
                    self.spec.argv,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.PIPE if log is None else log,
                    start_new_session=True,  # Ctrl-C on the terminal reaches the supervisor alone
                    pass_fds=[self._parent_fd, *self.spec.pass_fds],
                )
        except OSError as error:
            if self._spawned.is_set():  # it ran before, and now its program is gone
                self._report(Exit(self.spec.name, 0, _CANNOT_RUN, 0.0, str(error), None))
            else:
                self._spawn_error = error
            return False
        self._started_at = time.monotonic()
        self._spawned.set()
        return True

    def _wait(self, crashes: int) -> Exit | None:
        """Wait for the process, end what it left behind, and say how it went; None if it was told to stop."""
        process = self._process
        assert process is not None
        copier = None
        if process.stderr is not None:
            copier = threading.Thread(target=self._copy_stderr, name=f"stderr-{self.spec.name}", daemon=True)
            copier.start()
        if hasattr(os, "waitid"):  # not on macOS before Python 3.13
            with contextlib.suppress(ChildProcessError):  # a program that ignores SIGCHLD keeps no ended children
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and its id still held by it
        else:
            process.wait()
        with self._lock:
            self.send_signal(signal.SIGKILL)
            process.wait()
            self._process = None
        self.spec.ready_file.unlink(missing_ok=True)
        if copier is not None:
            copier.join(1.0)  # something that left the group may hold the pipe open
        if self._stopping:
            return None
        ran_s = time.monotonic() - self._started_at
        restarts = self.spec.restarts
        if restarts is None or process.returncode == CONFIGURATION_ERROR:
            delay = None
        else:
            delay = restarts.delay_s(1 if ran_s >= restarts.healthy_s else crashes + 1)
        return Exit(self.spec.name, process.pid, process.returncode, ran_s, self._last_line(), delay)

    def _copy_stderr(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in iter(lambda: stderr.readline(_LINE_BYTES), b""):
                if line.strip():
                    self._stderr.append(line)
                with contextlib.suppress(OSError, ValueError):  # ours is closed: read on, or it blocks
                    sys.stderr.write(line.decode("utf-8", "replace"))
                    sys.stderr.flush()

    def _last_line(self) -> str:
        if self.spec.log_path is not None:
            return "".join(last_lines(self.spec.log_path, 1, since=self._log_start))
        return self._stderr[-1].decode("utf-8", "replace").strip() if self._stderr else ""


def set_aside_large(log_path: Path) -> None:
    """Rename a log that grew beyond `KEEP_LOG_BYTES` to the same name with `.1` behind it."""
    with contextlib.suppress(FileNotFoundError):
        if log_path.stat().st_size > KEEP_LOG_BYTES:
            log_path.replace(log_path.with_name(log_path.name + ".1"))


def log_size(log_path: Path) -> int:
    """Return the size of a log in bytes; 0 where there is none."""
    try:
        return log_path.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(log_path: Path, count: int, *, since: int) -> list[str]:
    """Return the last `count` non-empty lines, without what was written before byte `since`; none if there is no such file."""
    try:
        with log_path.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(since, end - _TAIL_BYTES))
            text = log.read(_TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
