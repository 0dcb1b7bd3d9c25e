"""The log files of processes started here: kept small, and read back when one of them fails."""

import contextlib
from pathlib import Path

KEEP_BYTES = 5_000_000
"""A log larger than this is set aside as `….1` when its process starts, in place of the one before."""
_TAIL_BYTES = 16_384


def set_aside_large(log_path: Path) -> None:
    """Rename a log that grew beyond `KEEP_BYTES` to the same name with `.1` behind it."""
    with contextlib.suppress(FileNotFoundError):
        if log_path.stat().st_size > KEEP_BYTES:
            log_path.replace(log_path.with_name(log_path.name + ".1"))


def size(log_path: Path) -> int:
    """Its size in bytes; 0 where there is none."""
    try:
        return log_path.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(log_path: Path, count: int, *, since: int) -> list[str]:
    """The last `count` non-empty lines, without what was written before byte `since`; none if there is no such file."""
    try:
        with log_path.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(since, end - _TAIL_BYTES))
            text = log.read(_TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
