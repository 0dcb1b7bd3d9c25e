"""Output of every command of Celery's that a person may type at a running Trivet."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.bin.celery import celery as celery_command
from tests.celery_command import Celery, command
from tests.processes import free_port
from tests.timing import PATIENCE_S, until

from trivet.celery.application import TrivetApp
from trivet.celery.commands import INSTEAD, adapt_command
from trivet.testing import RunningTrivet
from trivet_worker.process.consumer_steps import INSTEAD as OF_WORKERS

WORKERS = 2
ONE_DATABASE = pytest.mark.parametrize("running", ["sqlite"], indirect=True)
"""The database is not what these tests are about."""


@contextlib.contextmanager
def process(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a process that ends with the block."""
    with subprocess.Popen(
        command(*arguments), cwd=folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as started:  # fmt: skip
        try:
            yield started
        finally:
            started.kill()


def of_both(celery: Celery, *arguments: str) -> str:
    """Return the output once both workers answered."""
    said = until(
        lambda: celery(*arguments), "both workers to answer", fits=lambda one: one.stdout.count("-> ") >= WORKERS
    )
    assert said.exit_code == 0, said.stderr
    assert "Traceback" not in said.stdout + said.stderr
    return said.stdout


@ONE_DATABASE
@pytest.mark.parametrize(
    ("inspected", "shows"),
    [
        ("reserved", "- empty -"),
        ("scheduled", "- empty -"),
        ("revoked", "- empty -"),
        ("clock", '"clock": '),
        ("ping", "pong"),
        ("memsample", "MB"),
        ("conf", '"task_acks_late": false'),
        ("report", "task_acks_late: False"),
        ("objgraph", "objgraph was refused: it writes files"),
    ],
)
def test_inspection_shows(celery: Celery, inspected: str, shows: str) -> None:
    assert of_both(celery, "inspect", inspected).count(shows) >= WORKERS


@ONE_DATABASE
@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        ("pool_grow 2", OF_WORKERS["pool_grow"]),
        ("autoscale 10 1", OF_WORKERS["autoscale"]),
        ("rate_limit trivet.run.anthropic 1/m", "`trivet route limit NAME`"),
        ("time_limit trivet.run.anthropic 1 1", "attempt_timeout_s"),
        ("add_consumer more", "`trivet route restore NAME`"),
        ("cancel_consumer anthropic.batch", "`trivet route drain NAME`"),
        ("shutdown", "SIGTERM"),
        ("enable_events", "workers always send their events"),
    ],
)
def test_control_names_trivets_way(celery: Celery, arguments: str, instead: str) -> None:
    said = of_both(celery, "control", *arguments.split())
    assert said.count(f"{arguments.split()[0]} was refused: ") == WORKERS
    assert instead in said


@ONE_DATABASE
def test_query_task_finds_jobs_and_revoke_tells_what_is_none(system: RunningTrivet, celery: Celery) -> None:
    batch = system.client.submit_many([{"prompt": "later"}], model="claude-haiku-4-5", max_tokens=9, not_before=3_600.0)
    (job_id,) = batch.job_ids()
    state, about = json.loads(celery("inspect", "query_task", job_id, "--json").stdout)["trivet"][job_id]
    assert (state, about["state"], about["batch"]) == ("scheduled", "delayed", batch.name)
    message = "45c58238-0561-4e1c-8bec-5855a0f2392e"
    assert of_both(celery, "inspect", "query_task", message).count("{}") == WORKERS
    assert "`trivet job cancel ID`" in celery("control", "revoke", message).stdout
    assert f"`trivet batch cancel {batch.name}` stops it" in celery("control", "revoke", batch.name).stdout
    assert f"job {job_id} cancelled" in celery("control", "terminate", "KILL", job_id).stdout
    assert '"ready"' in celery("inspect", "query_task", job_id).stdout


@ONE_DATABASE
def test_the_queues_of_routes_are_listed_and_a_graph_is_drawn(system: RunningTrivet, celery: Celery) -> None:
    listed = celery("list", "bindings")
    assert listed.exit_code == 0, listed.stderr
    assert {line.split()[0] for line in listed.stdout.splitlines()[2:]} >= {
        f"{route}.{latency}" for route in system.settings.routes for latency in ("realtime", "batch", "deferred")
    }
    assert "trivet.default" not in listed.stdout
    graph = celery("graph", "workers")
    assert (graph.exit_code, "digraph" in graph.stdout) == (0, True), graph.stderr


@ONE_DATABASE
@pytest.mark.habit("events")
def test_events_are_dumped_without_prompts(system: RunningTrivet, app: TrivetApp, tmp_path: Path) -> None:
    prompt = "words of a prompt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIVET_CONFIG", app.trivet_settings.source)
        with process(tmp_path, "events", "--dump") as dump:
            assert dump.stdout is not None
            seen: list[str] = []
            for line in dump.stdout:
                seen.append(line)
                if "heartbeat" in line and not any("submitted" in one for one in seen):
                    job = system.client.submit(prompt, model="claude-haiku-4-5", max_tokens=20)
                    seen.append(f"submitted {job.id}")
                if "task succeeded" in line:
                    break
    said = "".join(seen)
    assert "args=(route=" in said
    assert prompt not in said


@pytest.fixture
def adapted(app: TrivetApp, celery: Celery, monkeypatch: pytest.MonkeyPatch) -> Celery:
    """Runs commands as in the process of the `celery` command; the test's own are as before afterwards."""
    for each in celery_command.commands.values():
        monkeypatch.setattr(each, "callback", each.callback)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    adapt_command(app.trivet_broker_url)
    return celery


@ONE_DATABASE
@pytest.mark.parametrize(
    "typed", ["purge -f -Q anthropic.batch", "purge", "migrate redis://one redis://two", "multi start w1"]
)
def test_commands_that_would_act_on_messages_name_trivets(adapted: Celery, typed: str) -> None:
    name = typed.split()[0]
    said = adapted(*typed.split())
    assert said.exit_code == 2
    assert f"celery {name} does nothing here. {INSTEAD[name]}" in said.stderr


@ONE_DATABASE
def test_errors_are_sentences(system: RunningTrivet, adapted: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    system.simulator.fault("anthropic", "context_too_long")
    failed = system.client.submit("too long", model="claude-haiku-4-5", max_tokens=20)
    for typed, sentence in (
        (("result", "nobody"), "No job has the id 'nobody'"),
        (("result", failed.id), "prompt is too long"),
        (("result", "--task", "any", failed.id), "leave `--task` out"),
    ):
        error = adapted(*typed).exception
        assert error is not None
        sys.excepthook(type(error), error, error.__traceback__)
        said = capsys.readouterr().err
        assert said.startswith("Error: ")
        assert sentence in said
        assert "Traceback" not in said


def test_a_broker_that_is_away_and_a_report_show_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = tmp_path / "trivet.toml"
    away.write_text(
        f'[broker]\nurl = "redis://me:s3cret@127.0.0.1:{free_port()}"\n[routes.a]\nprovider = "anthropic"\n'
    )
    monkeypatch.setenv("TRIVET_CONFIG", str(away))
    with process(tmp_path, "list", "bindings") as listing, process(tmp_path, "report") as report:
        _, err = listing.communicate(timeout=PATIENCE_S)
        assert (listing.returncode, err.startswith("Error: The broker redis://me:***@127.0.0.1:")) == (1, True), err
        out, err = report.communicate(timeout=PATIENCE_S)
    assert report.returncode == 0, err
    assert "results:trivet" in out
    assert "broker_url: 'redis://me:" in out
    assert "s3cret" not in out
