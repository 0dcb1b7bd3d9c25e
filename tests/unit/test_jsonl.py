"""A file of requests: checked whole, then read again; what errors say."""

import gzip
import io
import os
import sqlite3
import tempfile
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests import jsonl, sources
from trivet_tasks.requests.jsonl import check_file, read_file

NOW = 1_800_000_000.0
SETTINGS = Settings()
DEFAULTS = {"model": "claude-sonnet-5-5", "max_tokens": 100}
SECRET = "SECRET words of a prompt"


def row(text: str = "Hello", **fields: Any) -> bytes:
    return orjson.dumps({"prompt": text, **fields}) + b"\n"


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def check(path: Path, **how: Any) -> jsonl.FileCheck:
    return check_file(path, SETTINGS, DEFAULTS, now=NOW, **how)


def refused(path: Path, **how: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check(path, **how)
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "contracts.jsonl"


def test_rows_come_in_their_order(file: Path) -> None:
    write(file, *(row(key=f"k{number}", deadline=60) for number in range(1_000)))
    found = check(file)
    assert (found.rows, found.bad, found.problems, found.repeated) == (1_000, 0, (), 0)
    jobs = list(read_file(found, SETTINGS, DEFAULTS))
    assert [job.key for job in jobs] == [f"k{number}" for number in range(1_000)]
    assert {job.deadline_at for job in jobs} == {NOW + 60}


def test_each_job_is_handed_on_once_as_it_is_checked(file: Path) -> None:
    write(file, row(key="a"), row("Other"), row(key="a"), b"{}\n", row(key="b"), row(key="b"))
    given: list[tuple[str | None, int]] = []
    found = check(file, skip_bad=True, each=lambda job, line: given.append((job.key, line)))
    assert given == [("a", 1), (None, 2), ("b", 5)]
    assert (found.rows, found.repeated, found.bad) == (5, 2, 1)


def test_the_broken_line_is_named(file: Path) -> None:
    lines = [row() for _ in range(1_000)]
    lines[730] = b'{"messages": []}\n'
    error = refused(write(file, *lines))
    assert error.message == f"{file}, line 731: messages: must not be empty."
    assert [(one.where, one.message) for one in error.problems] == [("line 731", "messages: must not be empty.")]
    assert "--skip-bad" in error.hint


def test_bad_lines_are_left_out_when_asked(file: Path) -> None:
    write(file, row(key="a"), b"{]\n", row(key="b"), b'{"messages": []}\n', row(key="c"))
    found = check(file, skip_bad=True)
    assert (found.rows, found.bad) == (3, 2)
    assert [one.where for one in found.problems] == ["line 2", "line 4"]
    assert [job.key for job in read_file(found, SETTINGS, DEFAULTS)] == ["a", "b", "c"]


def test_problems_are_all_counted_and_some_kept(file: Path) -> None:
    write(file, *[b"{}\n"] * 50)
    error = refused(file)
    assert len(error.problems) == 20
    assert error.message.count("\n") == 20
    assert error.message.endswith("30 more bad lines.")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "a"', "line 2: is not JSON: "),
        (b'{"prompt": SECRET}', "at character 12 of the line"),
        (b'{"prompt" "b"}', "is not JSON: unexpected character, expected ':' after key at character 11 of the line."),
        (b'{"prompt": NaN}', "line 2: prompt: must be a string, is nan"),
        (b'{"prompt": "a", "max_tokens": Infinity}', "line 2: max_tokens: "),
        (
            b'{"prompt": "a", "metadata": {"x": [-Infinity]}}',
            "line 2: metadata.x[0]: must be a finite number, is -inf.",
        ),
        (b'{"prompt": "a", "metadata": {"x": 1e999}}', "line 2: metadata.x: must be a finite number, is inf."),
        (
            b'{"prompt": "a", "metadata": {"x": 18446744073709551616}}',
            "line 2: metadata.x: is a whole number of more than 64",
        ),
        (
            b'{"prompt": "a", "metadata": {"x": -9223372036854775809}}',
            "line 2: metadata.x: is a whole number of more than 64",
        ),
        (
            b'{"prompt": "a", "metadata": {"x": ' + b"9" * 9_000 + b"}}",
            "line 2: metadata.x: is a whole number of more than 64",
        ),
        (b'{"prompt": "a", "prompt": "b"}', "line 2: prompt: is given twice."),
        (b'{"prompt": "a", "metadata": {"x": [1, {"y": 1, "y": 1}]}}', "line 2: metadata.x[1].y: is given twice."),
        (b'{"prompt": "a \\"b\\" :", "key" : "x", "key": "y"}', "line 2: key: is given twice."),
        (b'{"prompt": "a", "k\\u0065y": "x", "key": "y"}', "line 2: key: is given twice."),
        (b'{"prompt": "a", "key": "\\ud800"}', "line 2: key: "),
        (b'{"prompt": "a", "metadata": {"\\udfff": 1}}', "line 2: metadata: holds a key that is not a string"),
        (b'{"prompt": "\xff"}', "line 2: is not UTF-8 text (byte 13 of the line)"),
        (b'{"prompt": "\\ud800"}', "line 2: messages[0].content: holds a lone surrogate"),
        (b"[" * 5_000, "is not JSON"),
        (b"[", "One request a line"),
        (b"[1, 2]", "must be an object with messages, model and max_tokens, is a list"),
        (b'"text"', "must be an object"),
        (b"null", "must be an object"),
        (b'{"prompt": "a", "latency": "realtme"}', "line 2: latency: "),
        (b'{"prompt": "a", "max_tokens": -1}', "line 2: max_tokens: "),
        (b'{"prompt": "a", "metadata": {"x": ' + b"[" * 300 + b"]" * 300 + b"}}", "levels deep"),
    ],
)
def test_every_kind_of_bad_line(file: Path, line: bytes, says: str) -> None:
    error = refused(write(file, row(), line + b"\n", row()))
    assert says in error.message
    assert "SECRET" not in str(error)
    assert len(error.problems) == 1


def test_mark_blank_lines_and_windows_line_ends(file: Path) -> None:
    write(
        file, b"\xef\xbb\xbf" + row(key="a"), b"\r\n", b"   \n", row(key="b").rstrip() + b"\r\n", row(key="c").rstrip()
    )
    found = check(file)
    assert [job.key for job in read_file(found, SETTINGS, DEFAULTS)] == ["a", "b", "c"]
    write(file, b"\n", b"\n", b"x\n")
    assert "line 3" in str(refused(file))


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n \n"])
def test_a_file_without_requests(file: Path, content: bytes) -> None:
    assert "holds no request" in str(refused(write(file, content)))


def test_a_file_of_bad_lines_only(file: Path) -> None:
    error = refused(write(file, b"{}\n"), skip_bad=True)
    assert "none of its 1 lines" in str(error)
    assert error.problems


def test_a_key_with_two_requests(file: Path) -> None:
    write(file, row("one", key="a"), row("two", key="a"), row("one", key="b"))
    assert "line 2: key: an earlier line has the same key" in str(refused(file))
    found = check(file, skip_bad=True)
    assert (found.rows, found.bad) == (2, 1)
    assert [job.key for job in read_file(found, SETTINGS, DEFAULTS)] == ["a", "b"]


def test_a_key_names_a_line_of_the_file_and_with_dedupe_belongs_to_its_tenant(file: Path) -> None:
    write(file, row("one", key="a", tenant="x"), row("two", key="a", tenant="y"), row("three", key="a"))
    assert "line 2: key: an earlier line has the same key" in str(refused(file))
    found = check(file, dedupe=True)
    assert (found.rows, found.repeated, len(list(read_file(found, SETTINGS, DEFAULTS)))) == (3, 0, 3)
    write(file, row("one", key="a", tenant="x"), row("two", key="a", tenant="x"))
    assert "line 2: key: an earlier line has the same key" in str(refused(file, dedupe=True))


def test_the_digest_is_of_the_text_whatever_the_file_is_called(tmp_path: Path) -> None:
    lines = [row(f"Text {number}") for number in range(50)]
    plain = check(write(tmp_path / "a.jsonl", *lines)).digest
    assert check(write(tmp_path / "b.jsonl.gz", gzip.compress(b"".join(lines)))).digest == plain
    assert check(write(tmp_path / "c.jsonl", *lines, b'{"prompt": "one more"}')).digest != plain
    assert check(write(tmp_path / "d.jsonl", *lines[::-1])).digest != plain


def test_a_repeated_row_is_counted_and_left_in(file: Path) -> None:
    found = check(write(file, row(key="a"), row(key="a"), row(), row()))
    assert (found.rows, found.repeated, found.bad) == (4, 1, 0)


def test_a_change_between_the_passes_is_told_before_the_first_row(file: Path) -> None:
    found = check(write(file, row(), row()))
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(InvalidRequest, match="changed"):
        next(read_file(found, SETTINGS, DEFAULTS))


def test_a_change_while_it_is_read_is_told(file: Path) -> None:
    rows = read_file(check(write(file, row(), row())), SETTINGS, DEFAULTS)
    next(rows)
    with file.open("ab") as more:
        more.write(row())
    with pytest.raises(InvalidRequest, match="changed"):
        list(rows)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert str(refused(tmp_path / "none.jsonl")).endswith("none.jsonl: no such file.")
    assert "is a folder" in str(refused(tmp_path))
    assert "cannot be read" in str(refused(Path("a\0b")))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in str(refused(pipe))


def test_a_file_that_vanished(file: Path) -> None:
    found = check(write(file, row()))
    file.unlink()
    with pytest.raises(InvalidRequest, match="no such file"):
        next(read_file(found, SETTINGS, DEFAULTS))


def test_a_line_that_is_too_long_is_told_its_size_and_passed_over(file: Path) -> None:
    write(file, row("x" * (40 * 1024**2)), row(key="after"))
    tracemalloc.start()
    try:
        found = check(file, skip_bad=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.problems[0].where == "line 1"
    assert found.problems[0].message == "request: has 40.0 MB; the Messages API takes at most 32 MB."
    assert [job.key for job in read_file(found, SETTINGS, DEFAULTS)] == ["after"]
    assert peak < 2.5 * jsonl.MAX_LINE_BYTES


def peak_of_reading(file: Path) -> int:
    """Bytes held at most while a file is checked and read."""
    tracemalloc.start()
    try:
        for _ in read_file(check(file), SETTINGS, DEFAULTS):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_file(file: Path) -> None:
    write(file, *[row("x" * 10_000)] * 3_000)
    assert peak_of_reading(file) < 2_000_000


def test_keys_are_not_held_in_memory(file: Path) -> None:
    write(file, *[row(key=f"document/{number}") for number in range(3_000)])
    assert peak_of_reading(file) < 200_000  # a dict took 400,000


def test_a_folder_for_temporary_files_without_room_is_said_to_have_none(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file, *[row(key=f"document/{number}") for number in range(2_000)])
    monkeypatch.setattr(jsonl, "CACHE_KIB", 0)
    connect = sqlite3.connect

    def small(*given: Any, **how: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*given, **how)
        database.execute("PRAGMA max_page_count = 4")
        return database

    monkeypatch.setattr(sqlite3, "connect", small)
    error = refused(file)
    assert "cannot be kept in a temporary file: database or disk is full. Let TMPDIR name a folder" in str(error)


def test_the_check_says_how_far_it_is(file: Path) -> None:
    write(file, *[row()] * 1_000)
    told: list[tuple[int, float]] = []
    check(file, tell=lambda rows, share: told.append((rows, share)))
    assert [rows for rows, _ in told] == [199, 399, 599, 799, 999]
    assert [share for _, share in told] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(
    st.binary(max_size=30) | st.sampled_from([row(), row(SECRET, latency=SECRET), b'{"prompt": "%b' % SECRET.encode()])
    | st.sampled_from([b"\n", b"\r\n", b"\xff\xfe", b"{}", b"[]", b"\x00"]),
    max_size=6,
))  # fmt: skip
def test_no_bytes_break_it(file: Path, pieces: list[bytes]) -> None:
    write(file, *pieces)
    error: InvalidRequest | None = None
    try:
        found = check(file, skip_bad=True)
    except InvalidRequest as caught:
        error = caught
    if error is not None:
        assert SECRET not in str(error)
        assert not any(SECRET in str(one) for one in error.problems)
    else:
        assert len(list(read_file(found, SETTINGS, DEFAULTS))) == found.rows
        assert not any(SECRET in str(one) for one in found.problems)


BATCH_LINE = {
    "custom_id": "page-1",
    "params": {"model": "claude-haiku-4-5", "max_tokens": 30, "messages": [{"role": "user", "content": "Hello"}]},
}


def test_a_line_of_anthropics_batches_is_taken_as_it_is(file: Path) -> None:
    lines = [BATCH_LINE, {**BATCH_LINE, "custom_id": "page-2", "latency": "async"}, {"params": BATCH_LINE["params"]}]
    found = check(write(file, *(orjson.dumps(line) + b"\n" for line in lines), row("Hello", model="claude-haiku-4-5")))
    first, second, third, plain = read_file(found, SETTINGS, DEFAULTS)
    assert [job.key for job in (first, second, third)] == ["page-1", "page-2", None]
    assert (first.model, first.max_tokens, first.latency, second.latency) == ("claude-haiku-4-5", 30, "batch", "async")
    assert (plain.body, plain.max_tokens) != (first.body, first.max_tokens)
    assert plain.body == first.body.replace(b'"max_tokens":30', b'"max_tokens":100')


def test_a_custom_id_with_two_requests_is_a_problem_of_the_later_line(file: Path) -> None:
    other = {**BATCH_LINE, "params": {**BATCH_LINE["params"], "max_tokens": 31}}  # type: ignore[dict-item]
    error = refused(write(file, *(orjson.dumps(line) + b"\n" for line in (BATCH_LINE, BATCH_LINE, other))))
    assert "line 3: key: an earlier line has the same key with a different request." in error.message


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl"])
def test_what_gzip_compressed_is_read_whatever_it_is_called(tmp_path: Path, ending: str) -> None:
    lines = b"".join(row(f"Text {number}", key=f"k{number}") for number in range(500))
    file = write(tmp_path / f"contracts{ending}", gzip.compress(lines[:9_000]), gzip.compress(lines[9_000:]))
    shares: list[float] = []
    found = check(file, tell=lambda _rows, share: shares.append(share))
    assert [job.key for job in read_file(found, SETTINGS, DEFAULTS)] == [f"k{number}" for number in range(500)]
    assert shares
    assert all(0 < share <= 1 for share in shares)


@pytest.mark.parametrize("content", [gzip.compress(row() * 900)[:-20], b"\x1f\x8bnot really"], ids=["cut", "no gzip"])
def test_a_damaged_gzip_file_is_told(file: Path, content: bytes) -> None:
    error = refused(write(file, content))
    assert error.message == f"{file}: is compressed with gzip, and cut off or damaged."
    assert "gzip --test" in error.hint


def test_standard_input_and_pipes_are_read_twice_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lines = gzip.compress(row(key="a") + b"{]\n" + row(key="b"))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[lines])
    for path, called in ((Path("-"), "standard input"), (pipe, str(pipe))):
        if path == pipe:
            writer.start()
        with sources.readable_twice(path) as (readable, name):
            assert name == called
            found = check(readable, skip_bad=True, name=name)
            assert [job.key for job in read_file(found, SETTINGS, DEFAULTS)] == ["a", "b"]
            assert refused(readable, name=name).message.startswith(f"{called}, line 2: is not JSON")
    writer.join()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_file_is_read_where_it_is(file: Path) -> None:
    with sources.readable_twice(file) as found:
        assert found == (file, str(file))


def test_a_bad_line_of_a_folder_is_named_with_its_file_and_its_line_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(row(key="a") + b"\n" + row(key="b").rstrip(b"\n"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"{]\n" + row(key="a", text="another") + row(key="c")))
    (tmp_path / "c.jsonl").write_bytes(b"")
    (tmp_path / "d.jsonl").write_bytes(row(key="d") + b"[]")
    with sources.readable_twice(tmp_path) as (readable, name):
        assert name == str(tmp_path / "*.jsonl")
        error = refused(readable, name=name)
        found = check(readable, skip_bad=True, name=name)
        assert [job.key for job in read_file(found, SETTINGS, DEFAULTS)] == ["a", "b", "c", "d"]
    places = [f"{tmp_path}/b.jsonl.gz, line 1", f"{tmp_path}/b.jsonl.gz, line 2", f"{tmp_path}/d.jsonl, line 2"]
    assert [problem.where for problem in error.problems] == places
    said = error.message.splitlines()
    assert all(line.startswith(f"{place}: ") for line, place in zip(said, places, strict=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(row())[:-9], "is compressed with gzip, and cut off or damaged"),
        (None, "cannot be read: Permission denied"),
    ],
    ids=["cut", "forbidden"],
)
def test_the_file_of_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "Hello"}\n', encoding="utf-8")
    bad = tmp_path / "b.jsonl.gz"
    bad.write_bytes(content or b"")
    if content is None:  # root may read everything
        usual = Path.open

        def denied(self: Path, *how: Any, **options: Any) -> Any:
            if self == bad:
                raise PermissionError(13, "Permission denied")
            return usual(self, *how, **options)

        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InvalidRequest, match=f"b.jsonl.gz: {words}"), sources.readable_twice(tmp_path):
        pass
