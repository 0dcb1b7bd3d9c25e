"""Jobs that are accepted while nobody takes them, and waits that end before they do: both say why."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.command_line import Said
from tests.store.world import MODEL, ROUTE, World, spec, specs

from trivet import Client, InvalidRequest, ResultTimeout
from trivet_store.cluster import leases
from trivet_store.reports import backlog
from trivet_store.reports.backlog import FlowRequirements
from trivet_tasks.config.settings import load_settings

TERMS: dict[str, Any] = {"model": MODEL, "max_tokens": 40}
NO_SCHEDULER = "No scheduler is alive: waiting jobs are not dispatched"
NO_WORKER = "No bulk worker is alive: batch, async and deferred jobs wait. Start one: trivet worker --lane bulk"


@pytest.fixture
def client(world: World, store_url: str, tmp_path: Path) -> Iterator[Client]:
    """A client of the world's database; no server listens where the shared state should be."""
    config = tmp_path / "trivet.toml"
    config.write_text(f'[store]\nurl = "{store_url}"\n[redis]\nurl = "redis://127.0.0.1:1/0"\n')
    with Client(settings=load_settings(config)) as client:
        yield client


def scheduler(world: World) -> str:
    return world.lease(worker="scheduler-1", lane="", routes=(), part=leases.SCHEDULER)


def starts(found: tuple[str, ...], *expected: str) -> bool:
    return len(found) == len(expected) and all(map(str.startswith, found, expected))


# --- accepted


def test_without_scheduler_and_worker_a_job_is_accepted_with_a_warning_once(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [client.submit(f"Hello {n}", **TERMS) for n in range(3)]
    batch = client.submit_many([{"prompt": "Hello"}] * 3, name="contracts", **TERMS)
    for warnings in (*(job.warnings for job in jobs), batch.warnings):
        assert starts(warnings, NO_SCHEDULER, NO_WORKER)
    logged = tuple(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert starts(logged, NO_SCHEDULER, NO_WORKER)
    assert client.job(jobs[0].id).warnings == ()


def test_a_deadline_that_is_too_short_is_a_warning_of_the_job_and_is_said_once(
    world: World, client: Client, trivet: Callable[..., Said], caplog: pytest.LogCaptureFixture
) -> None:
    world.lease()
    scheduler(world)
    terms = {**TERMS, "max_tokens": 60_000}
    first, _ = (client.submit(f"Hello {n}", deadline="10s", **terms).warnings for n in range(2))
    assert first[0].startswith("deadline: 60,000 tokens take about")
    assert [message for message in caplog.messages if message.startswith("deadline")] == [first[0]]
    caplog.clear()
    said = trivet("submit", "Hi", "--deadline", "10s", "--max-tokens", "60000", "--json")
    assert said.err.count("deadline: 60,000 tokens") == 1
    assert said.json["warnings"][0].startswith("deadline: 60,000 tokens")
    assert not caplog.messages


def test_only_the_lane_of_the_jobs_counts(world: World, client: Client) -> None:
    world.lease(lane="realtime")
    scheduler(world)
    assert starts(client.submit("Hello", **TERMS).warnings, NO_WORKER)


def test_an_interactive_job_that_waits_needs_a_scheduler(world: World, client: Client) -> None:
    world.register(ROUTE)
    world.lease(lane="realtime")
    (warning,) = client.submit("Hello", latency="interactive", **TERMS).warnings
    assert warning.startswith(NO_SCHEDULER)


def test_where_all_is_there_nothing_is_said(world: World, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    world.register(ROUTE)
    world.lease()
    scheduler(world)
    assert client.submit("Hello", **TERMS).warnings == ()
    assert client.submit_many([{"prompt": "Hello"}], **TERMS).warnings == ()
    assert caplog.messages == []


def test_a_route_that_can_never_take_them_is_named(world: World, client: Client) -> None:
    world.register(ROUTE)
    world.lease()
    scheduler(world)
    expected = f"No route can ever take these jobs ({ROUTE}: lacks residency moon)."
    assert client.submit("Hello", residency=["moon"], **TERMS).warnings == (expected,)
    requests: list[dict[str, Any]] = [{"prompt": "Hello"}, {"prompt": "Hello", "residency": ["moon"]}]
    assert client.submit_many(requests, **TERMS).warnings == (expected,)
    assert client.submit("Hello", **TERMS).warnings == (), "another kind of job"


def test_jobs_that_found_routes_too_slow_require_another(world: World) -> None:
    world.batch("contracts", *specs(3))
    (single,) = world.add(spec())
    batch_job = world.value("SELECT min(id) FROM jobs WHERE batch_id IS NOT NULL")
    asked: dict[str, Callable[[Connection], list[FlowRequirements]]] = {
        "batch": lambda connection: backlog.requirements_of_batch(connection, "contracts"),
        "waiting": backlog.requirements_of_waiting,
        "job": lambda connection: backlog.requirements_of_job(connection, batch_job),
        "another job": lambda connection: backlog.requirements_of_job(connection, single.id),
    }

    def too_slow() -> dict[str, list[tuple[str, ...]]]:
        with world.store.read() as connection:
            return {name: sorted(one.too_slow for one in ask(connection)) for name, ask in asked.items()}

    assert too_slow() == {name: [()] for name in asked}
    world.sql("UPDATE jobs SET too_slow = 'a,b' WHERE id = :id", id=batch_job)
    assert too_slow() == {
        "batch": [(), ("a", "b")],
        "waiting": [(), ("a", "b")],
        "job": [("a", "b")],
        "another job": [()],
    }


def test_the_command_prints_the_warning_once_and_has_it_in_json(
    world: World, trivet: Callable[..., Said], tmp_path: Path
) -> None:
    said = trivet("submit", "Hello.", "--max-tokens", "40")
    assert said.code == 0
    assert [said.err.count(words) for words in (NO_SCHEDULER, NO_WORKER)] == [1, 1]
    assert world.job(said.out.strip()).state == "waiting"
    said = trivet("submit", "Hello.", "--json")
    assert starts(tuple(said.json["warnings"]), NO_SCHEDULER, NO_WORKER)
    file = tmp_path / "contracts.jsonl"
    file.write_text('{"prompt": "Hello."}\n' * 3)
    said = trivet("bulk", str(file), "--model", MODEL, "--max-tokens", "40", "--json")
    assert starts(tuple(said.json["warnings"]), NO_SCHEDULER, NO_WORKER)
    assert said.err.count(NO_SCHEDULER) == 1


# --- waits that are over before the jobs are


def timed_out(wait: Callable[[], object]) -> ResultTimeout:
    with pytest.raises(ResultTimeout) as caught:
        wait()
    assert "It goes on" not in str(caught.value)
    return caught.value


def test_a_wait_names_what_holds_the_job_up(world: World, client: Client) -> None:
    (job,) = world.add(spec())
    error = timed_out(lambda: client.job(job.id).result(0.01))
    assert error.held_up
    assert "has not ended within 0.01 s." in error.message
    assert any("redis://127.0.0.1:1" in reason for reason in error.reasons), "the shared state does not answer"
    assert any(reason.startswith(NO_SCHEDULER) for reason in error.reasons)
    world.batch("contracts", *specs(2))
    batch = client.batch("contracts")
    for wait in (lambda: batch.wait(0.01), lambda: next(batch.results(0.01))):
        error = timed_out(wait)
        assert error.held_up
        assert any(reason.startswith(NO_WORKER) for reason in error.reasons)


def test_a_wait_for_an_incomplete_batch_says_that_it_does_not_run(client: Client, trivet: Callable[..., Said]) -> None:
    with pytest.raises(InvalidRequest):
        client.submit_many([{"prompt": "Hello"}, {"prompt": ""}], name="contracts", **TERMS)
    error = timed_out(lambda: client.batch("contracts").wait(0.01))
    assert error.held_up
    expected = "The batch 'contracts' took in only 1 request and does not run."
    assert error.reasons[0].startswith(expected)
    assert "trivet batch accept contracts" in error.reasons[0]
    (job,) = client.jobs(batch="contracts")
    assert timed_out(lambda: client.job(job.id).result(0.01)).reasons == error.reasons
    status = trivet("batch", "status", "contracts")
    assert status.code == 3
    assert expected in " ".join(status.out.split())


def test_the_commands_in_reasons_can_be_pasted(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.submit_many([{"prompt": "Hello"}, {"prompt": ""}], name="my file-0f3a", **TERMS)
    error = timed_out(lambda: client.batch("my file-0f3a").wait(0.01))
    for said in (str(caught.value), error.reasons[0]):
        assert "trivet batch accept 'my file-0f3a'" in said
        assert "trivet batch discard 'my file-0f3a'" in said


def test_the_command_exits_with_3_where_something_is_wrong(world: World, trivet: Callable[..., Said]) -> None:
    said = trivet("submit", "Hello.", "--wait", "--timeout", "0.1")
    assert said.code == 3
    assert NO_SCHEDULER in said.err
    assert "It goes on" not in said.err
    (job,) = world.sql("SELECT id FROM jobs")
    assert f"trivet job result {job.id} --wait" in said.err
    said = trivet("job", "result", job.id)
    assert (said.code, NO_SCHEDULER in said.err) == (3, True)
    world.batch("contracts", *specs(2))
    said = trivet("batch", "wait", "contracts", "--timeout", "1s")
    assert (said.code, NO_SCHEDULER in said.err) == (3, True)
