"""`SimulatorProcess`: a simulator as a child process, for tests and the demo."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO

from trivet_simulator.client import Control
from trivet_simulator.options import Endpoints

START_S = 20.0
STOP_S = 5.0


class SimulatorProcess:
    """Runs `python -m trivet_simulator` with these arguments in a session of its own; stops it by its id on exit.

    `start` raises RuntimeError with what the child said when it does not come up. If this process dies, the child
    stops by itself within a second.
    """

    def __init__(self, *arguments: str, python: str = sys.executable) -> None:
        self._command: Sequence[str] = (
            python,
            "-P",
            "-m",
            "trivet_simulator",
            "--parent",
            str(os.getpid()),
            *arguments,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._endpoints: Endpoints | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Its addresses; RuntimeError before `start`."""
        if self._endpoints is None:
            raise RuntimeError("the simulator is not running: call start() or enter the context first")
        return self._endpoints

    @property
    def control(self) -> Control:
        """The control port."""
        return Control(self.endpoints.control)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self.endpoints.pid

    def start(self) -> SimulatorProcess:
        """Start it and wait until it serves."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        try:
            self._endpoints = Endpoints.from_json(self._first_line())
        except BaseException:
            self.stop()
            raise
        return self

    def _first_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_S
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise RuntimeError(f"the simulator was not ready within {START_S:g} s{self._said()}")
                part = os.read(self._process.stdout.fileno(), 65536)
                if not part:
                    raise RuntimeError(f"the simulator ended with code {self._process.wait(STOP_S)}{self._said()}")
                line += part
        return line

    def _said(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return f": {said[-2000:]}" if said else ""

    def stop(self) -> int | None:
        """Stop it; returns its exit code, None when it was not running."""
        process, self._process = self._process, None
        self._endpoints = None
        try:
            if process is None:
                return None
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            try:
                return process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait(STOP_S)
            finally:
                if process.stdout is not None:
                    process.stdout.close()
        finally:
            if self._errors is not None:
                self._errors.close()
                self._errors = None

    def __enter__(self) -> SimulatorProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
