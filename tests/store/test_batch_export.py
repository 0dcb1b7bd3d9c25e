"""`trivet batch export` and `trivet bulk` as commands over a database alone: nobody runs the jobs but the test."""

import csv
import gzip
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.command_line import Said, commands
from tests.store.world import DEADLINE_S, OTHER_ROUTE, World, go_on, spec, specs

from trivet.cli import parquet_file
from trivet.client import jobs as client_jobs
from trivet.client import submitting
from trivet.client.client import Client
from trivet_store.jobs import batches, cancelling
from trivet_store.reports import results
from trivet_store.steps import End
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.outcomes import Outcome
from trivet_tasks.requests.submit_params import RequestParams
from trivet_tasks.states import JobState

NAME = "contracts"
MESSAGE = {
    "content": [{"type": "text", "text": 'Zürich, "so" 🙂\n'}, {"type": "text", "text": "end"}],
    "usage": {
        "input_tokens": 12,
        "output_tokens": 7,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": None,
    },
}


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    file = tmp_path / "trivet.toml"
    file.write_text(f'[store]\nurl = {json.dumps(world.store.url)}\n[routes.anthropic]\nprovider = "anthropic"\n')
    return file


@pytest.fixture
def trivet(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Callable[..., Said]]:
    """Runs the command line in this process, on small pages."""
    monkeypatch.setattr(client_jobs, "PAGE_JOBS", 3)

    class Decoded:
        def readouterr(self) -> tuple[str, str]:
            out, err = capsysbinary.readouterr()
            return out.decode(), err.decode()

    with commands(str(config), monkeypatch, Decoded()) as run:
        yield run


def ended(world: World, count: int = 10, *, text: str = "hello") -> None:
    """A batch whose jobs have all succeeded."""
    world.batch(NAME, *(spec(f"document {n}", key=f"{NAME}/{n}") for n in range(count)))
    message = json.dumps({"content": [{"type": "text", "text": text}], "usage": {"output_tokens": 1}}).encode()
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(count)), End(JobState.SUCCEEDED, message=message))


def ended_in_all_ways(world: World) -> None:
    """Ends with and without a message, a call, a cost, a key; one after a failover; two were never run."""
    tags = {"document": "ü, 'x'.txt", "team": "docs"}
    group = [spec(f"document {n}", key=f"{NAME}/{n}" if n % 2 else None, tags=tags if n < 3 else {}) for n in range(8)]
    batch = world.batch(NAME, *group)
    lease = world.lease()
    good = End(JobState.SUCCEEDED, message=json.dumps(MESSAGE, ensure_ascii=False).encode(), stop_reason="end_turn")
    jobs = world.take(lease, world.dispatch(6))
    world.end(lease, jobs[:1], good, cost="0.000000000001")
    world.end(lease, jobs[1:2], good, cost=None)
    world.end(lease, jobs[2:3], End(JobState.FAILED, outcome=Outcome.INVALID, error="too long: 'x'"))
    world.end(lease, jobs[3:4], End(JobState.EXPIRED, outcome=Outcome.TIMEOUT, error="too late"))
    world.end(lease, jobs[4:5], go_on())
    again = [DispatchedJob(jobs[4].id, jobs[4].claim + 1, 1, 100)]
    world.end(lease, world.take(lease, again, route=OTHER_ROUTE), good, cost="1234567.000000000001")
    world.end(lease, jobs[5:], End(JobState.SUCCEEDED, message=b'{"content":[]}'))
    with world.store.write() as connection:
        cancelling.begin_cancel(world.store, connection, batch.id)
    with world.store.write() as connection:
        assert len(cancelling.cancel_waiting(world.store, connection, batch.id)) == 2


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_an_export_has_every_result_once_in_the_form_of_every_other_command(
    world: World, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    ended_in_all_ways(world)
    said = trivet("batch", "export", NAME)
    assert (said.code, said.err) == (0, "")
    assert said.out == trivet("batch", "results", NAME).out
    statuses = [line["status"] for line in said.lines]
    assert statuses == [*["succeeded"] * 2, "failed", "expired", *["succeeded"] * 2, *["cancelled"] * 2]
    assert len({line["id"] for line in said.lines}) == 8
    assert said.lines[4]["provider"] == OTHER_ROUTE.partition("-")[0]
    assert said.lines[4]["ended_at"] - said.lines[4]["created_at"] == pytest.approx(said.lines[4]["latency_s"])

    out = tmp_path / "out.jsonl"
    written = trivet("batch", "export", NAME, "--out", str(out))
    assert (written.code, written.err) == (0, "")
    assert "8 results of contracts" in written.out
    assert out.read_text(encoding="utf-8") == said.out


def test_csv_holds_what_the_json_lines_hold_but_for_the_message(
    world: World, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    ended_in_all_ways(world)
    out = tmp_path / "out.csv"
    assert trivet("batch", "export", NAME, "--out", str(out), "--with-request").code == 0
    printed = trivet("batch", "export", NAME, "--format", "csv", "--with-request")
    assert printed.out == out.read_text(encoding="utf-8")
    table = list(csv.DictReader(io.StringIO(printed.out)))
    lines = trivet("batch", "export", NAME, "--with-request").lines
    for line, row in zip(lines, table, strict=True):
        for column in ("id", "batch", "key", "status", "text", "stop_reason", "route", "model"):
            assert row[column] == (line[column] or ""), column
        assert (row["index"], row["attempts"]) == (str(line["index"]), str(len(line["attempts"])))
        assert row["cost_usd"] == (line["cost_usd"] or "")
        assert row["error_message"] == ((line["error"] or {}).get("message") or "")
        assert json.loads(row["request"] or "null") == line["request"]
        assert row["ended_at"].endswith("Z")
        assert "message" not in row


def test_a_text_that_a_spreadsheet_takes_for_a_formula_is_text_in_csv(
    world: World, trivet: Callable[..., Said]
) -> None:
    ended(world, 1, text="=HYPERLINK(1)")
    (row,) = csv.DictReader(io.StringIO(trivet("batch", "export", NAME, "--format", "csv").out))
    assert row["text"] == "'=HYPERLINK(1)"


def test_parquet_holds_what_the_json_lines_hold(
    world: World, trivet: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_in_all_ways(world)
    out = tmp_path / "out.parquet"
    monkeypatch.setattr(parquet_file, "GROUP_ROWS", 5)
    assert trivet("batch", "export", NAME, "--out", str(out)).code == 0
    assert pq.read_metadata(out).num_row_groups == 2
    table = pq.read_table(out)
    assert table.schema.equals(parquet_file.SCHEMA)
    lines = trivet("batch", "export", NAME).lines
    for line, row in zip(lines, table.to_pylist(), strict=True):
        for column in (
            "id",
            "batch",
            "index",
            "key",
            "status",
            "pruned",
            "text",
            "stop_reason",
            "route",
            "provider",
            "model",
            "cached",
        ):
            assert row[column] == line[column]
        assert row["latency_s"] == line["latency_s"]
        assert row["attempts"] == len(line["attempts"])
        assert row["cost_usd"] == (None if line["cost_usd"] is None else Decimal(line["cost_usd"]))
        error = line["error"] or {"outcome": None, "message": None}
        assert (row["error_outcome"], row["error_message"]) == (error["outcome"], error["message"])
        usage = line["usage"] or {}
        assert row["input_tokens"] == usage.get("input_tokens")
        assert row["output_tokens"] == usage.get("output_tokens")
        assert row["cache_read_tokens"] == usage.get("cache_read_input_tokens")
        assert row["cache_write_tokens"] == usage.get("cache_creation_input_tokens")
        assert json.loads(row["tags"]) == line["tags"]
        assert (row["message"] and json.loads(row["message"])) == line["message"]
        for column in ("created_at", "ended_at"):
            assert row[column].tzinfo is not None
            assert row[column].timestamp() == pytest.approx(line[column], abs=2e-6)
    assert {row["cost_usd"] for row in table.to_pylist()} > {Decimal("1234567.010000000001"), None}


def test_results_can_be_joined_with_what_was_submitted(
    world: World, config: Path, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    terms: RequestParams = {"model": "claude-sonnet-5-5", "max_tokens": 10, "metadata": {"source": "test"}}
    texts = [f"document {n} " + "x" * (400_000 if n < 4 else 0) for n in range(7)]
    group: list[RequestParams] = [{"prompt": text, "metadata": {"row": n}} for n, text in enumerate(texts)]
    with Client(config) as client:
        batch = client.submit_many(group, name=NAME, **terms)
        single = client.submit("alone", model="claude-sonnet-5-5", max_tokens=10)
        lease = world.lease()
        jobs = world.take(lease, world.dispatch(8))
        world.end(lease, jobs[::-1], End(JobState.SUCCEEDED, message=json.dumps(MESSAGE).encode()))
        found = {result.index: result for result in batch.results(with_request=True)}
        assert set(found) == set(range(7))
        for index, result in found.items():
            assert index is not None
            assert (result.batch, result.metadata) == (NAME, {"source": "test", "row": index})
            request = {"model": terms["model"], "max_tokens": 10, "metadata": result.metadata}
            assert result.request == {**request, "messages": [{"role": "user", "content": texts[index]}]}
            assert "document" not in repr(result)
            assert "source" not in repr(result)
        alone = single.result(timeout=0, with_request=True)
        assert (alone.batch, alone.index, alone.metadata) == (None, None, {})
        assert alone.request is not None
        assert single.result(timeout=0).request is next(batch.results()).request is None

    lines = trivet("batch", "export", NAME, "--with-request").lines
    assert lines == trivet("batch", "results", NAME, "--with-request").lines
    assert [(line["index"], line["request"]) for line in lines] == [(n, one.request) for n, one in found.items()]
    assert "request" not in trivet("batch", "results", NAME).lines[0]
    shown = trivet("job", "show", lines[0]["id"], "--json").json
    assert (shown["index"], shown["metadata"]) == (lines[0]["index"], lines[0]["metadata"])
    assert f'{{"source":"test","row":{shown["index"]}}}' in trivet("job", "show", lines[0]["id"]).out

    world.sql("DELETE FROM job_requests WHERE job_id = :id", id=lines[0]["id"])
    out = tmp_path / "out.parquet"
    assert trivet("batch", "export", NAME, "--with-request", "--out", str(out)).code == 0
    pruned, *kept = pq.read_table(out).to_pylist()
    assert (pruned["request"], pruned["index"], pruned["batch"]) == (None, lines[0]["index"], NAME)
    for line, row in zip(lines[1:], kept, strict=True):
        assert (json.loads(row["request"]), row["index"]) == (line["request"], line["index"])
        assert json.loads(row["metadata"]) == line["metadata"]


def test_an_export_over_an_earlier_one_has_a_retried_job_once(
    world: World, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    world.batch(NAME, *specs(5))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(5))
    world.end(lease, jobs[:2], End(JobState.FAILED, outcome=Outcome.INVALID, error="too long"))
    world.end(lease, jobs[2:])
    out = tmp_path / "out.jsonl"
    assert trivet("batch", "export", NAME, "--out", str(out)).code == 0
    assert [line["status"] for line in rows(out)] == [*["failed"] * 2, *["succeeded"] * 3]
    assert trivet("batch", "retry", NAME, "--json").json["retried"] == 2
    world.end(lease, world.take(lease, world.dispatch(2)))
    assert trivet("batch", "export", NAME, "--out", str(out)).code == 0
    assert [line["status"] for line in rows(out)] == ["succeeded"] * 5
    assert {line["id"] for line in rows(out)} == {job.id for job in jobs}


def test_a_row_group_is_bounded_by_bytes_too(
    world: World, trivet: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(world, 10, text="x" * 1_000)
    monkeypatch.setattr(parquet_file, "GROUP_BYTES", 6_000)  # each result has its text twice
    out = tmp_path / "out.pq"
    assert trivet("batch", "export", NAME, "--out", str(out), "--format", "parquet").code == 0
    found = pq.read_metadata(out)
    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == [3, 3, 3, 1]


def test_only_jobs_that_ended_so(world: World, trivet: Callable[..., Said]) -> None:
    ended_in_all_ways(world)
    failed = trivet("batch", "export", NAME, "--state", "failed", "--state", "cancelled")
    assert (failed.code, [line["status"] for line in failed.lines]) == (0, ["failed", "cancelled", "cancelled"])
    assert len(trivet("batch", "export", NAME, "--state", "succeeded").lines) == 4
    wrong = trivet("batch", "export", NAME, "--state", "suceeded")
    assert (wrong.code, wrong.out) == (2, "")
    assert "Did you mean succeeded?" in wrong.err


def test_a_batch_that_has_not_ended_says_how_many_are_missing(
    world: World, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    world.batch(NAME, *specs(5))
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch(2)))
    said = trivet("batch", "export", NAME)
    assert (said.code, len(said.lines)) == (1, 2)
    assert said.err.startswith("warning: 3 jobs of contracts had not ended")
    out = tmp_path / "out.parquet"
    assert trivet("batch", "export", NAME, "--out", str(out)).code == 1
    assert pq.read_table(out).num_rows == 2
    world.batch("loading", *specs(2), opened=False)
    said = trivet("batch", "export", "loading", "--out", str(out))
    assert said.code == 1
    assert "only a part of its requests" in said.err
    assert pq.read_table(out).num_rows == 0
    assert trivet("batch", "export", "nowhere").code == 2


def test_what_ends_meanwhile_is_not_run_after(world: World, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_jobs, "PAGE_JOBS", 2)
    world.batch(NAME, *specs(8))
    lease = world.lease()
    jobs = world.take(lease, world.dispatch(8))
    world.end(lease, jobs[:5])
    with Client(config) as client:
        stream = client.batch(NAME).ended()
        found = [next(stream).id]
        world.end(lease, jobs[5:])
        found += [result.id for result in stream]
    assert found == [job.id for job in jobs[:5]]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_broken_off_leaves_what_was_there(
    world: World, trivet: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    ended(world)
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "results"
    pages: Iterator[Callable[..., Any]] = iter([results.batch_page_upto])

    def page(*given: Any) -> Any:
        return next(pages)(*given)

    def interrupt(*_given: Any) -> Any:
        assert list(folder.glob("results.*.part")), "it is being written"
        raise KeyboardInterrupt

    for before in ([], [b"earlier\n"]):
        for content in before:
            out.write_bytes(content)
            out.chmod(0o640)
        pages = iter([results.batch_page_upto, results.batch_page_upto, interrupt])
        with monkeypatch.context() as patch:
            patch.setattr(results, "batch_page_upto", page)
            said = trivet("batch", "export", NAME, "--out", str(out), "--format", form)
        assert (said.code, said.out) == (130, "")
        assert f"{out} was not written" in said.err
        assert [path.read_bytes() for path in folder.iterdir()] == before
    assert trivet("batch", "export", NAME, "--out", str(out), "--format", form).code == 0
    assert list(folder.iterdir()) == [out]
    assert out.stat().st_mode & 0o777 == 0o640
    found = pq.read_table(out).num_rows if form == "parquet" else len(rows(out))
    assert found == 10


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_disk_without_room_is_said_to_have_none(world: World, trivet: Callable[..., Said], form: str) -> None:
    ended(world, 3)
    said = trivet("batch", "export", NAME, "--out", "/dev/full", "--format", form)
    assert (said.code, said.out) == (2, "")
    assert "/dev/full: cannot be written: " in said.err
    assert "No space left" in said.err
    assert trivet("batch", "export", NAME, "--out", "/nowhere/x", "--format", form).code == 2


def test_without_pyarrow_it_says_what_to_install(
    world: World, trivet: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(world, 1)
    assert "--out" in trivet("batch", "export", NAME, "--format", "parquet").err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = trivet("batch", "export", NAME, "--out", str(tmp_path / "out.parquet"))
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "trivet: --format parquet needs pyarrow, which is not installed here. pip install 'trivet[parquet]' installs it.\n"
    )
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("out.xlsx", (), "results are not written as .xlsx. Use out.jsonl, out.csv or out.parquet"),
        ("out.jsonl.gz", (), "Use out.jsonl, out.csv or out.parquet"),
        ("out.csv", ("--format", "jsonl"), "--out: out.csv: the ending means csv, and --format says jsonl."),
        ("out.jsonl", ("--format", "parquet"), "--out: out.jsonl: the ending means jsonl, and --format says parquet."),
        ("out.parquet", ("--format", "jsonl"), "--out: out.parquet: the ending means parquet"),
    ],
)
def test_a_file_is_called_what_it_holds(
    world: World, trivet: Callable[..., Said], tmp_path: Path, name: str, more: tuple[str, ...], words: str
) -> None:
    ended(world, 1)
    said = trivet("batch", "export", NAME, "--out", str(tmp_path / name), *more)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert not (tmp_path / name).exists()


def test_a_format_that_is_named_may_go_into_a_file_of_any_name(
    world: World, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    ended(world, 1)
    out = tmp_path / "out.txt"
    assert trivet("batch", "export", NAME, "--out", str(out), "--format", "jsonl").code == 0
    assert len(rows(out)) == 1


def test_pruned_results_are_lines_without_text(world: World, trivet: Callable[..., Said], tmp_path: Path) -> None:
    ended(world, 4)
    world.sql("DELETE FROM job_results WHERE job_id IN (SELECT id FROM jobs WHERE batch_seq <= 2)")
    out = tmp_path / "out.parquet"
    said = trivet("batch", "export", NAME, "--out", str(out))
    assert said.code == 0
    assert "2 of these results were pruned" in said.err
    found = pq.read_table(out).to_pylist()
    assert [(row["pruned"], row["text"], row["cost_usd"]) for row in found] == [
        *[(True, None, Decimal("0.01"))] * 2, *[(False, "hello", Decimal("0.01"))] * 2
    ]  # fmt: skip


def test_a_reader_that_goes_away_ends_it_quietly(world: World, config: Path) -> None:
    ended(world, 200, text="x" * 2_000)  # more than a pipe holds
    command = [sys.executable, "-m", "trivet", "--config", str(config), "batch", "export", NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["text"]
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == b""


# trivet bulk


def requests(path: Path, count: int) -> Path:
    lines = ({"prompt": f"document {n}", "key": f"{path.stem}/{n}", "model": "claude-sonnet-5-5", "max_tokens": 40} for n in range(count))  # fmt: skip
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_bulk_broken_off_while_it_takes_in_leaves_no_file_of_results(
    world: World, trivet: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = requests(tmp_path / "requests.jsonl", 450)
    monkeypatch.setattr(submitting, "GROUP_ROWS", dict.fromkeys(submitting.GROUP_ROWS, 200))
    taken: list[int] = []
    advance = batches.advance

    def interrupted(connection: Any, loading: Any, fingerprints: Any) -> Any:
        if taken:
            raise KeyboardInterrupt
        taken.append(len(fingerprints))
        return advance(connection, loading, fingerprints)

    before = set(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(batches, "advance", interrupted)
        said = trivet("bulk", str(file), "--name", "requests", "--out", str(tmp_path / "results.jsonl"))
    assert (said.code, said.out) == (130, "")
    assert "the same command takes in the rest" in said.err
    assert {path for path in tmp_path.iterdir() if path.suffix == ".jsonl" or ".part" in path.name} == {file}
    assert before <= set(tmp_path.iterdir())
    assert (world.progress("requests").taken, world.progress("requests").state) == (200, "loading")
    assert trivet("bulk", str(file), "--name", "requests", "--json").json["total"] == 450


@pytest.mark.parametrize("piped", [True, False])
def test_bulk_takes_standard_input_and_what_gzip_compressed(
    trivet: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piped: bool
) -> None:
    file = tmp_path / "requests.jsonl.gz"
    file.write_bytes(gzip.compress(requests(tmp_path / "requests.jsonl", 450).read_bytes()))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file.read_bytes())))
    said = trivet("bulk", "-" if piped else str(file), "--json").json
    assert (said["total"], said["requests"]) == (450, 450)
    assert re.fullmatch(f"{'stdin' if piped else 'requests'}-[0-9a-f]{{10}}", said["name"])


def test_bulk_asks_for_the_cache_where_it_is_told_to(world: World, trivet: Callable[..., Said], tmp_path: Path) -> None:
    for name, words, keys in (("plain", (), 0), ("cached", ("--cache",), 3), ("called", ("--no-cache",), 0)):
        assert trivet("bulk", str(requests(tmp_path / f"{name}.jsonl", 3)), *words).code == 0
        found = world.value("SELECT count(cache_key) FROM jobs WHERE key LIKE :key", key=f"{name}/%")
        assert (name, found) == (name, keys)
    said = trivet("bulk", str(tmp_path / "plain.jsonl"), "--with-request")
    assert (said.code, said.err) == (2, "trivet: --with-request: goes with --out FILE.\n")


def test_errors_in_standard_input_are_told_of_it(trivet: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"{]\n")))
    said = trivet("bulk", "-")
    assert said.code == 2
    assert said.err.startswith("trivet: standard input, line 1: is not JSON")


def test_bulk_refuses_an_unknown_ending_before_it_takes_anything_in(
    world: World, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    file = requests(tmp_path / "requests.jsonl", 3)
    said = trivet("bulk", str(file), "--out", str(tmp_path / "results.csv"))
    assert (said.code, said.out) == (2, "")
    assert (
        said.err
        == "trivet: --out: results.csv: a table is written of a batch that is done; while it runs, results are "
        "written as JSON Lines. Use results.jsonl, or `trivet bulk FILE --name NAME --wait` and then "
        "`trivet batch export NAME --out results.csv`.\n"
    )
    assert trivet("batch", "list", "--json").json == []


HELD = """
import os, sys
from trivet_tasks.requests import jsonl
gate, *sys.argv[1:] = sys.argv[1:]
check_file, read_file = jsonl.check_file, jsonl.read_file

def wait():
    os.read(int(gate), 1)

def held_check(*given, tell, **more):
    told = []
    def held(rows, share):
        tell(rows, share)
        told.append(rows)
        if len(told) == 2:  # a rate needs two
            wait()
    return check_file(*given, tell=held, **more)

def held_read(*given):
    for number, spec in enumerate(read_file(*given), start=1):
        if number == 2_500:
            wait()
        yield spec

jsonl.check_file, jsonl.read_file = held_check, held_read
from trivet.cli import main
main()
"""
"""The command line, which stops twice, in the middle of each pass over the file, until a byte comes."""


def test_bulk_says_rate_and_time_left_on_a_terminal_and_nothing_elsewhere(config: Path, tmp_path: Path) -> None:
    file = requests(tmp_path / "requests-of-a-batch-with-a-rather-long-name.jsonl", 3_000)
    words = ["--config", str(config), "bulk", str(file)]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    ours, theirs = pty.openpty()
    gate, opener = os.pipe()
    command = [sys.executable, "-c", HELD, str(gate), *words]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, stdin=theirs, env=environment, pass_fds=[gate]
    ) as process:
        os.close(theirs)
        os.close(gate)
        shown = ""
        for word in ("Checking", "Submitting"):

            def tells(out: str, word: str = word) -> bool:
                return any(" left" in frame for frame in _frames(out, word))

            shown += _read(ours, tells)
            os.write(opener, b"1")
        shown += _read(ours)
        assert process.wait(DEADLINE_S) == 0
    os.close(ours)
    os.close(opener)
    for word in ("Checking", "Submitting"):
        told = _frames(shown, word)
        assert max(map(len, told)) <= 80
        assert any(" jobs/s" in frame for frame in told), told
        assert any(frame.endswith(" left") for frame in told), told
        assert " 3,000/3,000 " in f"{told[-1]} ".replace("~", "")

    quiet = subprocess.run(
        [sys.executable, "-m", "trivet", *words, "--name", "again"],
        capture_output=True, check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    # nothing but that nobody takes the jobs
    assert [line for line in quiet.stderr.splitlines() if not line.startswith(b"warning: No ")] == []


def _frames(shown: str, word: str = "") -> list[str]:
    """The lines that were drawn, each as often as it was, without colours; those that begin with this word."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    frames = [frame.rstrip() for frame in re.split(r"[\r\n]+|\x1b\[[0-9;?]*[A-Zhl]", plain)]
    return [frame for frame in frames if frame.startswith(word)]


def _read(terminal: int, enough: Callable[[str], bool] = lambda _: False) -> str:
    """Return the terminal output until the caller has enough or the last process has closed the terminal."""
    shown, ends = b"", time.monotonic() + 2 * DEADLINE_S
    while not enough(shown.decode(errors="ignore")):
        assert time.monotonic() < ends, f"it does not get on: {shown[-2_000:]!r}"
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            piece = os.read(terminal, 65_536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    return shown.decode()
