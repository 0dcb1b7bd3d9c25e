"""`trivet`, as a process that can be told to die at a named step, and whose disk can be told to be full.

    python tests/chaos/doomed.py FOLDER worker --lane bulk

The product knows nothing of it: the functions at which a step begins are replaced here, before the command runs. A file
FOLDER/STEP arms a step: of all processes of the folder the first to reach it removes the file, leaves FOLDER/STEP.died
with its process id, and ends by SIGKILL. While FOLDER/disk-full is there, SQLite may not make its file larger.
"""

import asyncio
import os
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.processes.startup import follow_parent
from trivet_tasks.shared_state import FINISHED_CHANNEL
from trivet_worker.adapters.protocol import Caller

CLAIMED = "claimed"
"""Worker: the claim is committed, no call has begun."""
CALLING = "calling"
"""Worker: the call is under way; the test that arms it makes sure that the provider has it."""
ANSWERED = "answered"
"""Worker: the answer is there, its record written and not committed."""
RECORDED = "recorded"
"""Worker: the record of a failed call is committed, the message for the next route not sent."""
UNTOLD = "untold"
"""Worker: the end of a job is committed, nobody was told."""
DISPATCHED = "dispatched"
"""Scheduler: jobs are dispatched to a route in SQL, the message is not sent."""
INSERTED = "inserted"
"""Producer: a batch is written and open, nobody was woken."""
SENT_DIRECTLY = "sent-directly"
"""Producer: a realtime job is written as dispatched, its message is not sent."""
LOADING = "loading"
"""Producer: some groups of a batch are written, and not all."""
DISK_FULL = "disk-full"
UNLIMITED_PAGES = 4_294_967_294
LOOK_S = 0.1
"""Seconds between two looks of a process in a call whether it is to die in it."""


def died_path(folder: Path, step: str) -> Path:
    """Return the file in which a process that died at a step leaves its id."""
    return folder / f"{step}.died"


class Doom:
    """The faults that may happen to this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def here(self, step: str) -> None:
        """Die if this step is armed and no other process was faster."""
        try:
            (self._folder / step).unlink()
        except FileNotFoundError:
            return
        unready = self._folder / f"{step}.dying"
        unready.write_text(str(os.getpid()), encoding="ascii")
        unready.rename(died_path(self._folder, step))
        os.kill(os.getpid(), signal.SIGKILL)

    @property
    def disk_full(self) -> bool:
        """True if the disk is full."""
        return (self._folder / DISK_FULL).exists()


def before(owner: Any, name: str, doom: Callable[..., None]) -> None:
    """Let `doom` see the arguments of a function first."""
    real = getattr(owner, name)

    def doomed(*args: Any, **kwargs: Any) -> Any:
        doom(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, doomed)


def after(owner: Any, name: str, doom: Callable[[], None]) -> None:
    """Let `doom` act when a function has returned."""
    real = getattr(owner, name)

    def doomed(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        doom()
        return found

    setattr(owner, name, doomed)


def doom_worker(doom: Doom) -> None:
    """The steps of a worker process."""
    from trivet_worker.adapters import build_caller
    from trivet_worker.run import calls as calls_module
    from trivet_worker.run import recorder
    from trivet_worker.run.calls import Call, Calls

    def launch(calls: Calls, found: Sequence[Call]) -> None:
        if found:
            doom.here(CLAIMED)

    before(Calls, "launch", launch)

    async def die_calling() -> None:
        while True:
            doom.here(CALLING)
            await asyncio.sleep(LOOK_S)

    def build(route: RouteSettings) -> Caller:
        caller = build_caller(route)
        real_call = caller.call

        async def call(*args: Any) -> Any:
            dying = asyncio.create_task(die_calling())
            try:
                return await real_call(*args)
            finally:
                dying.cancel()

        setattr(caller, "call", call)  # noqa: B010 - mypy knows methods
        return caller

    setattr(calls_module, "build_caller", build)  # noqa: B010 - nor does it know this one
    after(recorder, "finish", lambda: doom.here(ANSWERED))
    before(recorder, "publish", lambda *_: doom.here(RECORDED))

    def tell(_client: redis.Redis, channel: str, _message: bytes) -> None:
        if channel == FINISHED_CHANNEL:
            doom.here(UNTOLD)

    before(redis.Redis, "publish", tell)


def doom_scheduler(doom: Doom) -> None:
    """The step of a scheduler."""
    from trivet_scheduler import dispatch

    before(dispatch, "publish", lambda *_: doom.here(DISPATCHED))


def doom_producer(doom: Doom) -> None:
    """The steps of a producer."""
    from trivet.client.connections import Connections
    from trivet_scheduler.dispatch import Dispatcher
    from trivet_store.jobs import batches

    before(Dispatcher, "send_direct", lambda *_: doom.here(SENT_DIRECTLY))
    before(Connections, "tell_work", lambda *_: doom.here(INSERTED))

    def advance(_connection: Any, loading: Any, _fingerprints: Any) -> None:
        if loading.taken:
            doom.here(LOADING)

    before(batches, "advance", advance)


def doom_disk(doom: Doom) -> None:
    """Limit the size of a SQLite file; a limit belongs to a connection and is not kept in the file."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def limit(connection: object, *_: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            pages = 1 if doom.disk_full else UNLIMITED_PAGES  # 1: as large as it is, and no larger
            connection.execute(f"PRAGMA max_page_count = {pages}").close()

    event.listen(Pool, "checkout", limit)


def fix_sleep() -> None:
    """Python sleeps until a moment of the monotonic clock, which libfaketime takes for one of the clock it changes."""
    time.sleep = lambda seconds: void(select.select([], [], [], float(seconds)))


def void(_: object) -> None:
    """Nothing."""


def main() -> None:
    """Run the command, doomed."""
    follow_parent()  # first, as `trivet` itself does
    if "FAKETIME" in os.environ:
        fix_sleep()
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    doom = Doom(folder)
    doom_disk(doom)
    if "worker" in command:
        doom_worker(doom)
    elif "scheduler" in command:
        doom_scheduler(doom)
    sys.argv = ["trivet", *command]
    from trivet.cli import main as run

    run()


if __name__ == "__main__":
    main()
