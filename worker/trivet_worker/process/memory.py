"""Memory of a worker process: garbage collection and heaps."""

import contextlib
import ctypes
import gc

_M_ARENA_MAX = -8  # malloc.h of glibc


def share_one_heap() -> None:
    """Let all threads take memory from one heap: what one of them gave back is of use to the others. For a process's start.

    By default glibc gives each thread one of its own, up to eight for each core: 16 MB more for 1,000 prompts of 40 KB,
    which are read by the threads of their chunks and sent by another. Nothing is changed where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def collect_seldom() -> None:
    """Let the garbage collector leave alone what lives as long as the process, and look after the rest less often.

    Measured: with Python's own thresholds a seventh of a busy worker's CPU went into walks over modules and settings.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
