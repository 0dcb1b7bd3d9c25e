"""Requests that share an answer, and requests that must not."""

from typing import Any

import pytest

from trivet_tasks.config.settings import CacheSettings, Settings
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk
from trivet_tasks.requests.reading import parse_request

REQUEST: dict[str, Any] = {"model": "claude-haiku-4-5", "prompt": "What is a trivet?", "max_tokens": 100}

ON = Settings(cache=CacheSettings(enabled=True))


def key(settings: Settings | None = None, **more: Any) -> str | None:
    request = {name: value for name, value in {**REQUEST, **more}.items() if value is not ...}
    return parse_request(request, settings=settings or ON, now=0.0).cache_key


def test_equal_requests_have_one_key_whatever_the_order_of_their_fields() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "What is a trivet?"}]}
    turned = {"content": [{"text": "What is a trivet?", "type": "text"}], "role": "user"}
    one = key(prompt=..., messages=[message], metadata={"user_id": "u"}, system="Be brief.")
    assert one is not None
    assert key(system="Be brief.", metadata={"user_id": "u"}, prompt=..., messages=[turned]) == one
    backwards = {name: REQUEST[name] for name in reversed(REQUEST)}
    assert parse_request(backwards, settings=ON, now=0.0).cache_key == key()


def test_what_does_not_decide_the_answer_is_not_in_it() -> None:
    assert key(tags={"team": "a"}, key="k", deadline=60, not_before=5, latency="async") == key()
    assert key(residency=["us", "eu"]) == key(residency=["eu", "us"])


@pytest.mark.parametrize(
    "change",
    [
        {"model": "claude-sonnet-5-5"},
        {"prompt": "What is a trivet"},
        {"max_tokens": 101},
        {"system": "Be brief."},
        {"stop_sequences": ["x"]},
        {"metadata": {"user_id": "u"}},
        {"residency": "eu"},
        {"compliance": "hipaa"},
    ],
)
def test_whatever_decides_the_answer_or_where_it_may_be_made_is_in_it(change: dict[str, Any]) -> None:
    assert key(**change) not in (None, key())


def test_a_place_and_a_regime_of_one_name_are_two_things() -> None:
    assert key(residency="eu") != key(compliance="eu")


def test_tenants_share_only_where_told_to() -> None:
    assert len({key(tenant="a"), key(tenant="b"), key()}) == 3
    assert key(tenant="a") == key(tenant="a")
    shared = Settings(cache=CacheSettings(enabled=True, shared=True))
    assert key(shared, tenant="a") == key(shared, tenant="b") == key(shared)


def test_there_is_none_unless_the_settings_or_the_request_turn_it_on() -> None:
    assert key(Settings()) is None
    assert key(Settings(), cache=None) is None
    assert key(Settings(), cache=True) == key()
    assert key(cache=False) is None


def test_a_class_that_keeps_no_answers_has_none_and_a_request_that_asks_is_warned() -> None:
    classes = dict(Settings().classes)
    classes[Latency.ASYNC] = classes[Latency.ASYNC].model_copy(update={"cache_ttl_s": 0})
    off = ON.model_copy(update={"classes": classes})
    assert key(off, latency="async") is None
    assert key(off) is not None
    request = {**REQUEST, "latency": "async"}
    assert parse_request(request, settings=off, now=0.0).warnings == ()
    (warning,) = parse_request({**request, "cache": True}, settings=off, now=0.0).warnings
    assert warning == "cache: has no effect, because [classes.async] cache_ttl_s is 0."


def test_it_travels_with_the_job() -> None:
    jobs = (DispatchedJob("a" * 32, 1, 10, 100, "c" * 32), DispatchedJob("b" * 32, 7, 20, 200))
    chunk = Chunk("r", "bedrock", Latency.BATCH, "m", jobs)
    assert Chunk.from_args("bedrock", chunk.to_args()) == chunk
