"""Protocol of the cost benchmark and its children: one order a line in, one answer a line out. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENCE_S = 300.0


def serve(orders: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """In the child: say that it is ready, then do what it is told until stdin ends."""
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        _say(orders[order.pop("do")](**order))


def _say(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


class Child:
    """A process that serves orders. What it writes to stderr is shown only when it fails."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        self.command = [str(word) for word in command]
        self._env = {**os.environ, "PYTHONPATH": str(HERE), **(env or {})}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it is ready. RuntimeError when it ends instead."""
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=self._env,
            text=True,
        )
        self._line()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        process.stdin.flush()
        return self._line()

    def stop(self) -> None:
        """End it. Twice does no harm."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _line(self) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        killer = threading.Timer(PATIENCE_S, process.kill)
        killer.start()
        try:
            line = process.stdout.readline()
        finally:
            killer.cancel()
        if not line:
            code = process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(self.command)} ended with code {code} instead of answering:\n{said}")
        return dict(json.loads(line))
