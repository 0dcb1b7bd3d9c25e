"""Gives the suite the same surroundings on every machine: what a process inherits from its parent is set here.

The rule: no test depends on the shell, the terminal, the user or the job scheduler that started it, and no test leaves its process
changed for the next one. A test that needs a variable, a locale, a time zone, a mask or an ignored signal sets it itself.
"""

import atexit
import contextlib
import locale
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping

KEPT = frozenset(
    {
        # where programs and libraries are found
        *("PATH", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_PRELOAD"),
        *("USER", "LOGNAME", "PYTHONHASHSEED"),
        # options of the suite itself
        *("CHAOS_SEED", "GATEWAY_STREAMS", "TRIVET_CHAOS_NEEDS_FAKETIME", "TRIVET_MACHINE_EXAMPLES"),
    }
)
KEPT_PREFIXES = ("PYTEST_", "HYPOTHESIS_", "COV_", "COVERAGE_")
LOCALES = ("C.UTF-8", "en_US.UTF-8")
"""The first is missing on macOS, the second in a container."""
OPEN_FILES = 4_096
LONGEST_TEMPORARY_FOLDER = 40
"""Bytes. pytest's folder of a test is up to 60 longer, and a Unix socket's path ends at 104."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def settle() -> None:
    """Make this process, and so all it starts, independent of its parent. Twice does no harm."""
    _settle_environment()
    _settle_signals()
    _settle_files()
    os.umask(0o022)


def clean_environment(inherited: Mapping[str, str], home: str, temporary: str) -> dict[str, str]:
    """Return what tests see of these variables, with the home and the temporary folder given."""
    kept = {name: value for name, value in inherited.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    return kept | {"HOME": home, "TMPDIR": temporary, "TZ": "UTC", "LANG": LOCALES[0]}


def _settle_environment() -> None:
    temporary = _temporary_folder()
    if os.environ.get("PYTEST_HOME", "").startswith(temporary):  # made by the process that started this one
        home = os.environ["PYTEST_HOME"]
    else:
        home = tempfile.mkdtemp(prefix="trivet-home-", dir=temporary)
        _remove_at_end(home)
    settled = clean_environment(os.environ, home, temporary) | {"PYTEST_HOME": home}
    for name in set(os.environ) - set(settled):
        del os.environ[name]
    for name in ("COLUMNS", "LINES"):  # readline, which pytest imports, sets them where os.environ does not see them
        os.unsetenv(name)
    os.environ.update(settled)
    tempfile.tempdir = None
    time.tzset()
    for name in LOCALES:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)
            break


def _remove_at_end(folder: str) -> None:
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a fork of it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


def _temporary_folder() -> str:
    usual = os.path.realpath(tempfile.gettempdir())
    return usual if len(os.fsencode(usual)) <= LONGEST_TEMPORARY_FOLDER else "/tmp"


def _settle_signals() -> None:
    """Give children the default of every signal. This process goes on ignoring what its parent ignores.

    A handler does both: it becomes the default in a new program, where "ignore" stays "ignore".
    """
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _ignore)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _ignore(*_: object) -> None:
    """Do nothing."""


def _settle_files() -> None:
    """Open the standard files where they are closed, and set how many others may be open."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
