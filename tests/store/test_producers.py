"""Producers as processes of their own: at once, killed after the commit, killed in the middle, and begun again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import text
from tests.store.world import World

DEADLINE_S = 60.0
pytestmark = pytest.mark.timeout(240)  # each starts several processes, one after the other on a busy machine
TERMS = ("--model", "claude-sonnet-5-5", "--max-tokens", "40")
NAMED = ("--name", "documents")
SUBMIT = """
import os, signal, sys
from trivet.client.connections import Connections
from trivet import Client, KeyConflict

config, word, key, count, dies = sys.argv[1:]
with Client(config) as client:
    client.batches()  # everything is loaded and connected
    if dies == "dies":  # the reply is lost: it was committed, and nobody hears of it
        Connections.tell_work = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(count)):
        try:
            job = client.submit(word, key=f"{key} {number}", model="claude-sonnet-5-5", max_tokens=40)
            print(job.id, flush=True)
        except KeyConflict as error:
            print(f"conflict: {error}", flush=True)
"""


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    """A configuration over the database of the test, without a broker: producers need none."""
    path = tmp_path / "trivet.toml"
    url = json.dumps(world.store.url)
    path.write_text(
        f'[store]\nurl = {url}\n[redis]\nurl = "redis://127.0.0.1:1/0"\n[broker]\nurl = "redis://127.0.0.1:1/0"\n'
    )
    return path


class Producers:
    """Processes that wait for the word to go, and are ended with the test."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._all.append(process)
        return process

    def submit(self, config: Path, word: str, *, key: str, count: int = 1, dies: bool = False) -> subprocess.Popen[str]:
        return self.start("-c", SUBMIT, str(config), word, key, str(count), "dies" if dies else "lives")

    def end(self) -> None:
        for process in self._all:
            process.kill()
            process.communicate()


@pytest.fixture
def producers() -> Iterator[Producers]:
    """Makes producers, and ends those that are left."""
    started = Producers()
    yield started
    started.end()


def _stream(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def said(processes: Sequence[subprocess.Popen[str]]) -> list[list[str]]:
    """Let them go at once when all are ready; what each printed then."""
    for process in processes:
        assert _stream(process.stdout).readline() == "ready\n", _stream(process.stderr).read()
    for process in processes:
        _stream(process.stdin).write("go\n")
        _stream(process.stdin).flush()
    return [process.communicate(timeout=DEADLINE_S)[0].splitlines() for process in processes]


def test_the_same_key_from_processes_at_once_is_one_job(world: World, config: Path, producers: Producers) -> None:
    first, second, third = said([producers.submit(config, "hello", key="k", count=50) for _ in range(3)])
    assert first == second == third
    assert len(set(first)) == 50
    assert world.value("SELECT count(*) FROM jobs") == world.value("SELECT count(*) FROM job_requests") == 50


def test_of_two_requests_under_one_key_one_is_taken_and_the_other_told_both(
    world: World, config: Path, producers: Producers
) -> None:
    words = ["hello", "good bye"]
    both = said([producers.submit(config, word, key="k", count=30) for word in words])
    for number, lines in enumerate(zip(*both, strict=True)):
        (taken,) = [line for line in lines if not line.startswith("conflict")]
        (refused,) = [line for line in lines if line.startswith("conflict")]
        assert f"'k {number}'" in refused
        assert f"is taken by job {taken}, whose request is a different one" in refused
        assert "of request" not in refused
        assert not any(word in refused for word in words)
    assert world.value("SELECT count(*) FROM jobs") == 30


def test_a_submit_whose_reply_was_lost_is_sent_again_and_is_the_same_job(
    world: World, config: Path, producers: Producers
) -> None:
    dying = producers.submit(config, "hello", key="k", dies=True)
    assert said([dying]) == [[]], "it never heard"
    assert dying.returncode == -signal.SIGKILL
    (committed,) = world.sql("SELECT id, state FROM jobs")
    assert said([producers.submit(config, "hello", key="k")]) == [[committed.id]]
    assert world.states() == {"waiting": 1}
    ((conflict,),) = said([producers.submit(config, "good bye", key="k")])
    assert committed.id in conflict


def write_requests(path: Path, count: int) -> Path:
    """Every other request has a key; some lines are blank, which are no requests."""
    with path.open("w") as file:
        for number in range(count):
            row = {"prompt": f"document {number}", **({"key": f"doc/{number}"} if number % 2 == 0 else {})}
            file.write(json.dumps(row) + ("\n\n" if number % 100 == 0 else "\n"))
    return path


def kill_when_taken(world: World, process: subprocess.Popen[str], name: str, taken: int) -> int:
    """Kill it as soon as the batch has read that much, while it waits to write more. Returns how much was read."""
    lock = "" if world.store.sqlite else " FOR UPDATE"
    ends = time.monotonic() + DEADLINE_S
    while True:
        with world.store.write() as connection:
            row = connection.execute(
                text(f"SELECT taken FROM batches WHERE name = :n{lock}"), {"n": name}
            ).one_or_none()
            if row is not None and row.taken >= taken:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return int(row.taken)
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, "it does not get on"
        time.sleep(0.001)


def test_bulk_killed_in_the_middle_and_started_again_takes_the_rest_once(
    world: World, config: Path, producers: Producers, tmp_path: Path
) -> None:
    file = write_requests(tmp_path / "documents.jsonl", 10_000)
    command = ("-m", "trivet", "--config", str(config), "bulk", str(file), *NAMED, *TERMS, "--json")
    killed = kill_when_taken(world, producers.start(*command), "documents", 6_000)
    assert 6_000 <= killed < 10_000, "in the middle"
    progress = world.progress("documents")
    assert (progress.state, progress.total, progress.taken) == ("loading", killed, killed)
    assert world.dispatch(5) == [], "nothing of a part runs"

    out, err = producers.start(*command).communicate(timeout=DEADLINE_S)
    assert (json.loads(out)["total"], json.loads(out)["state"]) == (10_000, "open"), err
    progress = world.progress("documents")
    assert (progress.total, progress.taken, progress.waiting) == (10_000, 10_000, 10_000)
    bodies = Counter(bytes(row.body) for row in world.sql("SELECT body FROM job_requests"))
    assert len(bodies) == sum(bodies.values()) == 10_000, "every line once"
    assert world.value("SELECT count(*) FROM jobs") == 10_000
    assert len(world.dispatch(5)) == 5


def test_a_taken_key_stops_a_batch_at_that_request_and_not_before(
    world: World, config: Path, producers: Producers, tmp_path: Path
) -> None:
    ((taken,),) = said([producers.submit(config, "another", key="doc/250", count=1)])
    world.sql("UPDATE jobs SET key = 'doc/250' WHERE id = :id", id=taken)
    deduped = (*NAMED, "--dedupe", "tenant")
    file = write_requests(tmp_path / "documents.jsonl", 300)
    process = producers.start("-m", "trivet", "--config", str(config), "bulk", str(file), *deduped, *TERMS)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    words = " ".join(err.split())
    assert f"key: 'doc/250' of request 250 is taken by job {taken}, whose request is a different one." in words
    assert "Use another key, or send the same request." in words
    assert "holds the 250 requests before it and does not run" in words
    progress = world.progress("documents")
    assert (progress.state, progress.total) == ("incomplete", 250)
