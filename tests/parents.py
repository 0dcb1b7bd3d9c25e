"""Parents that pass on unusual settings: ignored and blocked signals, closed files, a narrow mask."""

import sys
from collections.abc import Iterable, Sequence

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


def words(numbers: Iterable[int]) -> str:
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
    given = (words(ignored), words(blocked), words(closed), f"{umask:o}")
    return [sys.executable, "-I", "-S", "-c", _PARENT, *given, *command]
