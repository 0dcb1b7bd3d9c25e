"""Server processes of the tests: children in sessions of their own, on free ports of loopback, ended by their ids."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

POLL_S = 0.02
START_S = 150.0
STOP_S = 20.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(true: Callable[[], object], what: str, within_s: float = START_S) -> None:
    """Ask again and again until the answer is true. AssertionError, naming `what`, when time runs out."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


class ServerProcess:
    """One child process with its output in a file. It can be killed and started again."""

    def __init__(self, command: Sequence[str], folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        """Nothing is started yet.

        Args:
            folder: where it runs and where `log` is written.
            env: variables on top of PATH and the like.
        """
        self.folder = folder
        self.log_path = folder / "server.log"
        self._command = list(command)
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

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
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: not self.runs or ready(), f"{self._command[0]} is ready\n{self.log[-2_000:]}")
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
