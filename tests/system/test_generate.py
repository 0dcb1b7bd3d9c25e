"""`generate` in a stock Celery application: real prefork workers, a real Valkey, a real Trivet over the simulator."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from celery import chain, chord
from celery.events.state import State
from tests.celery_shop.bill import faults_of
from tests.celery_shop.kills import kills
from tests.celery_shop.losses import Losses
from tests.celery_shop.running import ROOT, Shop
from tests.databases import new_database, rows
from tests.processes import ServerProcess
from tests.timing import until

from trivet.celery.failures import JobFailed
from trivet.reply_function import ErrorReply
from trivet.testing import QUICK, RunningTrivet, running_trivet
from trivet_tasks.errors import InvalidRequest

pytestmark = pytest.mark.xdist_group("generate")
WAIT_S = 150.0
SECRET = "the secret words"
SECTIONS = {
    **QUICK,
    "worker": {"shutdown_grace_s": 1.0, "slots": 256},
    "leases": {"ttl_s": 5, "heartbeat_s": 0.5},
    "dispatch": {"interval_s": 0.1, "taken_within_s": 5},
    "classes.batch": {"max_rounds": 1},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop's broker and backend, for the whole module."""
    with Shop(tmp_path_factory.mktemp("shop"), visibility_s=5).running() as shop:
        yield shop


@pytest.fixture(scope="module", params=["postgres"])
def running(
    shop: Shop, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningTrivet]:
    """A Trivet that knows the shop."""
    sections = {**SECTIONS, **{f"celery_apps.{name}": {"broker_url": shop.broker_url} for name in ("shop", "pipeline")}}
    folder = tmp_path_factory.mktemp("trivet")
    with running_trivet(folder, store_url=new_database(request, "generate"), sections=sections) as trivet:
        shop.start(trivet.settings.source)
        yield trivet


@pytest.fixture
def trivet(running: RunningTrivet) -> Iterator[RunningTrivet]:
    """The running Trivet with every fault taken back."""
    running.reset()
    yield running
    running.reset()


@pytest.fixture(scope="module")
def tasks(shop: Shop) -> Iterator[ModuleType]:
    """The shop's application in this process."""
    module = shop.module()
    yield module
    module.app.close()


@pytest.fixture
def events(tasks: ModuleType, trivet: RunningTrivet) -> Iterator[State]:
    """View of a monitor of the shop, as Flower has it."""
    del trivet
    state = State()
    with tasks.app.connection_for_read() as connection:
        receiver = tasks.app.events.Receiver(connection, handlers={"*": state.event})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None}, daemon=True)
        thread.start()
        until(lambda: state.workers, "the worker's events", WAIT_S)
        yield state
        receiver.should_stop = True
        thread.join()


def test_a_chain_goes_on_when_the_job_has_ended(shop: Shop, tasks: ModuleType, events: State) -> None:
    save = tasks.save.s("chain")
    step = tasks.generate.s(prompt=f"{SECRET}: {{0}}", system=SECRET, **tasks.TERMS)
    result = chain(tasks.load.s(1), step, save).delay()
    assert result.get(timeout=WAIT_S) == "chain"
    assert result.parent.state == "SUCCESS"
    (line,) = shop.lines("chain")
    assert line == result.parent.get()
    seen = until(lambda: events.tasks.get(result.parent.id), "the task's events", WAIT_S)
    until(lambda: seen.state == "SUCCESS", "its success in the events", WAIT_S)
    assert (seen.name, seen.failed, seen.rejected) == ("trivet.generate", None, None)
    shown = json.dumps(seen.as_dict(), default=str)
    assert SECRET not in shown + shop.log
    assert line not in shown


def test_a_chord_of_many_completes_once_while_no_slot_waits(
    shop: Shop, trivet: RunningTrivet, tasks: ModuleType
) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        trivet.simulator.latency(provider, median_s=3, p95_s=4)
    header = [tasks.generate.s(prompt=f"part {number}", **tasks.TERMS) for number in range(200)]
    result = chord(header)(tasks.collect.s("chord"))
    until(lambda: trivet.simulator.counts()["in_flight"] >= 20, "calls of more tasks than there are slots", WAIT_S)
    assert result.get(timeout=WAIT_S) == 200
    assert shop.lines("chord") == ["200"]


def test_a_waiting_task_is_started_and_a_failed_one_calls_its_errback(
    shop: Shop, trivet: RunningTrivet, tasks: ModuleType
) -> None:
    with trivet.reply(lambda _: ErrorReply("context_too_long") if gate.wait(WAIT_S) else None, contains="too long"):
        gate = threading.Event()
        step = tasks.generate.s(prompt="too long", max_retries=3, **tasks.TERMS)
        last = chain(step.on_error(tasks.note_failure.s("errback")), tasks.save.s("never")).delay()
        result = last.parent
        until(lambda: result.state == "STARTED", "the state of a waiting task", WAIT_S)
        gate.set()
        with pytest.raises(JobFailed) as raised:
            last.get(timeout=WAIT_S)
    assert (raised.value.outcome, shop.lines("never")) == ("invalid", [])
    assert (result.state, trivet.client.job(raised.value.job_id).state) == ("FAILURE", "failed")
    until(lambda: shop.lines("errback") == ["JobFailed invalid"], "the errback", WAIT_S)
    assert len(trivet.client.job(raised.value.job_id).result().attempts) == 1


def test_a_bad_request_fails_once_and_names_the_field(trivet: RunningTrivet, shop: Shop, tasks: ModuleType) -> None:
    before = {job.id for job in trivet.client.jobs(limit=1_000)}
    result = tasks.generate.delay(prompt="x", model="claude-haiku-4-5", max_tokens=-1)
    with pytest.raises(InvalidRequest, match="max_tokens"):
        result.get(timeout=WAIT_S)
    assert {job.id for job in trivet.client.jobs(limit=1_000)} == before
    assert "Traceback" not in shop.log


def test_a_job_runs_again_where_that_makes_sense(trivet: RunningTrivet, tasks: ModuleType) -> None:
    with trivet.reply(ErrorReply("overloaded"), contains="busy model", times=3):
        result = tasks.generate.delay(prompt="busy model", max_retries=2, returns="result", **tasks.TERMS)
        answer = result.get(timeout=WAIT_S)
    assert answer["attempts"] > 1
    assert answer["text"]
    assert len(trivet.admin.jobs.life(answer["job"]).retries) >= 1


def test_a_message_that_comes_twice_makes_one_call_and_goes_on_once(
    shop: Shop, trivet: RunningTrivet, tasks: ModuleType
) -> None:
    step = tasks.generate.s(prompt="sent twice", returns="result", **tasks.TERMS).set(task_id="sent-twice")
    for _ in range(3):
        (step | tasks.save.s("twice")).delay()
        until(lambda: shop.lines("twice"), "the save", WAIT_S)
    after = tasks.load.delay(1).get(timeout=WAIT_S)
    assert after == "document 1"
    assert len(shop.lines("twice")) == 1
    assert len(trivet.client.job_by_key("celery:sent-twice").result().attempts) == 1


def test_map_is_one_batch_in_the_order_of_its_values(trivet: RunningTrivet, tasks: ModuleType, shop: Shop) -> None:
    with trivet.reply(lambda request: request.text.upper(), contains="topic of"):
        many = tasks.generate.map(prompt="topic of {0}", **tasks.TERMS)
        result = chain(tasks.load_all.s(30), many, tasks.collect.s("map")).delay()
        assert result.get(timeout=WAIT_S) == 30
        assert result.parent.get() == [f"TOPIC OF DOCUMENT {number}" for number in range(30)]
    assert trivet.client.batch(f"celery-{result.parent.id}").progress().total == 30
    pairs = tasks.generate.starmap([["a", "b"], ["c", "d"]], prompt="{1}{0}", **tasks.TERMS)
    with trivet.reply(lambda request: request.text):
        assert pairs.delay().get(timeout=WAIT_S) == ["ba", "dc"]
        halves = tasks.generate.chunks([["a"], ["b"], ["c"]], 2, prompt="{0}", **tasks.TERMS).delay()
        assert halves.get(timeout=WAIT_S) == [["a", "b"], ["c"]]


def test_a_map_that_comes_twice_is_filled_once_and_fails_never(
    shop: Shop, trivet: RunningTrivet, tasks: ModuleType
) -> None:
    """Both messages fill the batch at the same time: the slower one tries again, and finds it filled."""
    values = [f"value {number}" for number in range(3_000)]
    many = tasks.generate.map(values, prompt="shout {0}", **tasks.TERMS).set(task_id="map-twice")
    with trivet.reply(lambda request: request.text.upper(), contains="shout"):
        sent = [(many | tasks.collect.s("map-twice")).delay() for _ in range(2)]
        until(lambda: shop.lines("map-twice"), "the next task", WAIT_S)
    assert sent[0].parent.get(timeout=WAIT_S) == [f"SHOUT VALUE {number}" for number in range(3_000)]
    assert tasks.load.delay(1).get(timeout=WAIT_S) == "document 1"
    assert shop.lines("map-twice") == ["3000"]
    assert "BatchTaken" not in shop.log
    assert trivet.client.batch("celery-map-twice").progress().total == 3_000


def test_failed_requests_of_a_batch_raise_or_become_none(trivet: RunningTrivet, tasks: ModuleType) -> None:
    values = ["good", "bad", "good"]
    with trivet.reply(ErrorReply("context_too_long"), contains="bad"):
        with pytest.raises(JobFailed, match="1 of the 3 requests"):
            tasks.generate.map(values, prompt="{0}", **tasks.TERMS).delay().get(timeout=WAIT_S)
        answers = tasks.generate.map(values, prompt="{0}", failed="none", **tasks.TERMS).delay().get(timeout=WAIT_S)
    assert [answer is None for answer in answers] == [False, True, False]


def test_a_revoked_task_is_dropped_for_good(trivet: RunningTrivet, tasks: ModuleType) -> None:
    gate = threading.Event()
    with trivet.reply(
        lambda _: None if gate.wait(WAIT_S) else ErrorReply("overloaded"), contains="not wanted", timeout_s=WAIT_S
    ):
        result = tasks.generate.delay(prompt="not wanted", **tasks.TERMS)
        until(lambda: result.state == "STARTED", "the job", WAIT_S)
        tasks.app.control.revoke(result.id, reply=True)
        gate.set()
        until(lambda: result.state == "REVOKED", "the end of the task", WAIT_S)
    statement = "SELECT done FROM deliveries WHERE name = :name"
    until(lambda: rows(trivet.settings, statement, name=result.id)[0].done, "the delivery's end", WAIT_S)


def test_the_example_runs_a_folder(shop: Shop, trivet: RunningTrivet, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"document {number}")
    environment = {"PIPELINE_BROKER_URL": shop.broker_url, "PIPELINE_BACKEND_URL": shop.backend_url}
    environment |= {"TRIVET_CONFIG": trivet.settings.source, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = [sys.executable, "-m", "celery", "-A", "examples.celery_pipeline", "worker", "-P", "threads", "-c", "2"]
    worker += ["-Q", "pipeline", "-l", "INFO"]
    celery = ServerProcess(worker, tmp_path, env=environment)
    celery.start(lambda: " ready." in celery.log)
    try:
        script = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "celery_pipeline.py"), str(tmp_path)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    finally:
        celery.stop()
    assert (script.returncode, script.stderr) == (0, ""), celery.log
    assert script.stdout.splitlines() == [str(tmp_path / f"{number}.txt.summary") for number in range(3)]
    assert all((tmp_path / f"{number}.txt.summary").read_text() for number in range(3))
    assert "Traceback" not in celery.log


def test_killed_workers_of_both_sides_lose_nothing_and_pay_nothing_twice(
    shop: Shop, trivet: RunningTrivet, tasks: ModuleType
) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        trivet.simulator.latency(provider, median_s=1, p95_s=2)
    sent = [chain(*tasks.steps_of(number, f"killed-{number}", "killed")).delay() for number in range(60)]
    losses = Losses(shop, trivet, "killed", sent)
    with kills(shop, trivet, every_s=2) as killed:
        until(lambda: killed.total() >= 6, "six kills", WAIT_S)
    losses.send_again(tasks, WAIT_S)  # Celery on Redis loses what a worker has just taken when it is killed
    assert faults_of(trivet, "killed", 60) == []
