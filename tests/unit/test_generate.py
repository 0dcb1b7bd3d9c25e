"""`generate` within applications: registered by import alone, arguments hidden, failures that travel."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery, chain
from celery.app.trace import build_tracer
from celery.backends.cache import CacheBackend
from kombu import Queue
from tests.builders import unique

from trivet.celery import generation
from trivet.celery.answers import Returns, answer_of, check_choice, may_go_better
from trivet.celery.failures import JobFailed
from trivet.celery.generation import generate
from trivet.celery.hidden_arguments import HiddenRequest
from trivet.celery.resumption import resuming
from trivet.client.result import JobError, Result
from trivet_tasks.errors import BrokerUnavailable, InvalidRequest, SchemaMismatch, StoreUnavailable

TERMS: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 40}
SECRET = "the secret words"
RESULT = Result(
    id="job",
    key=None,
    status="succeeded",
    error=None,
    stop_reason="end_turn",
    cost_usd=Decimal("0.01"),
    route="anthropic",
    model="claude-haiku-4-5",
    attempts=(),
    cached=False,
    latency_s=1.0,
    created_at=1.0,
    ended_at=2.0,
    tags={},
    raw=json.dumps({"content": [{"type": "text", "text": "yes"}], "usage": {"output_tokens": 1}}).encode(),
    pruned=False,
)


@pytest.fixture
def shop() -> Iterator[Celery]:
    """An application of a user, with a broker in memory."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=True)
    app.conf.task_queues = [Queue("shop")]
    app.conf.task_default_queue = "shop"
    app.conf.task_send_sent_event = True
    yield app
    app.close()


def message_in(app: Celery) -> Any:
    """Return the next message of the application's queue."""
    with app.connection_for_read() as connection:
        return connection.SimpleQueue(Queue("shop")).get(block=False)


def test_importing_it_reads_no_configuration_and_makes_no_application() -> None:
    code = """
import os
os.environ["TRIVET_CONFIG"] = "/nonexistent/trivet.toml"
from trivet.celery import generate, JobFailed
from celery import Celery
app = Celery("shop")
assert generate.name in app.tasks and generate.app is app, app.tasks
assert generate.s(prompt="x").task == "trivet.generate"
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("way", ["delay", "chain", "group", "link", "send_task"])
def test_no_way_of_sending_shows_the_prompt_to_logs_and_events(shop: Celery, way: str) -> None:
    signature = generate.s(SECRET, system=SECRET, **TERMS)
    if way == "delay":
        signature.delay()
    elif way == "chain":
        chain(signature, generate.s(prompt=SECRET, **TERMS)).delay()
    elif way == "group":
        generate.chunks([[SECRET]], 1, prompt="{0}", **TERMS).delay()
    elif way == "link":
        generate.map([SECRET], prompt="{0}", **TERMS).apply_async(link=signature)
    else:
        shop.send_task("trivet.generate", (SECRET,), TERMS)
    message = message_in(shop)
    if way == "send_task":  # Celery writes these itself: the worker's side hides them
        request = generate.Request
        assert request == "trivet.celery.hidden_arguments:HiddenRequest"
        received = HiddenRequest(message, app=shop, hostname="here", task=shop.tasks["trivet.generate"])
        shown = f"{received.argsrepr} {received.kwargsrepr} {received!r} {received.info()} {received.request_dict['argsrepr']}"
        assert received.args == [SECRET]
    else:
        shown = json.dumps(message.headers)
    assert SECRET not in shown
    assert "hidden" in shown


def test_the_resuming_message_has_all_but_the_prompt(shop: Celery) -> None:
    task = shop.tasks["trivet.generate"]
    after = generate.s(prompt="next {0}", **TERMS)
    task.push_request(
        id="an-id", args=[SECRET], kwargs={"prompt": SECRET}, root_id="root", parent_id="parent", group="group",
        group_index=3, chain=[dict(after)], chord=dict(after), callbacks=[dict(after)], errbacks=[dict(after)],
        reply_to="me", retries=2, timelimit=[30, 20], expires="2026-01-01T00:00:00+00:00", ignore_result=True,
        delivery_info={"exchange": "", "routing_key": "shop", "priority": 6, "redelivered": True},
        stamps={"tenant": ["a"]}, stamped_headers=["tenant"], own_header="kept", called_directly=False,
    )  # fmt: skip
    try:
        signature = resuming(task, {"returns": "text"})
    finally:
        task.pop_request()
    written = json.dumps(signature)
    assert SECRET not in written
    options = signature["options"]
    expected = {
        "task_id": "an-id", "root_id": "root", "parent_id": "parent", "group_id": "group", "group_index": 3,
        "queue": "shop", "priority": 6, "reply_to": "me", "retries": 2, "time_limit": 30, "soft_time_limit": 20,
        "ignore_result": True, "tenant": ["a"], "stamped_headers": ["tenant"], "declare": [],
    }  # fmt: skip
    assert {name: options.get(name) for name in expected} == expected
    assert all(options[name] for name in ("chain", "chord", "link", "link_error"))
    assert options["headers"] == {"own_header": "kept", "trivet_delivery": "an-id"}
    assert not {"expires", "eta", "countdown", "redelivered"} & set(options)
    shop.signature(json.loads(written)).apply_async(({"job": "a-job"},))
    message = message_in(shop)
    assert (message.headers["id"], message.headers["trivet_delivery"]) == ("an-id", "an-id")
    args, kwargs, embedded = message.payload
    assert (args, kwargs) == ([{"job": "a-job"}], {"returns": "text"})
    assert all(embedded[name] for name in ("callbacks", "errbacks", "chain", "chord"))


@pytest.mark.parametrize("travel", ["pickle", "json"])
def test_a_failure_travels_whole(shop: Celery, travel: str) -> None:
    failed = JobFailed("a-job", "prompt is too long", "invalid")
    if travel == "pickle":
        copy = pickle.loads(pickle.dumps(failed))
    else:
        backend = CacheBackend(app=shop, backend="memory")
        copy = backend.exception_to_python(json.loads(json.dumps(backend.prepare_exception(failed, "json"))))
    assert isinstance(copy, JobFailed)
    assert (copy.job_id, str(copy), copy.outcome) == ("a-job", "prompt is too long", "invalid")


@pytest.mark.parametrize(
    ("outcome", "better"),
    [("rate_limited", True), ("overloaded", True), ("timeout", True), ("invalid", False), ("ambiguous", False),
     ("unknown", False), (None, False)],
)  # fmt: skip
def test_only_a_routes_fault_is_worth_another_try(outcome: Any, better: bool) -> None:
    failed = replace(RESULT, status="failed", error=JobError(outcome, "said so"), raw=None)
    assert may_go_better(failed) is better
    assert may_go_better(replace(failed, status="expired")) is False
    with pytest.raises(JobFailed, match="said so") as raised:
        answer_of(failed, "text")
    assert raised.value.outcome == outcome


def test_the_answer_comes_in_the_wanted_form() -> None:
    assert answer_of(RESULT, "text") == "yes"
    assert answer_of(RESULT, "message") == RESULT.message
    whole = answer_of(RESULT, "result")
    assert json.loads(json.dumps(whole))["cost_usd"] == "0.01"
    with pytest.raises(InvalidRequest, match="'text', 'message', 'result'"):
        check_choice("returns", "texts", Returns)


class Submitted:
    """A client that takes jobs, or fails to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.requests: list[dict[str, Any]] = []

    def submit(self, **request: Any) -> None:
        self.requests.append(request)
        if self.error is not None:
            raise self.error


def run(app: Celery, task_id: str, *args: Any, delivery_info: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """Run `generate` as a worker does; returns the state that the tracer gives, and its value."""
    task = app.tasks["trivet.generate"]
    given = {"exchange": "", "routing_key": "shop", **(delivery_info or {})}
    request = {"id": task_id, "task": task.name, "retries": 0, "delivery_info": given, "hostname": "here"}
    traced = build_tracer(task.name, task, app=app)(task_id, list(args), kwargs, request)
    return traced.info.state if traced.info else "SUCCESS", traced.info.retval if traced.info else None


def test_a_first_run_submits_under_the_tasks_id_and_ends_without_a_result(
    shop: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, task_id = Submitted(), unique("task")
    monkeypatch.setattr(generation, "process_client", lambda: client)
    assert run(shop, task_id, "a text", prompt="Summarise: {0}", **TERMS)[0] == "IGNORED"
    assert shop.AsyncResult(task_id).state == "STARTED"
    (request,) = client.requests
    callback = request.pop("on_done")
    assert request == {"prompt": "Summarise: a text", "key": f"celery:{task_id}", **TERMS}
    assert (callback.name, callback.app, callback.confirmed) == (task_id, "shop", True)
    shop.backend.store_result(task_id, JobFailed("job", "kept"), "FAILURE")
    assert run(shop, task_id, "a text", delivery_info={"redelivered": True}, **TERMS)[0] == "IGNORED"
    assert shop.AsyncResult(task_id).state == "FAILURE", "a message that comes late changes no result"


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), SchemaMismatch("older"), BrokerUnavailable("gone")])
def test_a_trivet_that_is_away_is_tried_again_under_the_same_key(
    shop: Celery, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    client, task_id = Submitted(error), unique("task")
    monkeypatch.setattr(generation, "process_client", lambda: client)
    state, retry = run(shop, task_id, SECRET, **TERMS)
    assert (state, str(retry.exc)) == ("RETRY", str(error))
    message = message_in(shop)
    assert (message.headers["id"], message.headers["retries"]) == (task_id, 1)
    assert message.headers["eta"]
    assert SECRET not in json.dumps(message.headers)
    assert message.payload[0] == [SECRET]
    assert client.requests[0]["key"] == f"celery:{task_id}"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"key": "mine"}, "key: is set by `generate` itself. A task with the same `task_id`"),
        ({"on_done": {}}, "on_done: is set by `generate` itself. Use `link=`"),
        ({"returns": "answer"}, "returns: must be one of"),
        ({"max_retries": -1}, "max_retries: must be a whole number"),
        ({"prompt": "no place"}, "prompt: the template does not use"),
    ],
)
def test_wrong_arguments_fail_once_and_submit_nothing(
    shop: Celery, monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any], says: str
) -> None:
    client = Submitted()
    monkeypatch.setattr(generation, "process_client", lambda: client)
    state, error = run(shop, unique("task"), "a text", **{**TERMS, **request_})
    assert state == "FAILURE"
    assert isinstance(error, InvalidRequest)
    assert says in str(error)
    assert client.requests == []


def test_an_application_without_a_name_is_told_to_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "process_client", Submitted)
    app = Celery(broker="memory://", set_as_current=False)
    state, error = run(app, unique("task"), "a text", **TERMS)
    assert state == "FAILURE"
    assert "[celery_apps.shop]" in str(error)
    app.close()


@pytest.mark.parametrize("ask", [generate.map, generate.starmap])
@pytest.mark.parametrize("values", ["a text", b"bytes", {"a": 1}])
def test_the_characters_of_a_text_are_no_requests(ask: Any, values: Any) -> None:
    with pytest.raises(InvalidRequest, match="values: must be a list"):
        ask(values, prompt="Topic of: {0}")


def test_a_batch_of_prompts_with_several_values_needs_lists_of_them() -> None:
    with pytest.raises(InvalidRequest, match="`starmap` and `chunks` take a list of lists"):
        generate.starmap(["a text"])
    with pytest.raises(InvalidRequest, match="`starmap` and `chunks` take a list of lists"):
        generate.chunks(["a text"], 10)
