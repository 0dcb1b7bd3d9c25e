"""Start of a process: its title, a quick import, the report that it is ready, and its end when its parent is gone.

The last two do nothing in a process that was started by hand, so any command may call them. `trivet.local.processes`
passes two variables:

    TRIVET_READY_FILE   a file to create once the process does its work
    TRIVET_PARENT_FD    a pipe's reading end; its writing end is open in the parent alone, so it reads as ended when
                        the parent is gone, however it went

A pipe, because it works the same on Linux and macOS, cannot be missed by a child started a moment before the parent
died, and costs nothing while it waits. Linux's PR_SET_PDEATHSIG would need code between fork and exec, and fires when
the *thread* that started the child ends.
"""

import contextlib
import gc
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

READY_FILE_VARIABLE = "TRIVET_READY_FILE"
PARENT_FD_VARIABLE = "TRIVET_PARENT_FD"

LONGEST_ROUTES = 80
"""Maximum number of characters of the routes' names."""
_KEEP_ENVIRONMENT = "SPT_NOENV"
"""Has setproctitle write into the space of the command line alone: `/proc/PID/environ` stays as it is."""
_follows_parent = False


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module in a process of its own.

    `-P`: a file like `queue.py` in the working directory, which is the user's, is no module of Trivet or of Python.

    Example: `python_command("trivet", "scheduler")`
    """
    return (sys.executable, "-P", "-m", module, *arguments)


def announce_ready() -> None:
    """Create the file named by `TRIVET_READY_FILE`, with this process's id in it; without the variable do nothing."""
    named = os.environ.get(READY_FILE_VARIABLE)
    if named:
        with contextlib.suppress(OSError):  # the one who asked is gone, or looks elsewhere: no reason not to work
            Path(named).write_text(f"{os.getpid()}\n", encoding="ascii")


def follow_parent(grace_s: float = 5.0) -> bool:
    """End this process when its parent is gone: SIGTERM to itself, and SIGKILL to its group after `grace_s` seconds.

    Call it first thing in the process, before slow imports. Returns whether there is a parent to follow.
    """
    global _follows_parent
    named = os.environ.pop(PARENT_FD_VARIABLE, "")  # not for the children of this process: their number means nothing
    if _follows_parent or not named.isdecimal():
        return _follows_parent
    fd = int(named)
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
    except OSError:
        return False
    os.set_inheritable(fd, False)
    threading.Thread(target=_end_with_parent, args=(fd, grace_s), name="follow-parent", daemon=True).start()
    _follows_parent = True
    return True


def _end_with_parent(fd: int, grace_s: float) -> None:
    while os.read(fd, 64):
        pass
    with contextlib.suppress(OSError, KeyError):  # what the parent would have tidied up
        ready_file = Path(os.environ[READY_FILE_VARIABLE])
        ready_file.unlink(missing_ok=True)
        ready_file.parent.rmdir()  # the last of its children succeeds
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def set_title(*words: str) -> None:
    """Give this process the title `trivet WORD …`. No secret may be in it: every user of the machine can read it."""
    before = os.environ.get(_KEEP_ENVIRONMENT)
    os.environ[_KEEP_ENVIRONMENT] = "1"
    try:
        from setproctitle import setproctitle  # it looks at the variable

        setproctitle(" ".join(("trivet", *words)))
    finally:
        if before is None:
            del os.environ[_KEEP_ENVIRONMENT]


def served(routes: Sequence[str], configured: int) -> str:
    """Return the routes of a worker in one word.

    Args:
        configured: how many routes there are; several that are all are `all`.
    """
    return "all" if len(routes) == configured and configured > 1 else "+".join(routes)[:LONGEST_ROUTES]


@contextmanager
def without_collecting() -> Iterator[None]:
    """Turn the collector off while importing or building long-lived objects: a fifth less CPU, as measured."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
