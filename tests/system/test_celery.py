"""A Celery user's doors: the `celery` command, `AsyncResult` and `GroupResult`, against a running Trivet."""

from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult, GroupResult
from click.testing import Result
from tests.celery_command import Celery, typed
from tests.timing import until

from trivet.celery.application import TrivetApp, worker_command
from trivet.celery.failures import JobFailed
from trivet.testing import RunningTrivet
from trivet_tasks.errors import NotFound

WAIT_S = 60.0
TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}


def oks(said: Result) -> int:
    """Count the nodes that said OK."""
    return said.stdout.count(": OK")


@pytest.mark.parametrize(
    ("command", "shows"),
    [
        ("inspect active", "- empty -"),
        ("inspect registered", "trivet.run.anthropic"),
        ("inspect active_queues", "anthropic.batch"),
        ("inspect stats", "max-concurrency"),
    ],
)
def test_inspection_commands_show_the_fleet(celery: Celery, command: str, shows: str) -> None:
    said = until(lambda: celery(*command.split()), "two workers to answer", WAIT_S, fits=lambda said: oks(said) >= 2)
    assert said.exit_code == 0, said.stderr
    assert shows in said.stdout


def test_status_and_report_answer(celery: Celery) -> None:
    status = until(lambda: celery("status"), "workers to answer", WAIT_S, fits=lambda said: said.exit_code == 0)
    assert "online" in status.stdout
    report = celery("report")
    assert report.exit_code == 0, report.stderr
    assert "software -> celery:5.7" in report.stdout


@pytest.mark.habit("beat")
@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("worker -Q bedrock.batch,bedrock.async", "Run `trivet worker --routes bedrock --lane bulk`."),
        ("worker", "Run `trivet worker`."),
        ("beat", "Run `trivet scheduler`."),
        ("call trivet.run.bedrock", "Submit one by `trivet submit`"),
    ],
)
def test_commands_that_start_or_send_name_the_one_that_does(celery: Celery, command: str, instead: str) -> None:
    said = celery(*command.split())
    assert said.exit_code == 2
    assert instead in said.stderr
    assert "Traceback" not in said.stderr


def test_a_wrong_configuration_is_named_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[stoer]\n")
    monkeypatch.setenv("TRIVET_CONFIG", str(wrong))
    said = typed(tmp_path, "status")
    assert said.returncode == 2
    assert "stoer" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("queues", "command"),
    [
        ([], "trivet worker"),
        (["a.batch"], "trivet worker --routes a --lane bulk"),
        (["a.realtime"], "trivet worker --routes a --lane realtime"),
        (["b.async", "a.b.realtime"], "trivet worker --routes a.b,b"),
        (["celery"], "trivet worker"),
    ],
)
def test_the_worker_of_queues_is_named(queues: list[str], command: str) -> None:
    assert worker_command(queues) == command


@pytest.mark.habit("result backend")
def test_the_result_of_a_job_is_its_result_in_celerys_words(
    system: RunningTrivet, app: TrivetApp, celery: Celery
) -> None:
    job = system.client.submit("A result for Celery", **TERMS)
    result = AsyncResult(job.id, app=app)
    answer = result.get(timeout=WAIT_S)
    assert (result.state, result.ready(), result.successful()) == ("SUCCESS", True, True)
    assert answer.text == job.result().text
    assert answer.usage["output_tokens"] > 0
    assert answer.cost_usd == job.result().cost_usd
    assert result.traceback is None
    assert result.date_done is not None
    assert result.date_done.timestamp() == pytest.approx(job.result().ended_at)
    shown = celery("result", job.id)
    assert (shown.exit_code, "succeeded" in shown.stdout) == (0, True), shown.stderr


@pytest.mark.habit("revoke")
def test_states_follow_the_job(system: RunningTrivet, app: TrivetApp) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.latency(provider, median_s=30)
    waiting = system.client.submit("later", not_before=3_600.0, **TERMS)
    running = system.client.submit("now", **TERMS)
    later, now = AsyncResult(waiting.id, app=app), AsyncResult(running.id, app=app)
    until(lambda: now.state == "STARTED", "the job to run", WAIT_S)
    assert (later.state, later.ready(), later.result) == ("PENDING", False, None)
    with pytest.raises(CeleryTimeout, match=waiting.id):
        later.get(timeout=0.05)
    assert AsyncResult("nobody", app=app).state == "PENDING"
    with pytest.raises(NotFound, match="nobody"):
        AsyncResult("nobody", app=app).get(timeout=WAIT_S)
    later.revoke()
    now.revoke(terminate=True)
    for revoked in (later, now):
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=WAIT_S)
        assert (revoked.state, revoked.failed()) == ("REVOKED", False)


def test_a_failed_job_raises_with_its_outcome_and_the_providers_words(system: RunningTrivet, app: TrivetApp) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "context_too_long")
    job = system.client.submit("too long", **TERMS)
    result = AsyncResult(job.id, app=app)
    with pytest.raises(JobFailed) as raised:
        result.get(timeout=WAIT_S)
    assert raised.value.job_id == job.id
    assert raised.value.outcome == "invalid"
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert result.traceback == str(raised.value)
    assert isinstance(result.get(propagate=False), JobFailed)


def test_a_batch_is_a_group(system: RunningTrivet, app: TrivetApp) -> None:
    batch = system.client.submit_many([{"prompt": f"line {n}"} for n in range(12)], **TERMS)
    group = GroupResult.restore(batch.name, app=app)
    assert group is not None
    answers = group.get(timeout=WAIT_S)
    assert [answer.id for answer in answers] == [each.id for each in group]
    assert len(answers) == 12
    assert (group.successful(), group.completed_count()) == (True, 12)
    assert GroupResult.restore("no such batch", app=app) is None


def test_revoke_on_the_command_line_cancels_the_job(system: RunningTrivet, celery: Celery) -> None:
    job = system.client.submit("later", not_before=3_600.0, **TERMS)
    said = celery("control", "revoke", job.id)
    assert said.exit_code == 0, said.stderr
    assert f"job {job.id} cancelled" in said.stdout
    assert job.state == "cancelled"
    assert "had ended before" in celery("control", "revoke", job.id).stdout
    assert "No job has the id" in celery("control", "revoke", "nobody").stdout
    until(
        lambda: "trivet route drain" in celery("control", "cancel_consumer", "anthropic.batch").stdout,
        "a worker to refuse",
        WAIT_S,
    )
