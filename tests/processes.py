"""Processes of the tests: servers on free ports of loopback that end with their test, and parents with unusual settings."""

import contextlib
import os
import pwd
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from tests.timing import until

START_S = 150.0
STOP_S = 20.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether somebody takes connections on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_line(process: subprocess.Popen[str], words: str, within_s: float) -> None:
    """Read standard error up to the line with these words, and further in a thread of its own.

    Args:
        within_s: seconds; AssertionError with what it said when they are over.
    """
    assert process.stderr is not None
    stderr = process.stderr
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in stderr:
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + within_s
    seen: list[str] = []
    while not seen or words not in seen[-1]:
        try:
            seen.append(lines.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            raise AssertionError(f"{words!r} did not come; it said: {''.join(seen)}") from None


class ServerProcess:
    """One child process with its output in a file. It can be killed and started again."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: pwd.struct_passwd | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: where it runs and where `log` is written.
            env: variables on top of PATH and the like.
            user: as whom it runs, if not as this process.
        """
        self.folder = folder
        self.log_path = folder / "server.log"
        self._command = list(command)
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Its log so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    @property
    def runs(self) -> bool:
        """True if it has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], object]) -> None:
        """Start it and wait until `ready` says so."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **self._user,
            )  # fmt: skip
        try:
            until(lambda: not self.runs or ready(), f"{self._command[0]} to be ready")
        except AssertionError as error:
            error.add_note(self.log[-2_000:])
            raise
        assert self.runs, f"{self._command[0]} ended:\n{self.log[-2_000:]}"

    def kill(self) -> None:
        """End it and its children at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order (SIGTERM), then by force."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            family = [root, *root.children(recursive=True)]
        for one in family if number == signal.SIGKILL else family[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)
        _, left = psutil.wait_procs(family, timeout=STOP_S)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait(STOP_S)


_PARENT = """
import os, signal, sys
ignored, blocked, closed, umask, *command = sys.argv[1:]
for number in filter(None, ignored.split(",")):
    signal.signal(int(number), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [int(number) for number in filter(None, blocked.split(","))])
for number in filter(None, closed.split(",")):
    os.close(int(number))
os.umask(int(umask, 8))
os.execv(command[0], command)
"""


def _words(numbers: Iterable[int]) -> str:
    return ",".join(str(int(number)) for number in numbers)


def under(
    command: Sequence[str],
    *,
    ignored: Iterable[int] = (),
    blocked: Iterable[int] = (),
    closed: Iterable[int] = (),
    umask: int = 0o022,
) -> list[str]:
    """Return a command that becomes this one, in the same process, with what such a parent passes on.

    Args:
        ignored: signals; `nohup` passes on SIGHUP, a shell script SIGINT and SIGQUIT to what it runs in the background.
        blocked: signals that wait.
        closed: descriptors of standard files.
    """
    given = (_words(ignored), _words(blocked), _words(closed), f"{umask:o}")
    return [sys.executable, "-I", "-S", "-c", _PARENT, *given, *command]
