"""`on_done=`: callbacks to a stock Celery application of the user, with a broker and a worker of its own."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from celery import chain
from sqlalchemy import text
from tests.command_line import run_trivet
from tests.processes import ServerProcess
from tests.system import shop
from tests.timing import until

from trivet import Client
from trivet.local.embedded import EmbeddedValkey
from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_scheduler.delivering import LOOK_S
from trivet_store.database.engine import Store
from trivet_tasks.callbacks import Callback
from trivet_tasks.config.server_urls import socket_path
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import InvalidRequest

pytestmark = [pytest.mark.timeout(280), pytest.mark.xdist_group("callbacks")]

WAIT_S = 60.0
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
TICK: dict[str, Any] = {"task": "shop.tick", "args": [999], "immutable": True}


class Relay:
    """A Unix socket before another one, which can keep the answers back. A context manager."""

    def __init__(self, path: Path, to: Path) -> None:
        self.path = path
        self._to = to
        self._answers = threading.Event()
        self._answers.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self.held = threading.Event()
        """Set once an answer was kept back."""

    def hold(self) -> None:
        """Pass requests on, and no answers."""
        self.held.clear()
        self._answers.clear()

    def release(self) -> None:
        """Pass all on."""
        self._answers.set()

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                try:
                    far.connect(str(self._to))
                except OSError:
                    near.close()
                    far.close()
                    continue
                threading.Thread(target=self._pass, args=(near, far), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, self._answers), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, when: threading.Event | None = None) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65_536):
                if when is not None and not when.is_set():
                    self.held.set()
                    when.wait()
                target.sendall(data)


class Shop(NamedTuple):
    """The user's side: the broker, the way that Trivet has to it, and a file with what the tasks noted."""

    broker: EmbeddedValkey
    relay: Relay
    file: Path

    def lines(self) -> list[dict[str, Any]]:
        """Return what the tasks noted so far."""
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def noted(self, count: int = 1, **said: object) -> list[dict[str, Any]]:
        """Wait for so many notes with these values, and return them."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines() if said.items() <= line.items()]

        return until(found, f"{count} notes with {said}", WAIT_S, fits=lambda lines: len(lines) >= count)


@pytest.fixture(scope="module")
def shopping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    broker = EmbeddedValkey(folder / "broker")
    file = folder / "notes.jsonl"
    file.touch()
    place = socket_path(folder / "broker")
    env = {"SHOP_BROKER": f"redis+socket://{place}?virtual_host=5", "SHOP_FILE": str(file)}
    command = [str(Path(sys.executable).with_name("celery")), "-A", "tests.system.shop", "worker", "--pool", "solo"]
    worker = ServerProcess(
        [*command, "-Q", "celery,reports", "--without-gossip", "--without-mingle", "-l", "INFO"],
        folder,
        env={**env, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with broker, Relay(folder / "relay.sock", place) as relay:
        worker.start(lambda: "ready." in worker.log)
        yield Shop(broker, relay, file)
        worker.kill()


@pytest.fixture(scope="module")
def system(shopping: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    app = {"broker_url": f"redis+socket://{shopping.relay.path}?virtual_host=5"}
    with running_trivet(tmp_path_factory.mktemp("trivet"), sections={**QUICK, "celery_apps.shop": app}) as running:
        yield running


def sql(system: RunningTrivet, statement: str) -> None:
    store = Store.of(system.settings)
    with store.write() as connection:
        connection.execute(text(statement))
    store.close()


@pytest.mark.habit("link")
def test_a_job_a_batch_and_a_chain_call_back(system: RunningTrivet, shopping: Shop) -> None:
    terms = {**TERMS, "metadata": {"user_id": "u1"}, "key": "doc/1"}
    job = system.client.submit("one", **terms, on_done=shop.save.s("doc/1"))
    batch = system.client.submit_many(
        ({"prompt": f"of a batch {number}", **TERMS} for number in range(5)),
        name="five",
        on_done=shop.report.s(title="five are done"),
    )
    steps = chain(shop.save.s("doc/2"), shop.report.s(title="then"))
    chained = system.client.submit("two", **TERMS, on_done=steps)
    (of_job,) = shopping.noted(document="doc/1")
    assert of_job["queue"] == "celery"
    result = job.result(timeout=WAIT_S)
    assert of_job["notice"] == {
        "job": job.id,
        "batch": None,
        "key": "doc/1",
        "status": "succeeded",
        "outcome": None,
        "route": result.route,
        "cost_usd": f"{result.cost_usd:f}",
        "metadata": of_job["notice"]["metadata"],
    }
    (of_batch,) = shopping.noted(title="five are done")
    (said,) = run_trivet("--config", system.settings.source, "batch", "status", "five", "--json").json["callbacks"]
    assert (said["app"], said["task"], said["name"]) == ("shop", "shop.report", "shop.report")
    assert of_batch["queue"] == "reports", "as the application routes it"
    counts = {"total": 5, "succeeded": 5, "failed": 0, "expired": 0, "cancelled": 0}
    assert of_batch["notice"] == {"batch": batch.name, **counts, "cost_usd": of_batch["notice"]["cost_usd"]}
    assert shopping.noted(document="doc/2")[0]["notice"]["job"] == chained.id
    assert shopping.noted(title="then")[0]["notice"] == "doc/2", "the next step gets the result of the one before"
    # the same job again, and after it another: what was sent before the other's has arrived before it
    again = system.client.submit("one", **terms, on_done=shop.save.s("doc/1"))
    assert again.id == job.id
    system.client.submit("three", **TERMS, on_done=shop.tick.si(3))
    shopping.noted(number=3)
    assert len(shopping.noted(document="doc/1")) == 1
    assert len(shopping.noted(title="five are done")) == 1


def test_a_broker_that_is_away_gets_its_callbacks_later(system: RunningTrivet, shopping: Shop) -> None:
    shopping.broker.stop()
    job = system.client.submit("while it is away", **TERMS, on_done=shop.save.s("away"))
    assert job.result(timeout=WAIT_S).status == "succeeded", "jobs go on"
    (state,) = until(
        lambda: system.admin.health.callbacks(),
        "the outage to be seen",
        WAIT_S,
        fits=lambda found: found and found[0].error,
    )
    assert (state.app, state.due) == ("shop", 1)
    until(lambda: system.admin.health.callbacks()[0].failing_since, "the second failure", WAIT_S)
    command = ["--config", system.settings.source, "job", "show", job.id]
    (shown,) = run_trivet(*command, "--json").json["callbacks"]
    assert (shown["app"], shown["task"], shown["state"], shown["sends"]) == ("shop", "shop.save", "due", 0)
    assert shown["failures"] >= 2
    assert shown["error"].startswith("The broker ")
    assert " ".join(f"shop.save shop due 0 {shown['failures']}".split()) in " ".join(run_trivet(*command).out.split())
    shopping.broker.start()
    assert shopping.noted(document="away")[0]["notice"]["job"] == job.id
    (shown,) = until(lambda: run_trivet(*command, "--json").json["callbacks"], "it", fits=lambda all: all[0]["sends"])
    assert (shown["state"], shown["failures"], shown["error"]) == ("sent", 0, None)
    until(lambda: not system.admin.health.callbacks(), "the outage to be over", WAIT_S)


def test_a_scheduler_killed_between_sending_and_marking_sends_again(system: RunningTrivet, shopping: Shop) -> None:
    system.client.submit("before", **TERMS, on_done=shop.tick.si(1))
    shopping.noted(number=1)  # the scheduler has a connection now
    shopping.relay.hold()
    job = system.client.submit("killed", **TERMS, on_done=shop.save.s("killed"))
    shopping.noted(document="killed")
    assert shopping.relay.held.wait(WAIT_S), "the scheduler waits for the broker's answer"
    other = system.client.submit("meanwhile", **TERMS)
    assert other.result(timeout=WAIT_S).status == "succeeded", "a broker that hangs does not delay dispatch"
    pid = system.local.supervisor.pid("scheduler")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    system.local.start_part("scheduler-2", "scheduler")
    shopping.relay.release()
    sql(system, "UPDATE deliveries SET claimed_until = 1 WHERE claimed_until IS NOT NULL")  # time passes
    first, second = shopping.noted(2, document="killed")
    assert first["notice"] == second["notice"]
    assert first["notice"]["job"] == job.id
    assert first["task"] == second["task"], "the application can tell that they are the same"


def test_one_to_be_confirmed_may_come_before_it_is_marked(system: RunningTrivet, shopping: Shop) -> None:
    callback = Callback("tick", "shop", {"task": "shop.tick", "args": [7], "immutable": True}, confirmed=True)
    system.client.submit("to be confirmed", **TERMS, on_done=callback)
    shopping.noted(number=7)
    (state,) = until(system.admin.health.callbacks, "it to be marked", WAIT_S, fits=lambda found: found[0].unconfirmed)
    assert state.due == 0
    sql(system, "UPDATE deliveries SET due_at = 1 WHERE confirmed")
    shopping.noted(2, number=7)


def test_a_callback_is_sent_when_its_job_ends_and_not_at_the_next_look(system: RunningTrivet, shopping: Shop) -> None:
    begun = time.monotonic()
    for number in range(100, 108):
        system.client.submit(f"pushed {number}", **TERMS, on_done=shop.tick.si(number))
        shopping.noted(number=number)
    assert time.monotonic() - begun < 4 * LOOK_S, "each begins just after a look: without notices it is 8 times"


def test_an_application_that_is_added_to_the_file_is_served_after_sighup(system: RunningTrivet, shopping: Shop) -> None:
    config = Path(system.settings.source)
    text_of_it = config.read_text(encoding="utf-8")
    section = f'[celery_apps.annex]\nbroker_url = "redis+socket://{shopping.relay.path}?virtual_host=5"\n'
    config.write_text(f"{text_of_it}\n{section}", encoding="utf-8")
    with Client(settings=load_settings(config)) as client:
        client.submit("annex", **TERMS, on_done=Callback("tick", "annex", TICK)).result(timeout=WAIT_S)
        (due,) = [app.due for app in system.admin.health.callbacks() if app.app == "annex"]
        assert due == 1
        for name in ("scheduler", "scheduler-2"):
            pid = system.local.supervisor.pid(name)
            if pid is not None:
                os.kill(pid, signal.SIGHUP)
        shopping.noted(number=TICK["args"][0])
    until(lambda: not [app for app in system.admin.health.callbacks() if app.app == "annex"], "it to be marked", WAIT_S)
    logs = "".join(
        path.read_text(encoding="utf-8") for path in system.local.log_path("scheduler").parent.glob("sched*")
    )
    assert "counts from the next start on" not in logs


@pytest.mark.parametrize(
    ("on_done", "words"),
    [
        (Callback("x", "library", {"task": "library.lend"}), "Add [celery_apps.library] with broker_url to"),
        (lambda: None, "must be a Celery signature"),
        ({"task": "shop.save"}, "must be a Celery signature"),
        (shop.save.s({1, 2}), "argument 1 of the callback 'shop.save' cannot be written as JSON"),
        (chain(shop.save.s("a") | shop.save.s("b")) | shop.save.s(b""), "cannot be written as JSON"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_submit(system: RunningTrivet, on_done: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        system.client.submit("nothing", **TERMS, key="refused", on_done=on_done)
    assert words in str(refused.value)
    assert not [job for job in system.client.jobs() if job.key == "refused"]
