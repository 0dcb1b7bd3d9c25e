"""Flower of the user's own application, over a run of `generate`: `celery -A tests.celery_shop.app flower`."""

import json
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain
from tests.celery_shop.running import Shop
from tests.processes import ServerProcess, free_port, listens
from tests.timing import until

from trivet.reply_function import ErrorReply, ModelRequest
from trivet.testing import QUICK, RunningTrivet, running_trivet

pytestmark = [pytest.mark.timeout(280), pytest.mark.xdist_group("generate_flower")]
WAIT_S = 120.0
SECRET = "the words of the prompt"
ROUTES = 3


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop(tmp_path / "shop").running() as shop:
        yield shop


@pytest.fixture
def trivet(shop: Shop, tmp_path: Path) -> Iterator[RunningTrivet]:
    """A Trivet that knows the shop; each round of a job asks each route once, and there is one round."""
    sections = {**QUICK, "classes.batch": {"max_rounds": 1}, "celery_apps.shop": {"broker_url": shop.broker_url}}
    with running_trivet(tmp_path / "trivet", sections=sections) as trivet:
        shop.start(trivet.settings.source)
        yield trivet


@pytest.fixture
def flower(shop: Shop, trivet: RunningTrivet, tmp_path: Path) -> Iterator[str]:
    """The address of a stock Flower of the shop's application."""
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "tests.celery_shop.app", "flower", "--address=127.0.0.1"]
    environment = {**shop.environment, "TRIVET_CONFIG": trivet.settings.source, "FLOWER_UNAUTHENTICATED_API": "true"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = ServerProcess([*command, f"--port={port}"], tmp_path, env=environment)
    process.start(lambda: listens(port))
    yield f"http://127.0.0.1:{port}"
    process.stop()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
        return text


class _Fate:
    """Answers of the simulator by the word in the prompt; those that are to wait do so until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self._busy = 0

    def __call__(self, request: ModelRequest) -> ErrorReply | None:
        if "too long" in request.text:
            return ErrorReply("context_too_long")
        if "busy" in request.text and self._busy < ROUTES:
            self._busy += 1
            return ErrorReply("overloaded")
        if "at once" not in request.text:
            self.gate.wait(WAIT_S)
        return None


def test_it_shows_generate_tasks_with_their_states(shop: Shop, trivet: RunningTrivet, flower: str) -> None:
    tasks, fate = shop.module(), _Fate()

    def seen() -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = json.loads(get(f"{flower}/api/tasks"))
        return found

    until(lambda: tasks.load.delay(0) and seen(), "Flower to hear of a task", WAIT_S, pause_s=0.5)
    ends = {"at once": "SUCCESS", "too long": "FAILURE", "busy": "RETRY", "slow": "STARTED"}
    with trivet.reply(fate, contains=SECRET, timeout_s=WAIT_S):
        sent = {
            word: chain(
                tasks.load.s(number),
                tasks.generate.s(prompt=f"{SECRET}, {word}: {{0}}", max_retries=2, **tasks.TERMS),
                tasks.save.s(word),
            ).delay()
            for number, word in enumerate(ends)
        }
        ids = {result.parent.id: ends[word] for word, result in sent.items()}
        until(
            lambda: {task: seen().get(task, {}).get("state") for task in ids},
            f"the states {ends}",
            WAIT_S,
            fits=lambda states: states == ids,
            pause_s=0.2,
        )
        assert {seen()[task]["name"] for task in ids} == {"trivet.generate"}
        fate.gate.set()
        for word in ("at once", "busy", "slow"):
            assert sent[word].get(timeout=WAIT_S) == word
    final = {task: "FAILURE" if state == "FAILURE" else "SUCCESS" for task, state in ids.items()}
    until(
        lambda: {task: seen().get(task, {}).get("state") for task in ids},
        f"the states {final}",
        WAIT_S,
        fits=lambda states: states == final,
        pause_s=0.2,
    )
    assert "Flower" in get(f"{flower}/tasks")
    shown = get(f"{flower}/tasks/datatable?{_TABLE}")
    rows = json.loads(shown)["data"]
    assert {row["uuid"]: row["state"] for row in rows if row["name"] == "trivet.generate"} == final
    one = get(f"{flower}/task/{sent['slow'].parent.id}")
    assert "trivet.generate" in one
    assert SECRET not in shown + one + json.dumps(seen())
    tasks.app.close()


_TABLE = urllib.parse.urlencode(
    {
        "draw": 1,
        "start": 0,
        "length": 100,
        "search[value]": "",
        "order[0][column]": 0,
        "order[0][dir]": "asc",
        "columns[0][data]": "name",
    }
)
"""Query of Flower's page of tasks."""
