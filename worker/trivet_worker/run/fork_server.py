"""Child processes in milliseconds: forked from a process that was itself forked before this one did anything.

A new interpreter would import for seconds, and a process with threads must not be forked. So the worker forks the server
first thing, when all is imported and nothing runs but, under a supervisor, the thread that waits for the supervisor's end.
The server waits, single-threaded, shares its memory with the worker, and forks whenever it is asked. Each child gets one end
of a socket of its own and a session of its own. A worker that lost its server starts another, by a new interpreter.

`multiprocessing` has a fork server, too, but always as a new interpreter, which shares no memory with the worker. Measured
(PSS): worker, server and one idle child take 119 MB with it and 66 MB with this one; its first child comes after 1.7 s.
"""

import contextlib
import gc
import logging
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import uuid_utils

from trivet_tasks.errors import place_of
from trivet_tasks.processes.signals import STOP_SIGNALS

log = logging.getLogger("trivet.worker")

_WORD = struct.Struct("<iq")
"""Message to the server: 0, 0 with a socket (fork), or a process id and a signal. From it: an id and _BORN, or its exit."""
_BORN = 1 << 32
_ANSWER_S = 30.0
"""Maximum time of a fork on a machine that swaps."""
_GONE = -1
_LAST_WORD_S = 1.0
_LOOK_S = 0.005
Child = Callable[[socket.socket], int]
"""Work of a child with its end of the socket; returns its exit code."""


class NoServer(Exception):
    """No process can be forked: the server is gone, or does not answer."""


class ForkServer:
    """The worker's side of the server. Safe to use from any thread, but for `fork`."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Prepare; nothing is started yet.

        Args:
            argv: the command whose standard input is a server's socket, for when the forked one is gone.
        """
        self._argv = argv
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._born: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ends: dict[int, queue.SimpleQueue[int]] = {}
        self._forked = 0
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self, child: Child) -> None:
        """Fork the server from this process, which must not have begun anything. Call it in the main thread."""
        ours, theirs = socket.socketpair()
        self._forked = os.fork()
        if self._forked == 0:
            ours.close()
            _leave(serve, theirs, child)
        theirs.close()
        self._attach(ours)

    def close(self) -> None:
        """Let the server end; its children live on."""
        _give_up(self._control)

    def wait(self, within_s: float) -> None:
        """Wait until the server has ended."""
        until = time.monotonic() + within_s
        while not self._gone() and time.monotonic() < until:
            time.sleep(_LOOK_S)

    def _gone(self) -> bool:
        if self._process is not None and self._process.poll() is None:
            return False
        if self._forked:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self._forked, os.WNOHANG) == (0, 0):
                    return False
            self._forked = 0
        return True

    def start(self) -> "ForkedProcess":
        """Fork a child; by another server where this one is gone. Raises NoServer when that fails, too."""
        with self._lock:
            made = self._ask(self._control) if self._control else None
            return made or self._ask(self._exec()) or _none("the process that forks them does not answer")

    def _ask(self, control: socket.socket) -> "ForkedProcess | None":
        """Ask a server for a child. None: that server is gone, or was given up."""
        ours, theirs = socket.socketpair()
        pid = _GONE
        with contextlib.suppress(OSError, queue.Empty), theirs:
            socket.send_fds(control, [_WORD.pack(0, 0)], [theirs.fileno()])
            pid = self._born.get(timeout=_ANSWER_S)
        if pid > 0:
            return ForkedProcess(pid, ours, control, self)
        ours.close()
        if pid == 0:
            _none("there is no memory, or no process id, for one more")
        _give_up(control)
        self._control = None
        return None

    def end_of(self, pid: int) -> int | None:
        """Return a child's end, as `Popen.returncode` gives it; None: not known. Ask once, when its socket ended."""
        try:
            return self._ends[pid].get(timeout=_LAST_WORD_S)
        except (queue.Empty, KeyError):
            return None
        finally:
            self._ends.pop(pid, None)

    def _exec(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(self._argv, stdin=theirs.fileno(), start_new_session=True)
        except OSError as error:
            ours.close()
            _none(f"no interpreter can be started ({error.strerror})")
        self._attach(ours)
        return ours

    def _attach(self, control: socket.socket) -> None:
        self._control = control
        self._born = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(control, self._born), name="trivet-forks", daemon=True).start()

    def _read(self, control: socket.socket, born: "queue.SimpleQueue[int]") -> None:
        with control, contextlib.suppress(OSError):
            while len(word := control.recv(_WORD.size, socket.MSG_WAITALL)) == _WORD.size:
                pid, what = _WORD.unpack(word)
                if what == _BORN:
                    if pid:
                        self._ends[pid] = queue.SimpleQueue()
                    born.put(pid)
                elif pid in self._ends:
                    self._ends[pid].put(what)
        if self._control is control:
            self._control = None
        born.put(_GONE)


class ForkedProcess:
    """A child: its id and our end of its socket."""

    def __init__(self, pid: int, connection: socket.socket, control: socket.socket, server: ForkServer) -> None:
        self.pid = pid
        self.connection = connection
        self._control = control
        self._server = server

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs. Its server knows, because it reaps it."""
        try:
            self._control.sendall(_WORD.pack(self.pid, number))
        except OSError:  # the server is gone: nobody reaps it but init
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ended(self) -> str:
        """Describe its end, for a person. Ask once, when its socket has ended."""
        code = self._server.end_of(self.pid)
        if code is None:
            return "nobody knows how"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _none(why: str) -> NoReturn:
    raise NoServer(why)


def _give_up(control: socket.socket | None) -> None:
    """Close the connection: the server ends, and the thread that listens to it."""
    if control is not None:
        with contextlib.suppress(OSError):
            control.shutdown(socket.SHUT_RDWR)


def serve(control: socket.socket, child: Child) -> int:
    """Run the server until the socket ends. It must be the only thread of its process. Returns the exit code."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the worker has gone
        _serve(control, child)
    return 0


def _serve(control: socket.socket, child: Child) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # it goes when the worker has gone
    gc.freeze()  # a collection would write into every page shared with the worker
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    while True:
        select.select([control, wake], [], [])
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)
        for pid, code in _reap(children):
            control.sendall(_WORD.pack(pid, code))
        if not select.select([control], [], [], 0)[0]:
            continue
        word, fds, _, _ = socket.recv_fds(control, _WORD.size, 1)
        if len(word) < _WORD.size:
            return
        pid, number = _WORD.unpack(word)
        if not fds:
            if pid in children:
                os.kill(pid, number)
            continue
        connection = socket.socket(fileno=fds[0])
        try:
            forked = os.fork()
        except OSError:
            control.sendall(_WORD.pack(0, _BORN))
            connection.close()
            continue
        if forked == 0:
            control.close()
            signal.set_wakeup_fd(-1)
            for end in (wake, woken):
                end.close()
            _leave(_begin, connection, child)
        connection.close()
        children.add(forked)
        control.sendall(_WORD.pack(forked, _BORN))


def _begin(connection: socket.socket, child: Child) -> int:
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # a Ctrl-C in the terminal is for the worker, who tells it; when the worker is killed its socket ends
    os.setsid()
    uuid_utils.reseed_rng()
    return child(connection)


def _reap(children: set[int]) -> list[tuple[int, int]]:
    ended = []
    for pid in tuple(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children.discard(pid)
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _leave(run: Callable[[socket.socket, Child], int], connection: socket.socket, child: Child) -> NoReturn:
    """Run in a forked process, and never return into its parent's code."""
    code = 1
    try:
        code = run(connection, child)
    except Exception as error:
        log.error("a forked process met a fault of Trivet's own: %s", place_of(error))
    finally:
        os._exit(code)
