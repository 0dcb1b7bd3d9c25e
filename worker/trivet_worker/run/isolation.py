"""Quarantined jobs: each runs in a child process that runs nothing else at that time, so a crash kills only that process.

The child (`isolated_process.py`) claims the job under a lease of its own, calls, and records the result, as any
worker does. Here it is only started, fed and watched: when it dies during a job, that counts against the job.
"""

import contextlib
import logging
import signal
import socket
import threading
from enum import Enum, auto

import orjson
import redis

from trivet_store.jobs import rescuing
from trivet_tasks.call_times import longest_call_s
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.messages import Chunk
from trivet_worker.run.context import WorkerContext
from trivet_worker.run.fork_server import ForkedProcess, ForkServer, NoServer

log = logging.getLogger("trivet.worker")

IDLE_S = 30.0
"""Time for which a child without work is kept."""
HUNG_AFTER_S = 60.0
"""Interval, after its call's time, at which a silent child is checked."""
MAX_LOOKS = 10
"""Number of checks that a silent child which keeps its lease may pass."""
END_WITHIN_S = 5.0
"""Maximum time for a child without work to end."""


class Isolation:
    """The child processes of one worker, started when needed. Threads share them; each holds one at a time."""

    def __init__(self, context: WorkerContext, forks: ForkServer) -> None:
        self._settings = context.settings
        self._store = context.store
        self._limits = context.directory.limits
        self._forks = forks
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._starting = 0
        self._changed = threading.Condition()
        self._stopping = False

    def run(self, chunk: Chunk) -> bool:
        """Run the chunk's one job in a process of its own until it is recorded. False when none is free within a second."""
        child = self._take(self._settings.dispatch.permit_patience_s)
        if child is None:
            return False
        try:
            if not child.tell(chunk):
                return False  # it had gone before: the job was never begun
            reply = self._reply_of(child, chunk)
            if reply is not _Reply.ANSWERED:
                child.kill()
                self._died(child, chunk, hung=reply is _Reply.HUNG)
        finally:
            self._give(child)
        return True

    def begin_stop(self) -> None:
        """Let every child finish its call within the grace time, and exit."""
        with self._changed:
            self._stopping = True
            children = [*self._idle, *self._busy]
        for child in children:
            child.hang_up()

    def drop_calls(self) -> None:
        """Let every child drop its call, record that, and exit: the grace time is over."""
        with self._changed:
            children = [*self._idle, *self._busy]
        for child in children:
            child.hurry()

    def _take(self, timeout_s: float) -> "_Child | None":
        with self._changed:
            while not self._stopping:
                self._idle = [child for child in self._idle if child.alive]
                if self._idle:
                    child = self._idle.pop()
                    child.rest.cancel()
                    self._busy.add(child)
                    return child
                if len(self._busy) + self._starting < self._settings.worker.isolated_processes:
                    self._starting += 1
                    break
                if not self._changed.wait(timeout_s):
                    return None
            else:
                return None
        return self._start()

    def _start(self) -> "_Child | None":
        """Fork a child for a free slot. Not under the lock: it may take seconds, and a worker must stop in time."""
        child = None
        try:
            child = _Child(self._forks.start())
        except NoServer as error:
            log.error("no process for an isolated job: %s", error)
        with self._changed:
            self._starting -= 1
            if child is not None and not self._stopping:
                self._busy.add(child)
                return child
            self._changed.notify()
        if child is not None:
            child.hang_up()
        return None

    def _give(self, child: "_Child") -> None:
        with self._changed:
            self._busy.discard(child)
            if child.alive and not self._stopping:
                self._idle.append(child)
                child.rest = threading.Timer(IDLE_S, self._let_go, [child])
                child.rest.daemon = True
                child.rest.start()
            self._changed.notify()

    def _let_go(self, child: "_Child") -> None:
        """End a child that has had nothing to do for a while."""
        with self._changed:
            if child not in self._idle or child.rest is not threading.current_thread():
                return
            self._idle.remove(child)
        child.hang_up()
        child.end(END_WITHIN_S)

    def _reply_of(self, child: "_Child", chunk: Chunk) -> "_Reply":
        """Wait for the child's reply. A child that hangs, and whose job was taken from it, is given up."""
        job = chunk.jobs[0]
        patience_s = longest_call_s(self._settings.classes, chunk.latency, chunk.model, job) + HUNG_AFTER_S
        looks = 0
        while not child.done.wait(patience_s):
            patience_s = HUNG_AFTER_S
            try:
                with self._store.read() as connection:
                    runs = rescuing.runs(connection, job.id, job.claim)
            except StoreUnavailable:
                continue  # it may only be waiting for the database, as we do
            looks += 1
            if not runs or looks > MAX_LOOKS:
                log.error("a process that ran an isolated job hangs; it is ended")
                return _Reply.HUNG
        return _Reply.ANSWERED if child.answered else _Reply.DIED

    def _died(self, child: "_Child", chunk: Chunk, *, hung: bool) -> None:
        if self._stopping:  # it was told to go; what it may have left is rescued when its lease runs out
            return
        job = chunk.jobs[0]
        try:
            with self._store.write() as connection:
                struck = rescuing.strike(self._store, connection, job.id, job.claim, hung=hung)
        except StoreUnavailable as error:
            log.error("job %s: its process died (%s), which could not be recorded: %s", job.id, child.how, error)
            return
        if struck is None:  # it had been recorded, or was not even claimed
            log.warning("a process for isolated jobs ended by itself (%s)", child.how)
            return
        lease_id, deaths = struck
        log.error(
            "job %s: the process that ran it and nothing else died (%s), %d of %d times",
            job.id, child.how, deaths, rescuing.ISOLATED_CRASHES,
        )  # fmt: skip
        if lease_id is None:
            return
        try:
            self._limits.release_all(lease_id)
        except redis.RedisError as error:
            log.error("permits of a dead process expire by themselves: %s", error)


class _Reply(Enum):
    """A child's reply to a chunk."""

    ANSWERED = auto()
    DIED = auto()
    HUNG = auto()


class _Child:
    """One child process: each chunk goes in as a line, and a line comes back for it."""

    def __init__(self, process: ForkedProcess) -> None:
        self._process = process
        self.done = threading.Event()
        """Set when the job is over, or the process is."""
        self.answered = False
        self.rest = threading.Timer(0, lambda: None)
        """Timer that ends it after a while without work."""
        self._over = threading.Event()
        self._reaped = threading.Event()
        self._how = ""
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="trivet-isolated", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return not self._over.is_set()

    @property
    def how(self) -> str:
        """Describe its end, for a person; it has ended, or does now."""
        self._reaped.wait(END_WITHIN_S)
        return self._how or "nobody knows how"

    def tell(self, chunk: Chunk) -> bool:
        """Send it a chunk. False when it is gone, and has read nothing of it."""
        self.done.clear()
        self.answered = False
        line = orjson.dumps([chunk.provider, *chunk.to_args()]) + b"\n"
        try:
            with self._lock:
                self._process.connection.sendall(line)
        except OSError:
            return False
        return True

    def hang_up(self) -> None:
        """Send no more chunks: it ends once its call is over."""
        try:
            with self._lock:
                self._process.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def hurry(self) -> None:
        """Let it drop its call, if it still runs."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.alive:
            self._process.send_signal(signal.SIGKILL)
            self._over.wait(END_WITHIN_S)

    def end(self, within_s: float) -> None:
        """Wait for its end, and enforce it."""
        if not self._over.wait(within_s):
            self.kill()

    def _read(self) -> None:
        with self._process.connection as connection, contextlib.suppress(OSError):
            while connection.recv(1):
                self.answered = True
                self.done.set()
        self._over.set()
        self.done.set()
        self._how = self._process.ended()
        self._reaped.set()
