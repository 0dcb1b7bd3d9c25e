"""Output and input of the commands without a running system: tables, times, results files, the backlog's queries."""

import io
import json
import logging
import queue
import re
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from sqlalchemy import event, text
from tests.timing import PATIENCE_S

from trivet import EndStateName
from trivet.cli import output, progress
from trivet.cli.options import since, span_or_moment
from trivet.cli.output import Column, print_facts, print_line, print_table
from trivet.cli.progress import ProgressLines
from trivet.cli.result_forms import check_lines
from trivet.cli.results import ResultsFile
from trivet.client.result import Attempt, JobError, Result
from trivet.json_objects import result_line
from trivet_store.database.engine import Store
from trivet_store.jobs import batches
from trivet_store.jobs.enqueue import BatchRef, insert
from trivet_store.reports import backlog
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.spans import span_s

COLUMNS = [Column("ROUTE"), Column("WHY", cut=True), Column("CALLS", right=True, spare=1), Column("LIMITS", spare=2)]
ROWS = [["bedrock-us-east-1", "a reason of some length", "1,234", "500 req/min"], ["x", "[bold]y", "5", ""]]


def printed(monkeypatch: pytest.MonkeyPatch, width: int | None) -> str:
    """The table as a terminal of this width shows it, or (None) as a pipe gets it."""
    file = io.StringIO()
    monkeypatch.delenv("COLUMNS", raising=False)
    console = Console(
        file=file, width=width or 80, force_terminal=width is not None, color_system=None, highlight=False
    )
    monkeypatch.setattr(output, "out", console)
    print_table(COLUMNS, ROWS, total=["total", "", "1,239", ""])
    return file.getvalue()


def test_a_table_into_a_pipe_is_whole_however_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[f"{number:04}" * 30, "a reason", "5", "last"] for number in range(2)]
    file = io.StringIO()
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(output, "out", Console(file=file, width=80))
    print_table(COLUMNS, rows)
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[1] == f"{'0000' * 30}  a reason      5  last"


def test_a_terminal_with_room_sees_every_column_aligned_and_markup_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, 80).splitlines() == [
        "ROUTE              WHY                      CALLS  LIMITS",
        "bedrock-us-east-1  a reason of some length  1,234  500 req/min",
        "x                  [bold]y                      5",
        "total                                       1,239",
    ]


def test_a_narrow_terminal_loses_the_spare_columns_first_and_then_cuts_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, 50).splitlines()[0] == "ROUTE              WHY                      CALLS"
    assert printed(monkeypatch, 44).splitlines()[0] == "ROUTE              WHY"
    narrow = printed(monkeypatch, 30).splitlines()
    assert narrow[1] == "bedrock-us-east-1  a reason o…"
    assert all(len(line) <= 30 for line in narrow)


def test_lines_break_between_words_and_keep_their_indent(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(output, "out", Console(file=file, width=20, force_terminal=True, color_system=None))
    print_line("")
    print_line("one two three four [five]", indent=4)
    print_facts([("job", "id"), ("state", Text("open", style="red"))])
    assert file.getvalue().splitlines() == ["", "    one two three", "    four [five]", "job    id", "state  open"]


@pytest.mark.parametrize(
    ("given", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5_400), ("7D", 604_800), ("2 w", 1_209_600)]
)
def test_spans(given: str, seconds: float) -> None:
    assert span_s(given) == seconds
    assert span_or_moment(given) == seconds
    if not given.isdigit():
        assert since(given, 2_000_000) == 2_000_000 - seconds


@pytest.mark.parametrize("given", ["30", "1.5", "20261101"])
def test_a_span_without_a_unit_is_no_time_to_look_back(given: str) -> None:
    with pytest.raises(InvalidRequest, match=f"--since: '{given}' needs a unit: days, hours, minutes[?]") as caught:
        since(given, 2_000_000)
    assert "Use 7d, 24h" in caught.value.hint
    assert since("0", 2_000_000) == 2_000_000


def test_moments_are_utc_unless_they_say_otherwise() -> None:
    assert since("2026-11-01", 0) == 1_793_491_200
    assert since("2026-11-01T01:00:00+01:00", 0) == 1_793_491_200
    assert span_or_moment("2026-11-01T00:00:00Z") == "2026-11-01T00:00:00Z"


@pytest.mark.parametrize("given", ["yesterday", "", "-3d", "7x"])
def test_what_is_no_time_is_said_to_be_none(given: str) -> None:
    with pytest.raises(InvalidRequest, match="--since"):
        since(given, 0)


def test_where_there_is_no_terminal_a_line_says_count_note_rate_and_time_left() -> None:
    lines = ProgressLines("contracts", 100, unit="jobs")
    now = time.monotonic()
    lines.advance(20, "1 failed, $0.12")
    assert re.fullmatch(
        r"contracts: 20/100 jobs, 1 failed, \$0.12, (1.9|2.0) jobs/s, 4\d.\d s left", lines.line(now + 10)
    )
    lines.advance(30, "1 failed, $0.15", held="held by a budget")
    held = lines.line(now + 20)
    assert held.endswith("jobs/s, held by a budget")
    assert " left" not in held
    for after in (100, 200):
        said = lines.line(now + after)
    assert said == "contracts: 30/100 jobs, 1 failed, $0.15, held by a budget"
    lines.advance(50, about=200)
    assert lines.line(now + 201).startswith("contracts: 50/~200 jobs, ")


def test_lines_come_while_nothing_moves_and_end_with_their_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(output, "print_error", said.put)
    monkeypatch.setattr(output, "err", Console(file=io.StringIO()))
    with progress.bar("Waiting", 5, unit="jobs"):
        assert said.get(timeout=PATIENCE_S) == said.get(timeout=PATIENCE_S) == "Waiting: 0/5 jobs"
    assert not [thread for thread in threading.enumerate() if thread.name == "trivet-lines"]


@pytest.mark.parametrize("width", [30, 80])
def test_a_bar_stays_on_its_line_whatever_is_logged(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen = io.StringIO()
    for name in ("stderr", "__stderr__"):
        monkeypatch.setattr(sys, name, screen)
    console = Console(stderr=True, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(output, "err", console)
    handler = logging.StreamHandler(screen)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with progress.bar("A batch with a long name", 1_000, unit="jobs") as advance:
        for done in range(0, 1_001, 100):
            advance(done, "3 failed, $12.34", held="held by a budget" if done == 500 else "")
        logging.getLogger("other").warning("logged")
    assert handler.stream is screen
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).split("\n")
    assert [line.split("\r")[-1] for line in lines if "logged" in line] == ["logged"]
    assert len(lines) <= 4  # the log line, the last frame of the bar, and what follows it
    assert max(len(frame) for line in lines for frame in line.split("\r")) <= width


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("results.csv", "trivet batch export NAME --out results.csv"),
        ("results.xlsx", "--out: results.xlsx: results are written as JSON Lines, not as .xlsx. Use results.jsonl."),
        ("results.JSON", "not as .json."),
        ("results.jsonl.gz", "not as .gz. Use results.jsonl."),
        ("results.parquet", "trivet batch export NAME --out results.parquet"),
    ],
)
def test_a_results_file_with_another_ending_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match="--out") as caught:
        check_lines(tmp_path / name)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["results", "results.jsonl", "results.NDJSON"])
def test_files_of_json_lines_are_called_so(tmp_path: Path, name: str) -> None:
    check_lines(tmp_path / name)


def result(number: int, *, status: EndStateName = "succeeded") -> Result:
    good = status == "succeeded"
    return Result(
        id=f"{number:032x}",
        key=None,
        status=status,
        error=None if good else JobError("overloaded", "No route answered"),
        stop_reason="end_turn" if good else None,
        cost_usd=Decimal("0.000000000001"),
        route="anthropic",
        model="claude-sonnet-5-5",
        attempts=(
            Attempt(
                "a1",
                "anthropic",
                "succeeded" if good else "overloaded",
                1.0,
                0.5,
                Decimal("0.000000000001"),
                False,
                "req_1",
            ),
        ),
        cached=False,
        latency_s=1.5,
        created_at=1.0,
        ended_at=2.5,
        tags={"document": "ü.txt"},
        raw=b'{"content":[{"type":"text","text":"hi \\u00fc"}],"usage":{"output_tokens":3}}' if good else None,
    )


def test_a_result_line_has_everything_and_no_digit_is_lost() -> None:
    line = result_line(result(1))
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    value = json.loads(line)
    assert value["text"] == "hi ü"
    assert value["cost_usd"] == value["attempts"][0]["cost_usd"] == "0.000000000001"
    assert value["message"]["usage"] == value["usage"] == {"output_tokens": 3}
    failed = json.loads(result_line(result(2, status="failed")))
    assert failed["error"] == {"outcome": "overloaded", "message": "No route answered"}
    assert failed["text"] is failed["message"] is None


def test_a_results_file_holds_each_result_once_over_any_number_of_runs(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as file:
        for number in range(3):
            file.write(result(number))
        file.write(result(1))
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    path.write_bytes(whole[:-40])  # the last line cut off, as by a power cut
    with ResultsFile(path) as file:
        assert result(1) in file
        assert result(2) not in file
        for number in range(4):
            file.write(result(number))
    assert path.read_bytes() == whole + result_line(result(3))


def test_of_a_job_that_ran_again_the_last_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    job = replace(result(1), request={"messages": []}, index=7, batch="b", metadata={"row": 1})
    ends = [replace(job, status="failed"), replace(job, latency_s=9.25)]
    with ResultsFile(path, with_request=True) as file:
        for one in (result(0), ends[0], result(2)):
            file.write(one)
    path.chmod(0o640)

    def broken_off() -> None:
        with ResultsFile(path, with_request=True) as file:
            for one in (result(0), ends[1], result(2)):
                file.write(one)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    part = tmp_path / "results.jsonl.part"
    assert list(tmp_path.iterdir()) == [part]
    assert part.read_bytes().count(b"\n") == 4, "both ends, until it is complete"
    with ResultsFile(path, with_request=True) as file:
        file.write(ends[1])
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o640
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [int(line["id"], 16) for line in lines] == [0, 2, 1]
    last = lines[-1]
    assert (last["status"], last["request"], last["index"], last["batch"]) == ("succeeded", {"messages": []}, 7, "b")
    assert (last["metadata"], lines[0]["request"]) == ({"row": 1}, None)
    before = path.read_bytes()
    with pytest.raises(InvalidRequest, match="was written with --with-request"):
        ResultsFile(path)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def test_a_whole_file_with_two_lines_of_a_job_loses_the_first(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, last = result_line(result(1, status="failed")), result_line(replace(result(1), latency_s=9.0))
    path.write_bytes(first + result_line(result(0)) + last)
    with ResultsFile(path):
        pass
    assert path.read_bytes() == result_line(result(0)) + last
    assert list(tmp_path.iterdir()) == [path]


def test_a_job_that_runs_again_and_again_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    ends = [
        result(1, status="failed"),
        replace(result(1, status="failed"), latency_s=9.25),
        replace(result(1), latency_s=12.125),
    ]
    for end in (*ends, ends[-1]):  # as it is at each run
        with ResultsFile(path) as file:
            for one in (result(0), end):
                file.write(one)
        assert path.read_bytes() == result_line(result(0)) + result_line(end)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("count", [400, 5])  # while it is written, and at its end
def test_a_full_disk_is_said_in_a_sentence_and_the_next_run_writes_the_rest(tmp_path: Path, count: int) -> None:
    path, part = tmp_path / "results.jsonl", tmp_path / "results.jsonl.part"
    results = [result(number) for number in range(count)]
    whole = b"".join(map(result_line, results))

    def run() -> None:
        with ResultsFile(path) as file:
            for one in results:
                file.write(one)

    with (
        files_of_at_most(len(whole) - 30),
        pytest.raises(InvalidRequest, match="cannot be written: File too large") as said,
    ):
        run()
    assert "safe in the database" in said.value.hint
    assert list(tmp_path.iterdir()) == [part]
    run()
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"hello\n", b'{"prompt":"x"}\n', b'{"id":"zz"}\n', b"a note without a line end"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="line 1 is not a result"):
        ResultsFile(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_results_file_has_its_name_only_while_it_is_whole(tmp_path: Path) -> None:
    path, part = tmp_path / "results.jsonl", tmp_path / "results.jsonl.part"

    def run(*numbers: int, broken_off: bool = False) -> None:
        with ResultsFile(path) as file:
            for number in numbers:
                file.write(result(number))
            if broken_off:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken_off=True)
    assert list(tmp_path.iterdir()) == [], "nothing is in it"
    with pytest.raises(KeyboardInterrupt):
        run(1, 2, broken_off=True)
    assert list(tmp_path.iterdir()) == [part]
    run(1, 2, 3)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt):
        run(1, 2, broken_off=True)
    assert list(tmp_path.iterdir()) == [path], "nothing was added to it"
    with pytest.raises(KeyboardInterrupt):
        run(4, broken_off=True)
    assert list(tmp_path.iterdir()) == [part]
    run(5)
    assert path.read_bytes() == b"".join(result_line(result(number)) for number in range(1, 6))
    part.touch()
    with pytest.raises(InvalidRequest, match="broken off"):
        run()


def test_results_are_not_written_over_a_device() -> None:
    with pytest.raises(InvalidRequest, match="/dev/null: is not a regular file"):
        ResultsFile(Path("/dev/null"))


def fill(store: Store) -> None:
    """Five open and two held batch jobs, one alone that is delayed, and one at a route."""

    def spec(number: int, latency: Latency, not_before: float | None = None) -> JobSpec:
        return JobSpec("claude-sonnet-5-5", latency, b"{}", f"{number:032x}", 1, 1, not_before=not_before)

    with store.write() as connection:
        for name, count in (("open", 5), ("held", 2)):
            loading = batches.begin_loading(store, connection, name)
            specs = [spec(number, Latency.BATCH) for number in range(count)]
            insert(store, connection, specs, batch=BatchRef(loading.id, name), classes=DEFAULTS)
            batches.advance(connection, loading, [one.fingerprint for one in specs])
            if name == "open":
                batches.open_batch(store, connection, loading.id)
        later = store.now(connection) + 3_600
        insert(store, connection, [spec(0, Latency.ASYNC, later), spec(1, Latency.ASYNC)], classes=DEFAULTS)
        connection.execute(
            text("UPDATE jobs SET state = 'dispatched', route = 'r1' WHERE fingerprint = :one AND batch_id IS NULL"),
            {"one": f"{1:032x}"},
        )
        connection.execute(
            text(
                "UPDATE jobs SET state = 'succeeded', ended_at = created_at, batch_seq = 1 "
                "WHERE batch_id = 1 AND fingerprint = :zero"
            ),
            {"zero": f"{0:032x}"},
        )


def test_the_backlog_counts_what_waits_and_what_stands_at_a_route(store: Store) -> None:
    fill(store)
    with store.read() as connection:
        by_class = {row.latency: row for row in backlog.by_class(connection)}
        by_batch = {row.batch: row for row in backlog.by_batch(connection, 10)}
        (at_route,) = backlog.by_route(connection)
        now = store.now(connection)
    assert {name: row[1:4] for name, row in by_class.items()} == {"batch": (4, 0, 2), "async": (0, 1, 0)}
    assert {name: row[1:4] for name, row in by_batch.items()} == {"open": (4, 0, 0), "held": (0, 0, 2), None: (0, 1, 0)}
    assert next(iter(by_batch)) == "open"
    assert by_class["batch"].total == 6
    assert all(now - 60 < row.oldest_at <= now for row in by_class.values())
    assert at_route[:4] == ("r1", "async", 1, 0)


WITHOUT_ENDED = ("ix_jobs_flow", "ix_jobs_outstanding", "ix_jobs_too_slow")
"""Partial indexes that no ended job is in."""


def test_the_backlog_never_reads_ended_jobs(store: Store) -> None:
    """Every query goes through an index that has no ended job in it."""
    fill(store)
    statements: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with store.read() as connection:
        backlog.by_class(connection)
        backlog.by_batch(connection, 10)
        backlog.by_route(connection)
        backlog.requirements_of_batch(connection, "open")
        backlog.requirements_of_waiting(connection)
        backlog.models_in_use(connection)
        asked = [said for said in statements if "julianday" not in said and not said.startswith("BEGIN")]
        assert len(asked) == 6
        for statement in asked:
            marks = (1,) * statement.count("?")
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", marks)]
            used = [step for step in plan if re.match(r"(SCAN|SEARCH) j\b", step)]
            assert used or " jobs j" not in statement
            assert all(any(f"INDEX {name}" in step for name in WITHOUT_ENDED) for step in used), plan
            slowed = any("INDEX ix_jobs_too_slow (state=?)" in step for step in used)
            assert slowed or "j.too_slow" not in statement, "few jobs of the backlog are read for it"


def test_the_speed_of_a_batch_comes_from_its_last_endings(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    with store.write() as connection:
        connection.execute(text("UPDATE jobs SET state = 'succeeded' WHERE batch_id = 1"))
        connection.execute(text("UPDATE batches SET ended = 5, succeeded = 5, seq = 5 WHERE id = 1"))
        for number in range(5):  # one every two seconds, the last of them now
            connection.execute(
                text("UPDATE jobs SET batch_seq = :seq, ended_at = :at WHERE batch_id = 1 AND fingerprint = :which"),
                {"seq": number + 1, "at": 1_000.0 + 2 * number, "which": f"{number:032x}"},
            )
    with store.read() as connection:
        assert backlog.recent_speed(connection, "open", 1_008.0) == pytest.approx(5 / 8)
        assert backlog.recent_speed(connection, "open", 2_000.0) is None
        assert backlog.recent_speed(connection, "held", 1_008.0) is None
        monkeypatch.setattr(backlog, "SPEED_OF_JOBS", 2)
        assert backlog.recent_speed(connection, "open", 1_008.0) == pytest.approx(2 / 2)
