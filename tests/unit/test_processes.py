"""The supervisor, with real processes."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.processes import under
from tests.timing import until

from trivet.local.child_process import Exit, Restarts
from trivet.local.processes import Supervisor
from trivet_tasks.errors import ProcessFailed

DEADLINE_S = 20.0
AT_ONCE = Restarts(first_s=0.0)
READY = "from trivet_tasks.processes.startup import announce_ready, follow_parent; follow_parent(); announce_ready();"
SLEEP = f"{READY} import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
DEAF = (
    "import os, pathlib, signal;"
    "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(os.environ['NOTE']).touch());" + SLEEP
)
WITH_GRANDCHILD = (
    "import subprocess, sys, pathlib;"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "pathlib.Path(sys.argv[1]).write_text(str(p.pid));" + SLEEP
)


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def runs(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def exits() -> queue.Queue[Exit]:
    return queue.Queue()


@pytest.fixture
def supervisor(exits: queue.Queue[Exit]) -> Iterator[Supervisor]:
    with Supervisor(on_exit=exits.put, restarts=AT_ONCE) as it:
        yield it


def test_a_killed_process_is_started_again_and_reported(supervisor: Supervisor, exits: queue.Queue[Exit]) -> None:
    supervisor.start("part", python(SLEEP))
    supervisor.wait_ready("part", DEADLINE_S)
    first = supervisor.pid("part")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    ended = exits.get(timeout=DEADLINE_S)
    assert (ended.name, ended.pid, ended.code, ended.restart_in_s) == ("part", first, -signal.SIGKILL, 0.0)
    until(lambda: supervisor.pid("part") not in (None, first), "the second run")
    supervisor.wait_ready("part", DEADLINE_S)
    second = supervisor.pid("part")
    assert second is not None
    supervisor.stop()
    assert not runs(second)
    assert exits.empty(), "an end that was asked for is not reported"


def test_what_a_crashed_process_left_in_its_group_is_ended(exits: queue.Queue[Exit], tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    with Supervisor(on_exit=exits.put, restarts=None) as supervisor:
        supervisor.start("part", python(WITH_GRANDCHILD, str(note)))
        supervisor.wait_ready("part", DEADLINE_S)
        grandchild = int(note.read_text())
        pid = supervisor.pid("part")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert exits.get(timeout=DEADLINE_S).restart_in_s is None
        until(lambda: not runs(grandchild), "the end of the grandchild")


@pytest.mark.parametrize("to_a_file", [True, False])
def test_a_configuration_error_is_not_tried_again_and_says_its_last_line(
    supervisor: Supervisor, exits: queue.Queue[Exit], tmp_path: Path, to_a_file: bool
) -> None:
    log = tmp_path / "part.log" if to_a_file else None
    if log:
        log.write_text("from an earlier run\n")
    code = "import sys; print('trivet.toml: [route] is not a key\\n', file=sys.stderr); sys.exit(2)"
    supervisor.start("part", python(code), log_path=log)
    ended = exits.get(timeout=DEADLINE_S)
    assert (ended.code, ended.restart_in_s, ended.last_line) == (2, None, "trivet.toml: [route] is not a key")
    with pytest.raises(ProcessFailed, match=r"part ended with code 2 .*\[route\] is not a key"):
        supervisor.wait_ready("part", DEADLINE_S)
    assert supervisor.run() == ended, "run() ends with it"


def test_a_silent_failure_does_not_repeat_the_line_of_an_earlier_run(
    supervisor: Supervisor, exits: queue.Queue[Exit], tmp_path: Path
) -> None:
    log = tmp_path / "part.log"
    log.write_text("from an earlier run\n")
    supervisor.start("part", python("raise SystemExit(2)"), log_path=log)
    assert exits.get(timeout=DEADLINE_S).last_line == ""


def test_pauses_between_restarts_double_up_to_a_bound() -> None:
    restarts = Restarts(first_s=1, max_s=30)
    assert [restarts.delay_s(crash) for crash in (1, 2, 3, 4, 5, 6, 7, 5000)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_pauses_grow_with_crashes_and_begin_anew_after_a_healthy_run(exits: queue.Queue[Exit]) -> None:
    with Supervisor(on_exit=exits.put, restarts=Restarts(first_s=0.01, max_s=0.04)) as supervisor:
        supervisor.start("part", python("raise SystemExit(1)"))
        delays = [exits.get(timeout=DEADLINE_S).restart_in_s for _ in range(4)]
    assert delays == [0.01, 0.02, 0.04, 0.04]
    with Supervisor(on_exit=exits.put, restarts=Restarts(first_s=0.01, max_s=0.04, healthy_s=0.0)) as supervisor:
        supervisor.start("part", python("raise SystemExit(1)"))
        delays = [exits.get(timeout=DEADLINE_S).restart_in_s for _ in range(3)]
    assert delays == [0.01] * 3


def test_one_that_waits_to_be_started_again_is_stopped_at_once(exits: queue.Queue[Exit]) -> None:
    with Supervisor(on_exit=exits.put, restarts=Restarts(first_s=600, max_s=600)) as supervisor:
        supervisor.start("part", python("raise SystemExit(1)"))
        exits.get(timeout=DEADLINE_S)
        assert supervisor.pid("part") is None
        assert supervisor.stop() == ()


def test_an_on_exit_that_fails_does_not_end_the_supervision(caplog: pytest.LogCaptureFixture) -> None:
    seen: queue.Queue[Exit] = queue.Queue()

    def fail(ended: Exit) -> None:
        seen.put(ended)
        raise BrokenPipeError

    with Supervisor(on_exit=fail, restarts=AT_ONCE) as supervisor:
        supervisor.start("part", python("raise SystemExit(1)"))
        assert seen.get(timeout=DEADLINE_S).pid != seen.get(timeout=DEADLINE_S).pid
    assert "could not report" in caplog.text


def test_stages_stop_in_order_and_the_stubborn_are_killed_within_the_limit(tmp_path: Path) -> None:
    order = tmp_path / "order"
    polite = (
        "import signal, sys, pathlib, time\n"
        "def stop(*_):\n"
        "    with pathlib.Path(sys.argv[1]).open('a') as f: f.write(sys.argv[2] + ' ')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
    ) + SLEEP
    with Supervisor(grace_s=0.3, stop_limit_s=3) as supervisor:
        for name, stage in (("simulator", 3), ("scheduler", 1), ("worker", 2), ("last-started", None)):
            supervisor.start(name, python(polite, str(order), name), stage=stage)
        supervisor.start("stubborn", python(STUBBORN), stage=2)
        for name in ("simulator", "scheduler", "worker", "last-started", "stubborn"):
            supervisor.wait_ready(name, DEADLINE_S)
        pids = [supervisor.pid(name) for name in ("simulator", "scheduler", "worker", "last-started", "stubborn")]
        assert supervisor.stop() == ("stubborn",)
    assert order.read_text().split() == ["last-started", "scheduler", "worker", "simulator"]
    assert not any(runs(pid) for pid in pids if pid)


def test_the_limit_holds_for_many_stubborn_stages() -> None:
    with Supervisor(grace_s=600, stop_limit_s=3) as supervisor:
        names = [f"part-{number}" for number in range(3)]
        for name in names:
            supervisor.start(name, python(STUBBORN))
        for name in names:
            supervisor.wait_ready(name, DEADLINE_S)
        pids = [supervisor.pid(name) for name in names]
        assert sorted(supervisor.stop()) == names  # with the grace it would take half an hour
    assert not any(runs(pid) for pid in pids if pid)


def test_not_ready_in_time_says_so(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start("part", python("import time; time.sleep(600)"), log_path=tmp_path / "part.log")
    with pytest.raises(ProcessFailed, match=r"part was not ready within 0.1 s.*part\.log"):
        supervisor.wait_ready("part", 0.1)


def test_a_program_that_is_not_there(supervisor: Supervisor) -> None:
    with pytest.raises(ProcessFailed, match=r"part cannot be started: .*no-such-program"):
        supervisor.start("part", ["/no-such-program"])
    supervisor.start("part", python(SLEEP))
    with pytest.raises(ProcessFailed, match="already running"):
        supervisor.start("part", python(SLEEP))


def test_a_program_that_vanished_is_reported(supervisor: Supervisor, exits: queue.Queue[Exit], tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nrm "$0"\nexit 1\n')
    program.chmod(0o755)
    supervisor.start("part", [program])
    assert exits.get(timeout=DEADLINE_S).code == 1
    last = exits.get(timeout=DEADLINE_S)
    assert (last.code, last.restart_in_s) == (127, None)
    assert "program" in last.last_line


PARENT = textwrap.dedent("""
    import sys
    from trivet.local.processes import Supervisor
    from trivet.local.child_process import Restarts
    with Supervisor(restarts=Restarts(first_s=0), grace_s=float(sys.argv[3]), stop_limit_s=60) as parts:
        parts.start("a", [sys.executable, "-c", sys.argv[1]])
        parts.start("b", [sys.executable, "-c", sys.argv[1]])
        for name in ("a", "b"):
            parts.wait_ready(name, 20)
        said = []
        def say():
            if not said:
                said.append(print(parts.pid("a"), parts.pid("b"), flush=True))
        if sys.argv[2] == "run":
            parts.run(check=say, every_s=0.01)
            print("ran", flush=True)
        else:
            try:
                say()
                sys.stdin.read()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
""")


@contextlib.contextmanager
def parent(
    code: str, mode: str, grace_s: float, ignored: tuple[signal.Signals, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that supervises two others; its id, theirs, and nothing left behind."""
    command = under(python(PARENT, code, mode, str(grace_s)), ignored=ignored)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pids: list[int] = []
        try:
            assert process.stdout is not None
            pids = [int(word) for word in process.stdout.readline().split()]
            assert len(pids) == 2
            yield process, pids
        finally:
            process.kill()
            until(lambda: not any(runs(pid) for pid in pids), "the end of its children")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("mode", "says"), [("run", "ran"), ("foreground", "interrupted")])
def test_the_first_signal_stops_gracefully(number: signal.Signals, mode: str, says: str) -> None:
    with parent(SLEEP, mode, 600) as (process, pids):
        process.send_signal(number)
        assert process.communicate(timeout=DEADLINE_S)[0].strip() == says
        assert process.returncode == 0
        assert not any(runs(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_its_parent_ignored_stops_it_too(number: signal.Signals) -> None:
    with parent(SLEEP, "run", 600, (signal.SIGINT, signal.SIGTERM)) as (process, pids):
        process.send_signal(number)
        assert process.communicate(timeout=DEADLINE_S)[0].strip() == "ran"
        assert process.returncode == 0
        assert not any(runs(pid) for pid in pids)


def test_under_nohup_the_end_of_the_terminal_does_not_stop_it() -> None:
    with parent(SLEEP, "run", 600, (signal.SIGHUP,)) as (process, pids):
        process.send_signal(signal.SIGHUP)
        os.kill(pids[0], signal.SIGKILL)  # it goes on watching: what is killed is started again
        until(lambda: len(psutil.Process(process.pid).children()) == 2 and not runs(pids[0]), "the next one")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=DEADLINE_S)[0].strip() == "ran"


def test_a_parent_that_lets_children_vanish_does_not_end_the_supervision() -> None:
    with parent(SLEEP, "run", 600, (signal.SIGCHLD,)) as (process, pids):
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: len(psutil.Process(process.pid).children()) == 2 and not runs(pids[0]), "the next one")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=DEADLINE_S)[0].strip() == "ran"


@pytest.mark.parametrize("mode", ["run", "foreground"])
def test_the_second_signal_kills(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "asked-to-stop"
    monkeypatch.setenv("NOTE", str(note))
    with parent(DEAF, mode, 600) as (process, pids):
        process.send_signal(signal.SIGINT)
        until(note.exists, "the polite signal")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert not any(runs(pid) for pid in pids)


def test_the_parts_of_a_killed_supervisor_end_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with parent(SLEEP, "run", 4) as (process, pids):
        process.kill()
        process.wait(DEADLINE_S)
        until(lambda: not any(runs(pid) for pid in pids), "the orphans' end")
    assert list(tmp_path.iterdir()) == []


def test_an_orphan_that_ignores_the_polite_signal_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with parent(STUBBORN.replace("follow_parent()", "follow_parent(0.1)"), "run", 4) as (process, pids):
        process.kill()
        process.wait(DEADLINE_S)
        until(lambda: not any(runs(pid) for pid in pids), "the orphans' end")


def test_a_process_started_by_hand_follows_nobody() -> None:
    code = "from trivet_tasks.processes.startup import announce_ready, follow_parent; announce_ready(); print(follow_parent())"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")}
    for extra in ({}, {"TRIVET_PARENT_FD": "77"}, {"TRIVET_PARENT_FD": "x"}, {"TRIVET_READY_FILE": "/no/such/dir/x"}):
        done = subprocess.run(python(code), env=plain | extra, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "False"


def test_nothing_of_the_supervisor_stays_open_or_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = psutil.Process().num_fds()
    with Supervisor() as supervisor:
        supervisor.start("part", python(SLEEP), log_path=tmp_path / "part.log")
        supervisor.wait_ready("part", DEADLINE_S)
    assert [path.name for path in tmp_path.iterdir()] == ["part.log"]
    assert psutil.Process().num_fds() == before


def test_a_hangup_is_for_the_parts_that_read_their_file_again(tmp_path: Path, exits: queue.Queue[Exit]) -> None:
    note = tmp_path / "read-again"
    reading = (
        f"import pathlib, signal; signal.signal(signal.SIGHUP, lambda *_: pathlib.Path({str(note)!r}).touch()); {SLEEP}"
    )
    with Supervisor(on_exit=exits.put, passes_hangup=True) as supervisor:
        supervisor.start("reads", python(reading), reloads=True)
        supervisor.start("other", python(SLEEP))
        for name in ("reads", "other"):
            supervisor.wait_ready(name, DEADLINE_S)
        os.kill(os.getpid(), signal.SIGHUP)
        until(note.exists, "the hangup to be passed on")
        other = supervisor.pid("other")
        assert other is not None
        assert runs(other)
    assert exits.empty()


MEANS = """
from trivet_tasks.processes.signals import handled_stop_signals, reloads_on_hangup
print(reloads_on_hangup(), "SIGHUP" in [number.name for number in handled_stop_signals(reloads=True)])
"""


@pytest.mark.parametrize(
    ("terminal", "ignored", "says"),
    [(False, (), "True False"), (True, (), "False True"), (False, (signal.SIGHUP,), "False False")],
)
def test_a_hangup_stops_what_runs_on_a_terminal_and_makes_others_read_again(
    terminal: bool, ignored: tuple[signal.Signals, ...], says: str
) -> None:
    ours, theirs = os.openpty()
    command = under(python(MEANS), ignored=ignored)
    stdin = theirs if terminal else subprocess.DEVNULL
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=True, timeout=60)
    os.close(ours)
    os.close(theirs)
    assert done.stdout.strip() == says
