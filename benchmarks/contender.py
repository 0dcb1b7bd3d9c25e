"""A contender of the failover benchmark: its input, and what it reports. Each has a simulator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from failover_figures import CallRecord, JobRecord

from trivet_simulator import Control

MEDIAN_S = 0.3
SIMULATOR = ("--latency-median", str(MEDIAN_S), "--latency-p95", "0.9", "--seed", "1")
"""Every contender's legs answer alike."""
MODEL = "claude-haiku-4-5"


@dataclass(frozen=True, slots=True)
class Load:
    """The jobs every contender gets: so many a second for so long, and the time the last ones may take."""

    rate: float
    seconds: float
    attempt_timeout_s: float
    patience_s: float

    @property
    def count(self) -> int:
        """Number of jobs."""
        return round(self.rate * self.seconds)


@dataclass(frozen=True, slots=True)
class Record:
    """Record of a contender. `calls` are those it counted itself."""

    jobs: Sequence[JobRecord]
    calls: Sequence[CallRecord]
    probes: frozenset[str]
    """Attempt ids of calls that were probes."""


class Contender(Protocol):
    """A runner of jobs over three legs. A context manager: inside, it is ready."""

    name: str

    @property
    def simulator(self) -> Control:
        """The legs."""

    def __enter__(self) -> Contender:
        """Start."""

    def __exit__(self, *_: object) -> None:
        """Stop everything that was started."""

    def wait_ready(self) -> None:
        """Wait until a first job has been done."""

    def begin(self, start: float) -> None:
        """Send the jobs from this moment on; comes back at once."""

    def collect(self) -> Record:
        """Wait for the last job, or for patience to end."""
