"""Reading `on_done=`: signatures of a user's Celery application, routed as that application routes them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu import Exchange, Queue

from trivet_tasks.callbacks import Callback
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.signatures import read_callback


def save(ended: dict[str, Any], document: str) -> str:
    del ended
    return document


def mail(ended: object) -> None:
    del ended


@pytest.fixture
def app() -> Iterator[Celery]:
    """An application with queues, routes and defaults of its own."""
    made = Celery("shop", set_as_current=False)
    letters = Queue(
        "mail", Exchange("letters", type="topic"), "out.mail", max_priority=9, queue_arguments={"x-expires": 60_000}
    )
    made.conf.update(
        task_queues=[Queue("plain"), letters], task_default_queue="plain", task_routes={"shop.mail": {"queue": "mail"}, "shop.save": {"expires": 9}},
        task_default_priority=3, task_serializer="yaml",
    )  # fmt: skip
    made.task(name="shop.save", time_limit=60, shared=False)(save)
    made.task(name="shop.mail", shared=False)(mail)
    with made:
        yield made


def read(signature: Any) -> dict[str, Any]:
    """Return the signature as it would be stored."""
    written: dict[str, Any] = json.loads(read_callback(signature).to_json())
    return written


def test_it_takes_the_names_of_the_task_and_of_its_application(app: Celery) -> None:
    callback = read_callback(app.tasks["shop.save"].s("doc/1"))
    assert (callback.name, callback.app, callback.confirmed) == ("shop.save", "shop", False)
    assert "doc/1" not in repr(callback)


def test_it_is_routed_as_the_application_does(app: Celery) -> None:
    saved = read(app.tasks["shop.save"].s("doc/1"))
    assert (saved["task"], saved["args"]) == ("shop.save", ["doc/1"])
    options = saved["options"]
    assert (options["queue"]["name"], options["expires"], options["time_limit"]) == ("plain", 9, 60)
    assert options["serializer"] == "yaml"
    mailed = read(app.tasks["shop.mail"].s())["options"]
    assert mailed["priority"] == 3
    queue = mailed["queue"]
    assert queue["exchange"] == {"name": "letters", "type": "topic", "durable": True}
    expected = {"name": "mail", "routing_key": "out.mail", "max_priority": 9, "queue_arguments": {"x-expires": 60_000}}
    assert expected.items() <= queue.items()


def test_what_the_signature_says_comes_first(app: Celery) -> None:
    signature = app.tasks["shop.save"].s("doc/1").set(queue="mail", priority=0, serializer="json")
    options = read(signature)["options"]
    assert (options["queue"]["name"], options["priority"], options["serializer"]) == ("mail", 0, "json")
    assert signature.options == {"queue": "mail", "priority": 0, "serializer": "json"}, "the caller's stays as it was"


def test_a_task_that_only_the_workers_know_is_routed_by_its_name(app: Celery) -> None:
    assert read(app.signature("shop.mail"))["options"]["queue"]["name"] == "mail"
    assert read(app.signature("shop.other"))["options"]["queue"]["name"] == "plain"


def test_of_a_chain_the_first_task_is_routed(app: Celery) -> None:
    first, then = app.tasks["shop.mail"], app.tasks["shop.save"]
    steps = chain(chain(first.s(), then.s("doc/1")), first.s(), app=app)
    callback = read_callback(steps)
    assert (callback.name, callback.app) == ("shop.mail", "shop")
    at = read(steps)["kwargs"]["tasks"][0]
    while at["subtask_type"] == "chain":
        at = at["kwargs"]["tasks"][0]
    assert at["options"]["queue"]["name"] == "mail"


@pytest.mark.parametrize("kind", [group, chord])
def test_a_group_and_a_chord_need_a_task_that_starts_them(app: Celery, kind: Any) -> None:
    task = app.tasks["shop.mail"]
    canvas = group([task.s(), task.s()], app=app)
    signature = canvas if kind is group else chord(canvas, task.s(), app=app)
    for one in (signature, chain(signature, app=app)):
        with pytest.raises(InvalidRequest, match=r"must begin with a task|must be a Celery signature"):
            read_callback(one)


def test_an_application_needs_a_name() -> None:
    with Celery(set_as_current=False) as nameless:
        nameless.task(name="save", shared=False)(mail)
        with pytest.raises(InvalidRequest, match=r"application of save has no name\. Name it"):
            read_callback(nameless.tasks["save"].s())


@pytest.mark.parametrize("other", ["shop.save", {"task": "shop.save"}, lambda: None, 7])
def test_nothing_else_is_taken(other: object) -> None:
    with pytest.raises(InvalidRequest, match=r"must be a Celery signature, as in save\.s\(\), or a trivet\.Callback"):
        read_callback(other)


def test_a_callback_stays_as_it_is() -> None:
    callback = Callback("save", "shop", {"task": "shop.save"}, confirmed=True)
    assert read_callback(callback) is callback
    assert json.loads(callback.to_json())["immutable"] is False


def test_a_chain_with_a_chord_in_it_is_refused_and_one_that_ends_with_a_group_is_not(app: Celery) -> None:
    save, collect = app.tasks["shop.save"], app.tasks["shop.save"]
    for unfit in (save.s() | group(save.s(), save.s()) | collect.s(), save.s() | chord([save.s()], collect.s())):
        with pytest.raises(InvalidRequest, match="must hold no chord"):
            read_callback(unfit)
    assert read_callback(save.s() | group(save.s(), save.s())).app == "shop"


def test_the_words_of_a_nul_are_no_nul(app: Celery) -> None:
    read_callback(app.tasks["shop.save"].s("\\u0000")).to_json()
    with pytest.raises(InvalidRequest, match="a NUL character"):
        read_callback(app.tasks["shop.save"].s("\\\0")).to_json()


def test_options_of_a_chain_are_those_of_its_first_task(app: Celery) -> None:
    task = app.tasks["shop.save"]
    written = read(chain(task.s(), task.s(), app=app).set(queue="slow", countdown=5))
    first, second = written["kwargs"]["tasks"]
    assert (first["options"]["queue"]["name"], first["options"]["countdown"]) == ("slow", 5)
    assert "countdown" not in second["options"]
