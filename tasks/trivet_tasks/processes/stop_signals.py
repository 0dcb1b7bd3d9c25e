"""The signals that stop a process of Trivet, and what of its parent's signal settings it must not keep.

A signal that the parent ignores stays ignored in its children: SIGHUP under `nohup`, SIGINT in a background job of a
shell script. A service of Trivet (`up`, `worker`, `scheduler`, `flower`, `simulate`, `demo`) stops on SIGINT and SIGTERM all the
same, as Celery and uvicorn do. It leaves SIGHUP ignored where the parent ignores it: `nohup` asks for that.

On SIGHUP `up`, `worker` and `scheduler` read their configuration again (`hangup.py`). Where their standard input is a
terminal, SIGHUP says that this terminal is gone, and stops them as it does the other services.
"""

import os
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def handled_stop_signals(*, reloads: bool = False) -> tuple[signal.Signals, ...]:
    """Return the stop signals that a service handles: all, but for a SIGHUP that is ignored, or has another meaning.

    Args:
        reloads: whether the service reads its configuration again on SIGHUP.
    """
    hangup = not hangup_ignored() and not (reloads and reloads_on_hangup())
    return tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP or hangup)


def reloads_on_hangup() -> bool:
    """Return whether SIGHUP asks a service that can do so to read its configuration again, rather than to stop."""
    return not hangup_ignored() and not os.isatty(0)


def hangup_ignored() -> bool:
    """Return whether the parent had SIGHUP ignored."""
    return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def drop_inherited_settings() -> None:
    """Undo what would break a process that starts others, or that has to stop. Call it in the main thread.

    An ignored SIGCHLD loses the exit codes of children; a blocked stop signal never arrives.
    """
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
