"""LiteLLM in the failover benchmark: a Router in an environment of its own, as a child process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from pathlib import Path
from typing import Any

from contender import SIMULATOR, Load, Record
from failover_figures import CallRecord, JobRecord
from outages import LEGS

from trivet_simulator import Control, SimulatorProcess

HERE = Path(__file__).parent
PEER_PYTHON = HERE / ".peers" / "litellm" / "bin" / "python"
PEER_SCRIPT = HERE / "peers" / "litellm_router.py"
PEER_START_S = 300.0
"""Importing it takes ten seconds of a core, and all setups start at once."""


class LiteLlmContender:
    """A LiteLLM Router in one of the setups of `peers/litellm_router.py`."""

    def __init__(self, setup: str, load: Load) -> None:
        self.name = f"litellm {setup}"
        self._load = load
        self._simulator = SimulatorProcess(*SIMULATOR)
        self._command = [str(PEER_PYTHON), str(PEER_SCRIPT), "--setup", setup]
        self._process: subprocess.Popen[str] | None = None

    @property
    def simulator(self) -> Control:
        """The legs."""
        return self._simulator.control

    def __enter__(self) -> LiteLlmContender:
        self._simulator.start()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        endpoints = self._simulator.endpoints
        legs = [word for leg in LEGS for word in ("--leg", f"{leg}={endpoints.providers[leg]}")]
        load = self._load
        figures = {
            "--rate": load.rate,
            "--seconds": load.seconds,
            "--timeout": load.attempt_timeout_s,
            "--patience": load.patience_s,
        }
        self._command += [*legs, "--token-url", endpoints.token_url]
        self._command += [str(word) for pair in figures.items() for word in pair]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def wait_ready(self) -> None:
        """Wait until it has made its first calls. RuntimeError when it ended instead."""
        self._line(PEER_START_S)

    def _line(self, timeout_s: float) -> dict[str, Any]:
        """The next line it prints."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        killer = threading.Timer(timeout_s, process.kill)
        killer.start()
        try:
            line = process.stdout.readline()
        finally:
            late = killer.finished.is_set()
            killer.cancel()
        if not line:
            said = f"said nothing for {timeout_s:.0f} s" if late else f"ended with code {process.wait()}"
            raise RuntimeError(f"{self.name} {said}; run by hand it says why: {' '.join(self._command)}")
        return dict(json.loads(line))

    def begin(self, start: float) -> None:
        """Tell the child when."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{start}\n")
        self._process.stdin.flush()

    def collect(self) -> Record:
        """Return the report that the child prints at the end."""
        found = self._line(self._load.seconds + self._load.patience_s + 60)
        jobs = [JobRecord(**job) for job in found["jobs"]]
        return Record(jobs, [CallRecord(call["at"], call["leg"]) for call in found["calls"]], frozenset())

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._simulator.stop()


def litellm_version() -> str:
    """The LiteLLM that is installed beside the benchmarks."""
    code = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.run([str(PEER_PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
