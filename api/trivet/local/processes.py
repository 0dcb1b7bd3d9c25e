"""A supervisor: starts the parts of Trivet on this machine, keeps them running, and leaves none of them behind.

Used by `trivet up`, `trivet demo`, `trivet worker` (one process per lane) and the tests:

    with Supervisor(on_exit=print) as parts:
        parts.start("scheduler", python_command("trivet", "scheduler"), log_path=logs / "scheduler.log")
        parts.wait_ready("scheduler", 20)
        ended = parts.run()            # until Ctrl-C, SIGTERM, or a part that cannot work as configured

Every process gets a session of its own, so Ctrl-C on the terminal reaches the supervisor alone, which stops the parts
in their order. One that dies is started again (`Restarts`); one that ends with code 2, a configuration error, is not.
With `passes_hangup` SIGHUP goes on to the parts that read their configuration again, unless standard input is a terminal,
which is gone then. Otherwise the first SIGINT, SIGTERM or SIGHUP stops gracefully. The second tells the parts of the present stage a second time, by
which they leave at once, and kills those that have not left after a second; the third kills. If the supervisor itself is killed, its
parts end by themselves (`trivet_tasks.processes.startup.follow_parent`, which a part calls first thing); a part that is a
supervisor in its turn needs a `stop_limit_s` below the `grace_s` it is given.
"""

import contextlib
import itertools
import os
import queue
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from trivet.local.child_process import CONFIGURATION_ERROR, ChildProcess, ChildSpec, Exit, Restarts
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ProcessFailed
from trivet_tasks.latency import Lane
from trivet_tasks.processes.signals import StopSignals
from trivet_tasks.processes.startup import announce_ready, python_command

_READY_POLL_S = 0.02
_LEAST_GRACE_S = 0.5  # what a later stage is left with when an earlier one takes its time
_KILL_WAIT_S = 0.5
_HURRY_S = 1.0  # what parts have to leave after a second signal
_LOOK_S = 0.05
_LANE_GRACE_S = 3.0  # a lane needs 2.3 at most to record its last results and go (`trivet_worker.process.stopping`)
_PARTS_LOOK_S = 0.2


class Supervisor:
    """Runs named processes. As a context manager it handles signals inside and stops everything at the end.

    Inside, but outside `run()`, the first signal raises KeyboardInterrupt in the main thread, so that work in the
    foreground is broken off. Its methods are for one thread; `on_exit` is called from another.
    """

    def __init__(
        self,
        *,
        on_exit: Callable[[Exit], None] | None = None,
        restarts: Restarts | None = Restarts(),  # noqa: B008 - frozen
        grace_s: float = 4.0,
        stop_limit_s: float = 8.0,
        passes_hangup: bool = False,
    ) -> None:
        """Take the settings; `start` starts the processes.

        Args:
            on_exit: told of every end that nobody asked for, also when the process is started again.
            restarts: when to start a process again; None: never.
            grace_s: seconds that a stage has between SIGTERM and SIGKILL.
            stop_limit_s: seconds that stopping everything may take.
            passes_hangup: whether SIGHUP is for the parts that read their configuration again on it.
        """
        self._told = on_exit
        self._restarts = restarts
        self._grace_s = grace_s
        self._stop_limit_s = stop_limit_s
        self._children: dict[str, ChildProcess] = {}
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[Exit | None] = queue.SimpleQueue()  # its put() may interrupt its own get()
        self._signals = 0
        self._hurry_until: float | None = None
        self._stage: list[ChildProcess] = []
        self._interrupts = True
        self._pipe: tuple[int, int] | None = None
        self._ready_dir: Path | None = None
        self._handlers = StopSignals(self._on_stop, self._reload_parts if passes_hangup else None)

    def start(
        self,
        name: str,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        stage: int | None = None,
        inherited: Mapping[str, str] | None = None,
        reloads: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start a process and keep it running.

        Args:
            name: what to call it; free again once it has ended for good.
            argv: the program and its arguments.
            env: variables on top of those inherited.
            log_path: gets its stdout and stderr (appended); None: they go where ours go.
            stage: its place in stopping; lower stages are stopped first, those of one stage together.
                None: by itself, before everything that was started earlier.
            inherited: the variables below those; None: this process's own.
            reloads: whether it reads its configuration again on SIGHUP.
            pass_fds: file descriptors that it inherits.

        Raises:
            ProcessFailed: the program cannot be run, or the name is taken.
        """
        existing = self._children.get(name)
        if existing is not None and not existing.finished.is_set():
            raise ProcessFailed(f"{name} is already running here.")
        number = next(self._numbers)
        spec = ChildSpec(
            name=name,
            argv=tuple(os.fspath(word) for word in argv),
            env={**(os.environ if inherited is None else inherited), **(env or {})},
            log_path=log_path,
            ready_file=self._ready_files() / str(number),
            stage=-number if stage is None else stage,
            restarts=self._restarts,
            reloads=reloads,
            pass_fds=tuple(pass_fds),
        )
        child = ChildProcess(spec, self._life_line(), self._ended)
        self._children[name] = child
        try:
            child.start()
        except OSError as error:
            del self._children[name]
            raise ProcessFailed(f"{name} cannot be started: {error}.") from None

    def pid(self, name: str) -> int | None:
        """The id of the running process of this name; None between two runs and after the last."""
        child = self._children.get(name)
        return child.pid if child is not None else None

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the process of this name and to what it started."""
        self._children[name].send_signal(number)

    def wait_ready(self, name: str, timeout_s: float) -> None:
        """Wait until the process has called `announce_ready()`; one that crashes meanwhile may try again.

        Raises:
            ProcessFailed: it ended for good, or time ran out; with its last line.
        """
        child = self._children[name]
        deadline = time.monotonic() + timeout_s
        while not child.ready:
            if child.finished.is_set():
                raise ProcessFailed(f"{child.last_exit or name + ' was stopped'}.".replace("..", "."))
            if time.monotonic() >= deadline:
                last = f" Last it {child.last_exit}." if child.last_exit else ""
                where = f" See {child.spec.log_path}." if child.spec.log_path else ""
                raise ProcessFailed(f"{name} was not ready within {timeout_s:g} s.{last}{where}")
            child.finished.wait(_READY_POLL_S)

    def wait_end(self, name: str, timeout_s: float) -> Exit | None:
        """Wait until the process has ended for good; its last exit, or None if it still runs or was told to stop."""
        child = self._children[name]
        return child.last_exit if child.finished.wait(timeout_s) else None

    def run(self, check: Callable[[], None] | None = None, *, every_s: float = 1.0) -> Exit | None:
        """Wait for a signal or for a process that ends with code 2, then stop everything.

        Args:
            check: called every `every_s` seconds meanwhile.
            every_s: seconds between two calls.

        Returns:
            The exit of the process that cannot work as configured; None if a signal came.
        """
        with self._handled():
            self._interrupts = False
            try:
                while True:
                    try:
                        ended = self._inbox.get(timeout=None if check is None else every_s)
                    except queue.Empty:
                        assert check is not None
                        check()
                    else:
                        return ended
            finally:
                self.stop()

    def end(self, name: str, timeout_s: float) -> None:
        """Stop one process for good: SIGTERM, and SIGKILL when it has not ended within the time."""
        child = self._children[name]
        self._stop_stage([child], timeout_s)
        child.join(_KILL_WAIT_S)

    def stop(self) -> tuple[str, ...]:
        """Stop every process, stage by stage, within the limit; the names of those that had to be killed."""
        with self._handled():
            self._interrupts = False
            deadline = time.monotonic() + self._stop_limit_s - _KILL_WAIT_S
            running = [child for child in self._children.values() if not child.finished.is_set()]
            running.sort(key=lambda child: child.spec.stage)
            stages = [list(stage) for _, stage in itertools.groupby(running, key=lambda child: child.spec.stage)]
            killed: list[str] = []
            for position, stage in enumerate(stages):
                later = len(stages) - position - 1
                left = deadline - time.monotonic() - later * _LEAST_GRACE_S
                killed += self._stop_stage(stage, min(self._grace_s, max(0.0, left)))
            deadline = time.monotonic() + _KILL_WAIT_S
            for child in running:
                child.join(max(0.0, deadline - time.monotonic()))
            self._clean_up()
            return tuple(killed)

    def kill_now(self) -> None:
        """SIGKILL to everything, nothing is started again. `stop()` then still waits for the ends."""
        for child in list(self._children.values()):
            child.abandon(signal.SIGKILL)

    def __enter__(self) -> Self:
        self._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._handlers.restore()

    def _stop_stage(self, stage: list[ChildProcess], grace_s: float) -> list[str]:
        self._stage = stage
        for child in stage:
            child.request_stop()
        begun = time.monotonic()
        late = [child for child in stage if not self._joined(child, begun, grace_s)]
        for child in late:
            child.send_signal(signal.SIGKILL)
        return [child.spec.name for child in late]

    def _joined(self, child: ChildProcess, begun: float, grace_s: float) -> bool:
        """Wait for a part's end as long as its stage may take, less after a second signal; whether it came."""
        until = begun + grace_s
        while not child.join(max(0.0, min(_LOOK_S, until - time.monotonic()))):
            if self._hurry_until is not None:
                until = min(until, max(self._hurry_until, begun + _LEAST_GRACE_S))
            if time.monotonic() >= until:
                return False
        return True

    def _ended(self, ended: Exit) -> None:
        if self._told is not None:
            self._told(ended)
        if ended.code == CONFIGURATION_ERROR:
            self._inbox.put(ended)

    def _ready_files(self) -> Path:
        if self._ready_dir is None:
            # named before it is made: a signal is an exception here, and what is not known is not removed
            self._ready_dir = Path(tempfile.gettempdir(), f"trivet-ready-{secrets.token_hex(8)}")
            self._ready_dir.mkdir(mode=0o700)
        return self._ready_dir

    def _life_line(self) -> int:
        if self._pipe is None:
            self._pipe = os.pipe()
        return self._pipe[0]

    def _clean_up(self) -> None:
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None
        if self._ready_dir is not None:
            shutil.rmtree(self._ready_dir, ignore_errors=True)
            self._ready_dir = None

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        """Handle signals as `run` and `stop` want them, also where the supervisor is not used as a context manager."""
        installed, interrupts = self._handlers.active, self._interrupts
        if not installed:
            self._install()
        try:
            yield
        finally:
            self._interrupts = interrupts
            if not installed:
                self._handlers.restore()

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._signals = 0
        self._hurry_until = None
        self._handlers.install()

    def _reload_parts(self) -> None:
        for child in list(self._children.values()):
            child.ask_to_reload()

    def _on_stop(self) -> None:
        self._signals += 1
        if self._signals > 2:
            self.kill_now()
        elif self._signals == 2:
            self._hurry_until = time.monotonic() + _HURRY_S
            for child in self._stage:  # not the later ones: those of this stage may need them still
                child.abandon(signal.SIGTERM)
        elif self._interrupts:
            raise KeyboardInterrupt
        else:
            self._inbox.put(None)


def run_lanes(settings: Settings, routes: Sequence[str], config: Path | None, say: Callable[[str], None]) -> int:
    """Run a worker process for each of `[worker] lanes` until told to stop; one that dies is started again.

    SIGHUP is for the lanes. It announces itself when all lanes are ready.

    Args:
        routes: served by each lane.
        config: the file named with `--config`, if any.
        say: told of a lane that ended and is started again.

    Returns:
        The exit code: 0 after a signal, 2 when a lane cannot work as configured.
    """

    commands = {f"lane {lane}": _command(routes, lane, config) for lane in settings.worker.lanes}
    return run_parts(commands, settings.worker.shutdown_grace_s + _LANE_GRACE_S, say)


def run_parts(
    commands: Mapping[str, Sequence[str]], limit_s: float, say: Callable[[str], None], pass_fds: Sequence[int] = ()
) -> int:
    """Run processes that are one service until told to stop; one that dies is started again. SIGHUP is for them.

    It announces itself when all of them are ready.

    Args:
        commands: program and arguments of each, by name.
        limit_s: seconds that they may take to stop.
        say: told of a process that ended and is started again.
        pass_fds: file descriptors that they inherit.

    Returns:
        The exit code: 0 after a signal, 2 when a process cannot work as configured.
    """

    def tell(ended: Exit) -> None:
        if ended.restart_in_s is not None:  # else its own last line, on our stderr, has said it
            say(f"trivet: the {ended}")

    with Supervisor(on_exit=tell, grace_s=limit_s, stop_limit_s=limit_s, passes_hangup=True) as parts:
        try:
            for name, command in commands.items():
                parts.start(name, command, stage=0, reloads=True, pass_fds=pass_fds)
        except KeyboardInterrupt:
            return 0
        announced = False

        def announce() -> None:
            nonlocal announced
            if not announced and all(_ready(parts, name) for name in commands):
                announced = True
                announce_ready()

        ended = parts.run(announce, every_s=_PARTS_LOOK_S)
    return 0 if ended is None else ended.code


def _command(routes: Sequence[str], lane: Lane, config: Path | None) -> list[str]:
    named = [] if config is None else ["--config", str(config)]
    return [*python_command("trivet"), *named, "worker", "--lane", lane, "--routes", ",".join(routes)]


def _ready(parts: Supervisor, name: str) -> bool:
    with contextlib.suppress(ProcessFailed):
        parts.wait_ready(name, 0)
        return True
    return False
