"""The process that does a run of a schedule: a command of Trivet's, as a person would type it.

A process of its own, so that checking a file of 100,000 requests takes no time of the interpreter that dispatches, and a
run that needs much memory ends alone. The command is named, not imported: it belongs to the interface above.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from trivet_store.schedule_runs import ClaimedRun
from trivet_tasks.config.schedules import ScheduleSettings, WorkKind
from trivet_tasks.config.settings import Settings
from trivet_tasks.processes.startup import PARENT_FD_VARIABLE, READY_FILE_VARIABLE, python_command

PROGRAM = python_command("trivet")
LINES_KEPT = 40
LONGEST_LINE = 2_000
LONGEST_ANSWER = 1_000_000
"""Bytes of JSON that are read of a command's output."""
_SAID = "trivet: "
_PART = ".part"
_JOBS_FAILED = 1
"""The exit code that says: all was done, and some jobs failed."""


class Ending(NamedTuple):
    """The end of a run's process."""

    result: str | None
    """Its result in words."""
    error: str | None
    """None: it succeeded."""
    again: bool = False
    """True if another try may succeed."""


def arguments(schedule: ScheduleSettings, run: ClaimedRun) -> list[str]:
    """Return the arguments of `trivet` for a run: `bulk --json --once --name nightly-2026-12-01T06:30 -- mails.jsonl`."""
    at, by_hand = run.key.planned_at, run.by_hand
    match schedule.kind:
        case WorkKind.BULK:
            given: dict[str, object] = {
                "--name": schedule.run_name(at, by_hand=by_hand),
                "--model": schedule.model,
                "--max-tokens": schedule.max_tokens,
                "--latency": schedule.latency,
                "--tenant": schedule.tenant,
                "--prompt-cache": schedule.prompt_cache,
                "--dedupe": schedule.dedupe,
                "--out": schedule.out_path(at, by_hand=by_hand),
            }
            words = [word for name, value in given.items() if value for word in (name, str(value))]
            words += [word for tag in schedule.tags.items() for word in ("--tag", "=".join(tag))]
            words += [] if schedule.cache is None else ["--cache" if schedule.cache else "--no-cache"]
            words += ["--skip-bad"] * schedule.skip_bad + ["--with-request"] * schedule.with_request
            return ["bulk", "--json", "--once", *words, "--", schedule.bulk]
        case WorkKind.PRUNE:
            forget = ["--attempts-older-than", schedule.attempts_older_than] if schedule.attempts_older_than else []
            keep = ["--keep-results"] * schedule.keep_results
            return ["db", "prune", "--json", "--older-than", schedule.older_than, *forget, *keep]
        case WorkKind.REPORT:
            since, until = (datetime.fromtimestamp(moment, UTC).isoformat() for moment in schedule.report_span(at))
            ending = Path(schedule.out).suffix.lstrip(".")
            form = ["--json"] if ending == "json" else [f"--{ending}", "-"]
            return ["costs", "--by", schedule.by, "--since", since, "--until", until, *form]


class ScheduledCommand:
    """One run's process, with what it wrote. It ends with the process that started it."""

    def __init__(self, settings: Settings, schedule: ScheduleSettings, run: ClaimedRun, parent_fd: int) -> None:
        """Start it in the folder that relative paths count from.

        Args:
            parent_fd: reading end of a pipe whose writing end is open in this process alone.

        Raises:
            OSError: it cannot be started, or its output cannot be written.
        """
        self.run = run
        self._schedule = schedule
        self._out = self._out_path(settings)
        self._stdout = self._output()
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        config = [] if settings.path is None else ["--config", str(settings.path.absolute())]
        environment = {name: value for name, value in os.environ.items() if name != READY_FILE_VARIABLE}
        try:
            self._process = subprocess.Popen(
                [*PROGRAM, *config, *arguments(schedule, run)],
                cwd=settings.base_dir, env={**environment, PARENT_FD_VARIABLE: str(parent_fd)},
                stdin=subprocess.DEVNULL, stdout=self._stdout, stderr=subprocess.PIPE,
                start_new_session=True, pass_fds=[parent_fd],
            )  # fmt: skip
        except (OSError, ValueError):
            self._stdout.close()
            raise
        with contextlib.suppress(OSError):  # it has ended by now
            os.setpriority(os.PRIO_PROCESS, self._process.pid, settings.worker.bulk_nice)
        self._reader = threading.Thread(target=self._read, name=f"trivet-schedule-{schedule.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ending(self) -> Ending | None:
        """Return its end; None while it runs. Call it once more only before it has ended."""
        code = self._process.poll()
        if code is None:
            return None
        self._reader.join(1.0)  # something that it started may hold the pipe open
        try:
            return self._of_code(code)
        except OSError as error:
            return Ending(None, f"{error.filename or self._out}: cannot be written: {error.strerror}.", again=True)
        finally:
            self._stdout.close()

    def ask_to_stop(self) -> None:
        """Send SIGTERM to it and to what it started."""
        self._signal(signal.SIGTERM)

    def stop(self, until: float) -> None:
        """Wait for its end, and kill it when that has not come.

        Args:
            until: time on the monotonic clock.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _out_path(self, settings: Settings) -> Path | None:
        out = self._schedule.out_path(self.run.key.planned_at, by_hand=self.run.by_hand)
        if not out:
            return None
        path = settings.base_dir / out
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _output(self) -> BinaryIO:
        """Return the file that takes its standard output: that of a report, else one without a name."""
        if self._schedule.report and self._out is not None:
            return self._out.with_name(self._out.name + _PART).open("w+b")
        return tempfile.TemporaryFile()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in iter(lambda: stderr.readline(LONGEST_LINE), b""):
                self._lines.append(line.decode("utf-8", "replace").rstrip())

    def _of_code(self, code: int) -> Ending:
        if code not in (0, _JOBS_FAILED) or (code == _JOBS_FAILED and not self._schedule.bulk):
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            return Ending(None, self._said() or f"`trivet {self._schedule.kind}` {how}.", again=True)
        if self._schedule.report and self._out is not None:
            self._out.with_name(self._out.name + _PART).replace(self._out)
            return Ending(f"written to {self._out}", None)
        answer = self._answer()
        if answer is None:
            return Ending(None, self._said() or f"`trivet {self._schedule.kind}` ended with code {code}.", again=True)
        result = _bulk_words(answer) if self._schedule.bulk else _prune_words(answer)
        return Ending(result, f"Some jobs failed: {result}." if code else None)

    def _said(self) -> str:
        """Return Trivet's own words about what is wrong; nothing that others wrote, which may hold anything."""
        lines = list(self._lines)
        begins = [number for number, line in enumerate(lines) if line.startswith(_SAID)]
        return " ".join(lines[begins[-1] :]).removeprefix(_SAID) if begins else ""

    def _answer(self) -> dict[str, Any] | None:
        self._stdout.seek(0)
        try:
            found = orjson.loads(self._stdout.read(LONGEST_ANSWER))
        except orjson.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None


def _bulk_words(answer: dict[str, Any]) -> str:
    words = [f"{answer.get('total', 0):,} jobs"]
    words += [f"{answer[key]:,} {key}" for key in ("succeeded", "failed", "expired", "cancelled") if answer.get(key)]
    return ", ".join([*words, *([f"{answer['left_out']:,} bad lines left out"] if answer.get("left_out") else [])])


def _prune_words(answer: dict[str, Any]) -> str:
    rows = {kind: count for kind, count in answer.get("pruned", {}).items() if count}
    return "deleted " + ", ".join(f"{count:,} {kind}" for kind, count in rows.items()) if rows else "nothing to delete"
