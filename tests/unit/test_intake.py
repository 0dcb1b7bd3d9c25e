"""Messages that a worker accepts, and what it makes of their headers."""

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from tests.builders import MODEL

from trivet_store.events import Drop
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.messages import Chunk
from trivet_worker.process.intake import Intake
from trivet_worker.run.process_state import Drops

ROUTE = "bedrock-us-east-1"
QUEUE = f"{ROUTE}.batch"
TASK_ID = "0d9ff3d7-a1f5-4a1d-9a2a-0a7d3f3c5f5f"
CHUNK = Chunk(
    ROUTE, "bedrock", Latency.BATCH, MODEL, (DispatchedJob("a" * 32, 1, 10, 100), DispatchedJob("b" * 32, 1, 10, 100))
)
SERVED = {ROUTE: RouteSettings(provider="bedrock")}


def message(chunk: Chunk = CHUNK, *, embedded: dict[str, Any] | None = None, **headers: Any) -> Any:
    body = [chunk.to_args(), {}, embedded or {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return SimpleNamespace(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"task": f"trivet.run.{chunk.provider}", "id": TASK_ID, **headers},
        properties={"reply_to": "elsewhere", "priority": 9},
        delivery_info={"exchange": "", "routing_key": QUEUE},
        body=json.dumps(body),
    )


@pytest.fixture
def drops() -> Drops:
    return Drops()


@pytest.fixture
def intake(drops: Drops) -> Intake:
    return Intake(SERVED, Lane.BULK, {QUEUE: ROUTE}, drops)


def test_nothing_of_the_senders_headers_is_left(intake: Intake, drops: Drops) -> None:
    sent = message(
        eta="2031-01-01T00:00:00", expires="x", shadow="innocent", argsrepr="('a prompt',)", retries=9, timelimit=[1, 1]
    )
    assert intake.admits(sent)
    assert sent.headers["argsrepr"] == str(CHUNK)
    assert not {"eta", "expires", "shadow", "retries", "timelimit"} & set(sent.headers)
    assert sent.properties == {}
    assert not drops.unwritten()


@pytest.mark.parametrize("kind", ["callbacks", "errbacks", "chain", "chord"])
def test_a_message_that_brings_further_tasks_is_none_of_ours(intake: Intake, drops: Drops, kind: str) -> None:
    assert not intake.admits(message(embedded={kind: [{"task": "trivet.run.bedrock"}]}))
    assert drops.unwritten() == {(Drop.UNREADABLE, ROUTE): 1}


@pytest.mark.parametrize(
    ("chunk", "route"),
    [
        (Chunk("vertex", "bedrock", Latency.BATCH, MODEL, CHUNK.jobs), ""),
        (Chunk(ROUTE, "vertex", Latency.BATCH, MODEL, CHUNK.jobs), ROUTE),
        (Chunk(ROUTE, "bedrock", Latency.REALTIME, MODEL, CHUNK.jobs), ROUTE),
    ],
    ids=["route", "provider", "lane"],
)
def test_what_does_not_belong_here_is_counted_by_its_jobs(
    intake: Intake, drops: Drops, chunk: Chunk, route: str
) -> None:
    assert not intake.admits(message(chunk))
    assert drops.unwritten() == {(Drop.FORGED, route): 2}


@pytest.mark.parametrize("queue", [None, "a queue of the sender's", ["x"], {}])
def test_counters_are_few_whatever_a_message_says(intake: Intake, drops: Drops, queue: object) -> None:
    sent = message(id="no id")
    sent.delivery_info = {"routing_key": queue}
    assert not intake.admits(sent)
    assert drops.unwritten() == {(Drop.UNREADABLE, ""): 1}


def test_the_log_says_one_line_a_minute_for_each_kind(drops: Drops, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        drops.note(Drop.FORGED, ROUTE, "a message lies.")
        drops.note(Drop.UNREADABLE, "", "no message.")
    assert [record.getMessage() for record in caplog.records] == [
        f"dropped, forged on {ROUTE}: a message lies.",
        "dropped, unreadable: no message.",
    ]
    assert all(record.levelno == logging.ERROR for record in caplog.records)
    assert drops.unwritten() == {(Drop.FORGED, ROUTE): 50, (Drop.UNREADABLE, ""): 50}


def test_what_was_written_is_not_written_again(drops: Drops) -> None:
    drops.note(Drop.FORGED, ROUTE, "it lies.", 3)
    counts = drops.unwritten()
    drops.note(Drop.FORGED, ROUTE, "it lies.")
    drops.written(counts)
    assert drops.unwritten() == {(Drop.FORGED, ROUTE): 1}
