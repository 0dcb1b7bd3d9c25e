"""CPU time and memory of processes and their descendants, from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

TICKS = os.sysconf("SC_CLK_TCK")


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descends from them now."""
    found: dict[int, None] = {}
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            found |= dict.fromkeys([process.pid, *(child.pid for child in process.children(recursive=True))])
    return list(found)


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time that the trees have used so far, children that have ended included."""
    return sum(_cpu_seconds(pid) for pid in tree(roots))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS


def peak_mb(roots: Iterable[int]) -> float:
    """Resident memory of the trees at the peak of each process, in MB; pages that forked processes share count once."""
    return (
        sum(_status_kb(pid, "VmHWM") - _status_kb(pid, "VmRSS") + _proportional_kb(pid) for pid in tree(roots)) / 1000
    )


def now_mb(roots: Iterable[int]) -> float:
    """Resident memory now, likewise."""
    return sum(_proportional_kb(pid) for pid in tree(roots)) / 1000


def own_mb(roots: Iterable[int]) -> float:
    """Resident memory that no other process shares: no shared buffers, no mapped files."""
    return sum(_status_kb(pid, "RssAnon") for pid in tree(roots)) / 1000


def _status_kb(pid: int, name: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


def _proportional_kb(pid: int) -> int:
    """Resident memory, a page that n processes map being an n-th to each."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
