"""`trivet routes --watch`: in place on a terminal, clean at the end; impairments are shown, not raised."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from tests.databases import database_of, migrated
from tests.unit.cluster_statuses import BUSY

from trivet.admin import ClusterStatus
from trivet.cli.routes_watch import StatusWatch
from trivet_store.cluster import registry
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import SchemaMismatch, StoreUnavailable

DEADLINE_S = 30.0
IN, OUT = b"\x1b[?1049h", b"\x1b[?1049l"
"""The terminal's other screen, and back."""


def test_a_database_that_goes_away_is_shown_above_what_was_last_known() -> None:
    answers: list[ClusterStatus | Exception] = [
        StoreUnavailable("The database is away."),
        BUSY,
        StoreUnavailable("The database is away."),
    ]

    def read() -> ClusterStatus:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = StatusWatch(read)
    watch.look()
    assert [line.plain for line in watch.lines(80)] == ["The database is away."]
    assert json.loads(watch.as_json())["impairment"] == "The database is away."
    watch.look()
    shown = [line.plain for line in watch.lines(80)]
    assert "The database is away." not in shown
    assert any("bedrock-us-east-1" in line for line in shown)
    assert json.loads(watch.as_json())["impairment"] is None
    watch.look()
    shown = [line.plain for line in watch.lines(80)]
    assert shown[0] == "The database is away."
    assert shown[1].startswith("The status below was read ")
    assert any("bedrock-us-east-1" in line for line in shown)


def test_a_lasting_error_ends_the_watch() -> None:
    def read() -> ClusterStatus:
        raise SchemaMismatch("The schema is older.")

    with pytest.raises(SchemaMismatch):
        StatusWatch(read).look()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A Trivet whose database is there and whose shared state is not."""
    file = tmp_path / "trivet.toml"
    file.write_text('[redis]\nurl = "redis://127.0.0.1:1/0"\n[routes.anthropic]\nprovider = "anthropic"\n')
    settings = load_settings(file)
    migrated(settings.store_url)
    with database_of(settings) as store, store.write() as connection:
        registry.register(store, connection, settings.routes)
    return file


def command(config: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "trivet", "--config", str(config), "routes", "--watch", "--interval", "0.1", *more]


def test_on_a_terminal_it_draws_in_place_and_leaves_nothing_behind(config: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command(config), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**environment, "TERM": "xterm-256color"}, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    try:
        seen = read_until(ours, lambda out: out.count(b"every 0.1 s") >= 3)
        os.write(ours, b"\x03")  # Ctrl-C, as a person types it
        seen += read_until(ours, lambda out: OUT in out)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert (seen.count(IN), seen.count(OUT)) == (1, 1)
    assert seen.index(IN) < seen.index(b"every 0.1 s")
    assert b"\x1b[2J" not in seen, "clearing the screen for every picture flickers"
    assert seen.rstrip().endswith(OUT)
    assert b"127.0.0.1:1" in seen, "the impairment is shown in place"
    assert b"Traceback" not in seen


def read_until(fd: int, enough: object) -> bytes:
    assert callable(enough)
    out, ends = b"", time.monotonic() + DEADLINE_S
    while not enough(out):
        assert time.monotonic() < ends, out[-2_000:]
        if select.select([fd], [], [], 0.1)[0]:
            try:
                out += os.read(fd, 65_536)
            except OSError:  # the other side is gone
                break
    return out


@pytest.mark.parametrize("as_json", [False, True])
def test_elsewhere_it_prints_one_picture_after_the_other(config: Path, as_json: bool) -> None:
    process = subprocess.Popen(
        command(config, *(["--json"] if as_json else [])), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2 if as_json else 24)]
    finally:
        process.terminate()
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "Traceback" not in said
    if as_json:
        assert all("127.0.0.1:1" in json.loads(line)["impairment"] for line in lines)
        return
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("ROUTE") for line in lines) >= 2
