"""The signals that stop a process of Trivet, and what of its parent's signal settings it must not keep.

A signal that the parent ignores stays ignored in its children: SIGHUP under `nohup`, SIGINT in a background job of a
shell script. A service of Trivet (`up`, `worker`, `scheduler`, `flower`, `simulate`, `demo`) stops on SIGINT and SIGTERM all the
same, as Celery and uvicorn do. It leaves SIGHUP ignored where the parent ignores it: `nohup` asks for that.
"""

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def handled_stop_signals() -> tuple[signal.Signals, ...]:
    """Return the stop signals that a service handles: all, but for a SIGHUP that is ignored."""
    return tuple(
        number for number in STOP_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    )


def drop_inherited_settings() -> None:
    """Undo what would break a process that starts others, or that has to stop. Call it in the main thread.

    An ignored SIGCHLD loses the exit codes of children; a blocked stop signal never arrives.
    """
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
