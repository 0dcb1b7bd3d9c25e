"""Validation at submit: accepted requests, their stored form, and the text of errors."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from itertools import permutations
from typing import Any
from uuid import UUID

import orjson
import pytest
from anthropic.types.beta import message_create_params as beta_params
from anthropic.types.message_create_params import MessageCreateParamsBase
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trivet_tasks.catalog import known
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.requests.reading import OWN_FIELDS, RequestReader, parse_request, parse_requests
from trivet_tasks.requests.request_body import BETA_FIELDS, BODY_FIELDS, REFUSED_FIELDS, as_submitted

NOW = 1_800_000_000.0
SETTINGS = Settings()
SECRET = "SECRET words of a prompt"


def request(**fields: Any) -> dict[str, Any]:
    base = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
    return {**base, **fields}


def parse(value: Any, **how: Any) -> JobSpec:
    return parse_request(value, **{"settings": SETTINGS, "now": NOW, **how})


def refused(value: Any, **how: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(value, **how)
    return caught.value


class TestTaken:
    def test_a_plain_request(self) -> None:
        job = parse(request())
        assert (job.model, job.latency, job.max_tokens) == ("claude-sonnet-5-5", Latency.BATCH, 100)
        assert json.loads(job.body) == {"max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
        assert (job.key, job.deadline_at, job.not_before, job.tenant) == (None, None, None, None)
        assert (job.tags, job.residency, job.compliance, job.features) == ({}, (), (), ())
        assert (job.cache, job.cache_key) == (None, None)
        assert job.warnings == ()
        assert job.input_estimate >= 1

    def test_every_own_field(self) -> None:
        job = parse(
            request(
                key="doc 17", latency="deferred", deadline=60, tags={"team": "legal", "empty": ""}, residency="eu",
                compliance=["soc2", "hipaa", "soc2"], tenant="acme", not_before=10, cache=True,
            )
        )  # fmt: skip
        assert (job.key, job.latency, job.tenant, job.cache) == ("doc 17", Latency.DEFERRED, "acme", True)
        assert (job.deadline_at, job.not_before) == (NOW + 60, NOW + 10)
        assert (job.residency, job.compliance) == (("eu",), ("hipaa", "soc2"))
        assert job.tags == {"team": "legal", "empty": ""}
        assert set(json.loads(job.body)) == {"messages", "max_tokens"}

    def test_a_prompt_is_one_message_of_the_user(self) -> None:
        plain = request(prompt="Hello")
        del plain["messages"]
        assert parse(plain) == parse(request())

    def test_the_request_is_not_changed(self) -> None:
        given_ = request(prompt="Hello", stream=False, tools=[])
        del given_["messages"]
        before = json.dumps(given_)
        parse(given_, defaults={"tags": {"a": "b"}})
        assert json.dumps(given_) == before

    def test_an_alias_becomes_the_models_id(self) -> None:
        assert parse(request(model="claude-haiku-4-5-20251001")).model == "claude-haiku-4-5"

    def test_a_model_that_only_a_route_knows(self) -> None:
        route = RouteSettings(provider="anthropic", models={"claude-next": "claude-next-preview"})
        job = parse(request(model="claude-next", max_tokens=900_000), settings=Settings(routes={"a": route}))
        assert (job.model, job.warnings) == ("claude-next", ())
        assert "claude-next" in str(refused(request(model="claude-next")))

    def test_none_is_not_given(self) -> None:
        assert parse(request(system=None, key=None, latency=None, deadline=None, temperature=None)) == parse(request())

    def test_stream_false_says_nothing(self) -> None:
        assert parse(request(stream=False)) == parse(request())

    def test_a_rich_body_passes_whole(self) -> None:
        body = {
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
                ]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a cat"}]},
            ],
            "tools": [{"name": "look", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}],
            "tool_choice": {"type": "tool", "name": "look"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "metadata": {"user_id": "u-1"},
            "stop_sequences": ["END"],
            "output_config": {"effort": "low"},
            "max_tokens": 4_000,
        }  # fmt: skip
        job = parse({"model": "claude-haiku-4-5", "latency": "async", **body})
        assert json.loads(job.body) == body

    def test_metadata_stays_here_but_for_the_user_that_the_provider_is_told(self) -> None:
        metadata = {"row": 7, "path": ["ü", None, 1.5], "nested": {"b": 1, "a": 2}}
        job = parse(request(metadata=metadata))
        assert json.loads(job.metadata or "") == metadata
        assert list(json.loads(job.metadata or "")["nested"]) == ["b", "a"], "in the order it was given"
        assert (job.body, job.fingerprint) == (parse(request()).body, parse(request()).fingerprint)
        told = parse(request(metadata={"user_id": "u-1", "row": 7}))
        assert json.loads(told.body)["metadata"] == {"user_id": "u-1"}
        assert told.fingerprint == parse(request(metadata={"user_id": "u-1"})).fingerprint != job.fingerprint
        assert "path" not in repr(job)
        assert (parse(request()).metadata, parse(request(metadata={})).metadata) == (None, "{}")

    @pytest.mark.parametrize(
        ("metadata", "words"),
        [
            ([1], "metadata: must be an object, is a list."),
            ({"user_id": 7}, "metadata.user_id: must be a string, is 7."),
            ({"a": [{"b": object()}]}, "metadata.a[0].b: "),
            ({"a": math.nan}, "metadata.a: must be a finite number, is nan."),
            ({7: "x"}, "metadata: holds a key that is not a string: 7."),
            ({"a": "x" * 17_000}, "metadata: may have at most 16,384 bytes as JSON, has 17,008."),
        ],
    )
    def test_metadata_that_is_no_json_or_too_large_is_refused(self, metadata: Any, words: str) -> None:
        assert words in str(refused(request(metadata=metadata)))

    def test_a_request_comes_back_as_it_was_submitted(self) -> None:
        given = request(
            betas=["context-1m-2025-08-07"],
            metadata={"user_id": "u", "row": 7},
            extra_headers={"x-note": "n"},
            extra_body={"new_field": {"a": 1}},
        )
        settings = SETTINGS.model_copy(update={"routes": {"a": RouteSettings(provider="anthropic")}})
        job = parse(given, settings=settings)
        back = as_submitted(json.loads(job.body), job.model, json.loads(job.metadata or "{}"))
        assert set(back) == {*given, "messages"} - {"prompt"}
        assert parse(back, settings=settings) == job

    def test_a_paused_turn_may_be_sent_back_to_a_model_without_prefill(self) -> None:
        paused = {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search"}]}
        assert parse(request(messages=[{"role": "user", "content": "Hi"}, paused]))

    def test_a_summarised_past_may_come_first(self) -> None:
        past = {"role": "assistant", "content": [{"type": "compaction", "content": "…"}]}
        assert parse(request(messages=[past, {"role": "user", "content": "Go on"}]))


class TestDefaults:
    def test_lie_under_the_request(self) -> None:
        job = parse({"prompt": "Hi", "latency": "async"}, defaults=request(prompt=None, messages=None, latency="batch"))
        assert (job.latency, job.max_tokens) == (Latency.ASYNC, 100)

    def test_none_takes_a_default_away(self) -> None:
        assert parse(request(tenant=None), defaults={"tenant": "acme"}).tenant is None

    def test_tags_are_merged(self) -> None:
        job = parse(request(tags={"a": "mine"}), defaults={"tags": {"a": "theirs", "run": "7"}})
        assert job.tags == {"a": "mine", "run": "7"}

    def test_metadata_is_merged(self) -> None:
        job = parse(request(metadata={"row": 7}), defaults={"metadata": {"row": 0, "user_id": "u"}})
        assert json.loads(job.metadata or "") == {"row": 7, "user_id": "u"}

    def test_a_prompt_replaces_default_messages_and_the_other_way(self) -> None:
        ours = {"model": "claude-sonnet-5-5", "max_tokens": 100}
        assert parse({**ours, "prompt": "Hello"}, defaults={"messages": []}) == parse(request())
        assert parse(request(), defaults={"prompt": "Bye"}) == parse(request())

    def test_are_checked_for_typos(self) -> None:
        assert str(refused(request(), defaults={"latncy": "batch"})).endswith("Did you mean latency?")


class TestFingerprint:
    def test_order_of_keys_makes_no_difference(self) -> None:
        one = parse(request(messages=[{"role": "user", "content": "Hi"}], metadata={"user_id": "u"}))
        other = parse({
            "metadata": {"user_id": "u"}, "messages": [{"content": "Hi", "role": "user"}],
            "max_tokens": 100, "model": "claude-sonnet-5-5",
        })  # fmt: skip
        assert one.fingerprint == other.fingerprint
        assert len(one.fingerprint) == 32
        assert one.body == other.body

    def test_a_schema_keeps_the_order_of_its_properties(self) -> None:
        def tool(*names: str) -> dict[str, Any]:
            return {"name": "t", "input_schema": {"type": "object", "properties": {name: {} for name in names}}}

        ba, ab = parse(request(tools=[tool("b", "a")])), parse(request(tools=[tool("a", "b")]))
        assert list(json.loads(ba.body)["tools"][0]["input_schema"]["properties"]) == ["b", "a"]
        assert ba.fingerprint != ab.fingerprint

    def test_trivets_own_fields_make_no_difference(self) -> None:
        plain = parse(request()).fingerprint
        assert parse(request(key="a", tags={"b": "c"}, latency="async", deadline=9)).fingerprint == plain

    @pytest.mark.parametrize(
        "change", [{"model": "claude-haiku-5-5"}, {"max_tokens": 101}, {"system": "x"}, {"stop_sequences": ["x"]}]
    )
    def test_everything_else_does(self, change: dict[str, Any]) -> None:
        assert parse(request(**change)).fingerprint != parse(request()).fingerprint


class TestTimes:
    def test_the_class_gives_the_deadline(self) -> None:
        for latency in Latency:
            allowed = DEFAULTS[latency].deadline_s
            assert parse(request(latency=latency)).deadline_at == (allowed and NOW + allowed)

    def test_the_class_counts_from_not_before(self) -> None:
        job = parse(request(latency="async", not_before=1_000))
        assert job.deadline_at == NOW + 1_000 + 86_400

    @pytest.mark.parametrize(
        "moment",
        [
            3_600,
            3_600.0,
            timedelta(hours=1),
            "1h",
            "60m",
            " 3600 S ",
            "1.0h",
            datetime.fromtimestamp(NOW + 3_600, UTC),
            datetime.fromtimestamp(NOW + 3_600, timezone(timedelta(hours=5))),
            datetime.fromtimestamp(NOW + 3_600, UTC).isoformat(),
            datetime.fromtimestamp(NOW + 3_600, UTC).isoformat().replace("+00:00", "Z"),
        ],
    )
    def test_every_form_of_a_moment(self, moment: object) -> None:
        job = parse(request(deadline=moment))
        assert job.deadline_at == NOW + 3_600
        assert parse(request(not_before=moment)).not_before == NOW + 3_600

    def test_not_before_in_the_past_is_at_once(self) -> None:
        assert parse(request(not_before="2020-01-01T00:00:00Z")).not_before is None
        assert parse(request(not_before=0)).not_before is None

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("deadline", -1, "-1"),
            ("deadline", 0, "future"),
            ("deadline", True, "true"),
            ("deadline", math.nan, "a year"),
            ("deadline", math.inf, "a year"),
            ("deadline", 10**400, "a year"),
            ("deadline", 31_536_001, "a year"),
            ("deadline", "tomorrow", "ISO 8601"),
            ("deadline", "tomorrow", 'a span from now such as "90s", "5m" or "24h"'),
            ("deadline", "90", 'such as "90s"'),
            ("deadline", "-5m", 'such as "90s"'),
            ("deadline", "5 months", 'such as "90s"'),
            ("deadline", "", 'such as "90s"'),
            ("deadline", "0s", "future"),
            ("deadline", "366d", 'at most a year from now (365d), is "366d"'),
            ("deadline", "9" * 5_000 + "w", "at most a year"),
            ("deadline", "2027-02-01T10:00:00", "time zone"),
            ("deadline", "2099-02-01T10:00:00Z", "a year"),
            ("deadline", "2020-01-01T00:00:00Z", "future"),
            ("deadline", datetime(2027, 2, 1), "time zone"),
            ("deadline", datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))), "a year"),
            ("deadline", datetime.min.replace(tzinfo=timezone(timedelta(hours=12))), "future"),
            ("deadline", [1], "a list"),
            ("not_before", -5, "-5"),
            ("not_before", math.nan, "a year"),
            ("not_before", "soon", "ISO 8601"),
        ],
    )
    def test_what_is_no_moment(self, field: str, value: object, says: str) -> None:
        error = refused(request(**{field: value}))
        assert error.field == field
        assert says in str(error)

    def test_not_before_after_the_deadline(self) -> None:
        assert refused(request(not_before=100, deadline=50)).field == "not_before"

    def test_realtime_does_not_wait(self) -> None:
        assert refused(request(latency="realtime", not_before=100)).field == "not_before"


def message(content: object, role: str = "user") -> dict[str, Any]:
    return request(messages=[{"role": role, "content": content}])


NUMBERED: dict[Any, Any] = {5: 1}
SCHEMA: dict[str, Any] = {"type": "object"}
BAD: list[tuple[dict[str, Any], str, str]] = [
    # request, field, a part of the message
    (request(messages=[]), "messages", "must not be empty"),
    (request(messages=None), "messages", "is missing"),
    (request(messages="Hello"), "messages", "prompt"),
    (request(messages=[{"role": "user", "content": "x"}] * 100_001), "messages", "100,000"),
    (request(messages=["Hello"]), "messages[0]", "an object"),
    (request(messages=[{"content": "x"}]), "messages[0].role", "missing"),
    (message("x", "tool"), "messages[0].role", "tool"),
    (message("x", "system"), "messages[0].role", "under system"),
    (message("x", "assistant"), "messages[0].role", "prefill"),
    (message("", "assistant"), "messages[0].role", "prefill"),
    (
        request(messages=[{"role": "assistant", "content": []}, {"role": "user", "content": "x"}]),
        "messages[0].content",
        "must not be empty",
    ),
    (message([{"type": "text", "text": " "}, {"type": "text", "text": "\n"}]), "messages[0].content[0].text", "white space"),
    (request(messages=[{"role": "user"}]), "messages[0].content", "missing"),
    (message(""), "messages[0].content", "must not be empty"),
    (message(" \n "), "messages[0].content", "white space"),
    (message([]), "messages[0].content", "must not be empty"),
    (message(7), "messages[0].content", "a string or a list"),
    (message(b"x"), "messages[0].content", "bytes"),
    (message(["x"]), "messages[0].content[0]", "an object with a type"),
    (message([{"text": "x"}]), "messages[0].content[0].type", "missing"),
    (message([{"type": "text"}]), "messages[0].content[0].text", "missing"),
    (message([{"type": "text", "text": ""}]), "messages[0].content[0].text", "empty"),
    (message([{"type": "text", "text": "x", "citations": "y"}]), "messages[0].content[0].citations", "must be a list"),
    (message([{"type": "image"}]), "messages[0].content[0].source", "missing"),
    (message([{"type": "image", "source": "x"}]), "messages[0].content[0].source", "an object"),
    (message([{"type": "image", "source": {}}]), "messages[0].content[0].source.type", "missing"),
    (
        message([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}]),
        "messages[0].content[0].source.data",
        "empty",
    ),
    (message([{"type": "tool_result"}]), "messages[0].content[0].tool_use_id", "missing"),
    (
        request(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "The answer is ("}]),
        "messages[1].role",
        "prefill",
    ),
    (request(prompt="Hello"), "prompt", "only one of the two"),
    (request(messages=None, prompt="  "), "prompt", "white space"),
    (request(messages=None, prompt=5), "prompt", "must be a string"),
    (request(model=None), "model", "is missing"),
    (request(model=5), "model", "must be a string"),
    (request(model="claude-sonet-5-5"), "model", "Did you mean claude-sonnet-5-5"),
    (request(model="global.anthropic.claude-sonnet-5-5"), "model", "Did you mean claude-sonnet-5-5"),
    (request(model="gpt-4"), "model", "no such model: gpt-4"),
    (request(latency="realtme"), "latency", "Did you mean realtime?"),
    (request(latency="Batch"), "latency", "Did you mean batch?"),
    (request(latency=3), "latency", "realtime, interactive, batch, async or deferred"),
    (request(max_tokens=None), "max_tokens", "is missing"),
    (request(max_tokens=0), "max_tokens", "is 0"),
    (request(max_tokens=-5), "max_tokens", "is -5"),
    (request(max_tokens=True), "max_tokens", "is true"),
    (request(max_tokens=10.0), "max_tokens", "is 10"),
    (request(max_tokens=math.nan), "max_tokens", "nan"),
    (request(max_tokens="100"), "max_tokens", 'whole number from 1 to 128,000, is "100".'),
    (request(prompt_cache="3m"), "prompt_cache", '5m or 1h, is "3m".'),
    (request(cache="yes"), "cache", 'is "yes".'),
    (request(deadline="3x"), "deadline", 'is "3x".'),
    (request(deadline="2026-12-0"), "deadline", 'is "2026-12-0".'),
    (request(deadline="5 minutes"), "deadline", 'is "5 minutes".'),
    (request(deadline="when it is done"), "deadline", "is a string of 15 characters."),
    ({"params": 3}, "params", "must be an object, the body of a request, is 3."),
    ({"custom_id": "a", "params": request(), "key": "b"}, "custom_id", "only one of the two"),
    ({"custom_id": "a b\n", "params": request()}, "custom_id", "printable"),
    ({"custom_id": "a", "params": request(), "model": "claude-haiku-4-5"}, "model", "beside params and in it"),
    ({"custom_id": "a", "params": request(), "system": "x"}, "system", "belongs in it"),
    ({"custom_id": "a", "params": request(max_token=5)}, "max_token", "Did you mean max_tokens?"),
    (request(max_tokens=10**5_000), "max_tokens", "more than 15 digits"),
    (request(max_tokens=128_001), "max_tokens", "from 1 to 128,000, is 128,001"),
    (request(max_token=5), "max_token", "Did you mean max_tokens?"),
    (request(mesages=[]), "mesages", "Did you mean messages?"),
    (request(xyzzy=1), "xyzzy", "unknown key."),
    ({**request(), **NUMBERED}, "request", "not a string"),
    (request(stream=True), "stream", "not streamed"),
    (request(temperature=1.5), "temperature", "from 0 to 1, is 1.5"),
    (request(top_p="0.5"), "top_p", 'from 0 to 1, is "0.5"'),
    (request(top_p="half"), "top_p", "is a string of 4 characters."),
    (request(top_k=0.5), "top_k", "whole number"),
    (request(custom_id="x"), "custom_id", "key"),
    (request(system=5), "system", "a string or a list"),
    (request(system=[{"type": "image"}]), "system[0]", "type text"),
    (request(system=[{"type": "text", "text": " "}]), "system[0].text", "white space"),
    (request(tools={}), "tools", "a list of tools"),
    (request(tools=[{}]), "tools[0]", "a name and an input_schema"),
    (request(tools=["x"]), "tools[0]", "a name and an input_schema"),
    (request(tools=[{"name": "a b", "input_schema": SCHEMA}]), "tools[0].name", "letters, digits"),
    (request(tools=[{"name": "a"}]), "tools[0].input_schema", "JSON schema"),
    (request(tools=[{"name": "a", "input_schema": SCHEMA}] * 2), "tools[1].name", "earlier tool"),
    (request(tools=[{"type": 5}]), "tools[0].type", "must be a name"),
    (request(tool_choice={"type": "auto"}), "tool_choice", "needs tools"),
    (request(tool_choice={"type": "must"}), "tool_choice.type", "auto, any, tool or none"),
    (request(thinking={"type": "on"}), "thinking.type", "adaptive, enabled"),
    (request(thinking={"type": "enabled"}), "thinking.budget_tokens", "1,024"),
    (request(thinking={"type": "enabled", "budget_tokens": 2_000}), "thinking.budget_tokens", "less than max_tokens"),
    (request(metadata={"user_id": 5}), "metadata.user_id", "must be a string"),
    (request(stop_sequences="END"), "stop_sequences", "a list"),
    (request(stop_sequences=[""]), "stop_sequences[0]", "empty"),
    (request(service_tier="priority"), "service_tier", "auto or standard_only"),
    (request(output_config={"effort": "huge"}), "output_config.effort", "low, medium"),
    (request(output_config={"format": "json"}), "output_config.format", "an object"),
    (request(cache_control={"type": "ephemeral", "ttl": "2h"}), "cache_control.ttl", "5m or 1h"),
    (request(container=5), "container", "container id"),
    (request(mcp_servers=["x"]), "mcp_servers[0]", "an object"),
    (request(fallbacks="other"), "fallbacks", "default"),
    (request(betas="x"), "betas", "list"),
    (request(key=""), "key", "empty"),
    (request(key="k" * 251), "key", "has 251"),
    (request(key=5), "key", "must be a string"),
    (request(key="a\nb"), "key", "printable"),
    (request(key="a\ud800"), "key", "printable"),
    (request(tenant="t" * 201), "tenant", "has 201"),
    (request(tags=["a"]), "tags", "an object"),
    (request(tags={"a": 5}), "tags.a", "must be a string"),
    (request(tags={"a": "x" * 201}), "tags.a", "has 201"),
    (request(tags={"a": "x\0"}), "tags.a", "printable"),
    (request(tags={"": "x"}), "tags", "the name of a tag"),
    (request(tags={5: "x"}), "tags", "the name of a tag"),
    (request(tags={str(number): "x" for number in range(21)}), "tags", "holds 21"),
    (request(residency=5), "residency", "a name or a list"),
    (request(residency=["eu", 5]), "residency", "must be a string"),
    (request(compliance=[""]), "compliance", "empty"),
    (request(compliance=["x"] * 21), "compliance", "holds 21"),
    (request(cache="yes"), "cache", "true or false"),
    (request(cache=0), "cache", "true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "field", "says"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_is_refused_by_name(bad: dict[str, Any], field: str, says: str) -> None:
    error = refused(bad)
    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert says in str(error)


@pytest.mark.parametrize("value", [None, 5, "text", b"bytes", [request()], ("a", "b")])
def test_a_request_must_be_an_object(value: object) -> None:
    assert "must be an object" in str(refused(value))


def test_prefill_is_taken_by_models_that_have_it() -> None:
    assert known("claude-haiku-4-5") is not None
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "The answer is ("}]
    assert parse(request(model="claude-haiku-4-5", messages=turns))


def nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


def circular() -> dict[str, Any]:
    own: dict[str, Any] = {}
    own["self"] = own
    return own


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        (b"x", "metadata.a.b", "bytes"),
        ({1, 2}, "metadata.a.b", "set"),
        (datetime(2027, 1, 1, tzinfo=UTC), "metadata.a.b", "datetime"),
        (math.nan, "metadata.a.b", "finite"),
        ([1, -math.inf], "metadata.a.b[1]", "finite"),
        (2**70, "metadata.a.b", "64 bits"),
        ("\ud800", "metadata.a.b", "surrogate"),
        ({5: 1}, "metadata.a.b", "not a string"),
        ({"\ud800": 1}, "metadata.a.b", "not a string"),
        (circular(), "metadata.a.b.self", "itself"),
        (nested(300), "metadata.a.b[0]", "levels deep"),
        (object(), "metadata.a.b", "object"),
    ],
)
def test_what_json_does_not_have_is_named_by_its_path(value: object, path: str, says: str) -> None:
    error = refused(request(metadata={"a": {"b": value}}))
    assert error.field.startswith(path)
    assert says in str(error)


def test_null_inside_is_fine() -> None:
    assert json.loads(parse(request(metadata={"user_id": None})).body)["metadata"] == {"user_id": None}


def test_a_request_that_is_too_large_is_told_its_size_and_the_limit() -> None:
    text = str(refused(message("x" * (40 * 1024**2))))
    assert text == "request: has 40.0 MB; the Messages API takes at most 32 MB."


def test_the_number_of_the_request_stands_in_front() -> None:
    with pytest.raises(InvalidRequest) as caught:
        list(parse_requests([request(), request(messages=[])], settings=SETTINGS, now=lambda: NOW))
    assert str(caught.value) == "request 1: messages: must not be empty."
    assert caught.value.field == "messages"


class TestEstimate:
    def test_text_is_rather_over_than_under(self) -> None:
        words = "The parties agree that this contract is governed by the law of the place named above. " * 100
        assert len(words) / 4 < parse(message(words)).input_estimate < len(words) / 3

    def test_characters_of_several_bytes_count_more(self) -> None:
        assert parse(message("契約" * 500)).input_estimate > 2.5 * parse(message("ab" * 500)).input_estimate

    def test_everything_counts(self) -> None:
        base = parse(request()).input_estimate
        schema = {"type": "object", "description": "word " * 200}
        assert parse(request(system="word " * 200)).input_estimate > base + 200
        assert parse(request(tools=[{"name": "t", "input_schema": schema}])).input_estimate > base + 500

    def test_images_count_by_number_not_by_size(self) -> None:
        def image(size: int) -> dict[str, Any]:
            source = {"type": "base64", "media_type": "image/png", "data": "A" * size}
            return {"type": "image", "source": source}

        small, large = parse(message([image(1_000)])), parse(message([image(1_000_000)]))
        assert small.input_estimate == large.input_estimate
        assert 1_600 < parse(message([image(8)])).input_estimate < 1_700
        inside = message([{"type": "tool_result", "tool_use_id": "t", "content": [image(1_000_000)]}])
        assert parse(inside).input_estimate < 1_700

    def test_documents_count_by_size(self) -> None:
        def pdf(size: int) -> dict[str, Any]:
            source = {"type": "base64", "media_type": "application/pdf", "data": "A" * size}
            return message([{"type": "document", "source": source}])

        assert parse(pdf(1_000_000)).input_estimate > 5 * parse(pdf(100_000)).input_estimate > 0


class TestWarnings:
    def test_names_a_class_that_fits(self) -> None:
        assert parse(request(max_tokens=100, latency="realtime")).warnings == ()
        (warning,) = parse(request(max_tokens=400, latency="realtime")).warnings
        assert "realtime ends after 3 s; use latency interactive, or at most " in warning
        (warning,) = parse(request(max_tokens=60_000, latency="realtime")).warnings
        assert "; use latency batch, or at most " in warning

    @pytest.mark.parametrize("latency", ["batch", "async", "deferred"])
    def test_a_class_without_a_cap_takes_any_length(self, latency: str) -> None:
        assert parse(request(max_tokens=128_000, latency=latency)).warnings == ()

    def test_a_beta_field_without_its_beta(self) -> None:
        edits: dict[str, Any] = {"context_management": {"edits": []}}
        assert "context_management: in beta" in parse(request(**edits)).warnings[0]
        assert parse(request(**edits, betas=["context-management-2025-06-27"])).warnings == ()


def test_betas_go_by_the_name_of_the_wires() -> None:
    assert json.loads(parse(request(betas=["compact-2026-09-04"])).body)["anthropic_beta"] == ["compact-2026-09-04"]
    assert parse(request(betas=[])) == parse(request())


class TestMany:
    def test_names_the_index_and_streams(self) -> None:
        taken: list[int] = []

        def source() -> Iterator[dict[str, Any]]:
            for number in range(5):
                taken.append(number)
                yield request(key=f"k{number}") if number != 3 else request(messages=[])

        jobs = parse_requests(source(), settings=SETTINGS, now=lambda: NOW)
        assert taken == []
        assert [next(jobs).key for _ in range(3)] == ["k0", "k1", "k2"]
        assert taken == [0, 1, 2]
        with pytest.raises(InvalidRequest, match=r"^request 3: messages: must not be empty\.$"):
            next(jobs)

    def test_defaults_apply(self) -> None:
        (job,) = parse_requests([{"prompt": "Hi"}], settings=SETTINGS, defaults=request(messages=None), now=lambda: NOW)
        assert job.max_tokens == 100

    def test_the_times_of_each_count_from_the_moment_it_is_read(self) -> None:
        moments = iter((NOW, NOW + 5))
        first, second = parse_requests([request(deadline=60)] * 2, settings=SETTINGS, now=lambda: next(moments))
        assert (first.deadline_at, second.deadline_at) == (NOW + 60, NOW + 65)

    @pytest.mark.parametrize("value", [request(), "text", 5, None])
    def test_one_request_is_not_many(self, value: Any) -> None:
        with pytest.raises(InvalidRequest, match="iterable"):
            list(parse_requests(value, settings=SETTINGS, now=lambda: NOW))

    def test_what_the_iterable_raises_passes_through(self) -> None:
        def source() -> Iterator[dict[str, Any]]:
            yield request()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(parse_requests(source(), settings=SETTINGS, now=lambda: NOW))


def test_the_fields_are_those_of_the_sdk() -> None:
    """A field that a new SDK brings must be taken or refused on purpose."""
    first = set(MessageCreateParamsBase.__annotations__)
    beta = set(beta_params.MessageCreateParamsBase.__annotations__)
    known_here = BODY_FIELDS.keys() | REFUSED_FIELDS.keys() | {"model"}
    assert (first | beta) - known_here == set()
    assert set(BODY_FIELDS) - first - {"betas"} - {"temperature", "top_p", "top_k"} == BETA_FIELDS
    assert OWN_FIELDS.isdisjoint(BODY_FIELDS)
    assert REFUSED_FIELDS.keys().isdisjoint(OWN_FIELDS | BODY_FIELDS.keys())


NAMES = {"model", "latency", "service_tier", "speed"}


@pytest.mark.parametrize("field", sorted((OWN_FIELDS | BODY_FIELDS.keys()) - NAMES))
def test_one_word_in_the_wrong_field_is_not_repeated(field: str) -> None:
    for value in (
        "hunter2",
        ["hunter2"],
        [["hunter2"]],
        {"type": ["hunter2"]},
        {"a": {"hunter2"}},
        [{"type": "hunter2"}],
    ):
        whole = request(**{field: value})
        whole.pop("messages" if field == "prompt" else "", None)
        try:
            parse(whole)
        except InvalidRequest as error:
            said = str(error)
        else:
            said = ""
        assert "hunter2" not in said


def test_a_producer_needs_no_cloud_sdk() -> None:
    code = (
        "import sys, trivet_tasks.requests.reading, trivet_tasks.requests.jsonl, trivet_tasks.requests.features;"
        "sys.exit(bool({'anthropic', 'boto3', 'google.auth', 'celery', 'genai_prices'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.just(SECRET), st.just(SECRET * 20),
    st.text(max_size=8), st.sampled_from(["user", "assistant", "system", "text", "image", "base64", "tool", "enabled"]),
    st.binary(max_size=3), st.sampled_from(["\ud800", 10**400, {1}, object(), datetime.max]),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(
        [
            "role",
            "content",
            "type",
            "text",
            "source",
            "data",
            "media_type",
            "name",
            "input_schema",
            "ttl",
            "id",
            "user_id",
            "effort",
            "format",
            "thinking",
        ]
    ),
    st.just(SECRET),
    st.text(max_size=5),
    st.integers(),
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
FIELDS = sorted(OWN_FIELDS | BODY_FIELDS.keys() | REFUSED_FIELDS.keys())


def signal(value: Any) -> None:
    error: InvalidRequest | None = None
    try:
        job = parse(value)
    except InvalidRequest as caught:
        error = caught
    if error is not None:
        assert SECRET not in str(error)
        assert SECRET not in error.field
        assert str(error).startswith(error.field)
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
    else:
        assert orjson.loads(job.body)["messages"]
        assert SECRET not in repr(job).replace(repr(dict(job.tags)), "").replace(repr(job.key), "").replace(
            repr(job.tenant), ""
        ).replace(repr(job.residency), "").replace(repr(job.compliance), "")


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.just(SECRET) | st.text(max_size=5), trees, max_size=4))
def test_no_other_exception_and_no_prompt_in_it(fields: dict[str, Any]) -> None:
    signal(request(**fields))
    signal(fields)


@hypothesis_settings(max_examples=300, deadline=None)
@given(trees)
def test_no_content_breaks_it(tree: Any) -> None:
    signal(message(tree))
    signal(message([tree]))
    signal(request(messages=tree))
    signal(request(system=[tree], tools=[tree]))
    signal(tree)


class _Number(Enum):
    ONE = 1


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", ["claude-sonnet-5-5", "claude-haiku-4-5-20251001", "no-such", 7]),
        ("max_tokens", [1, True, 1.0, "1", 100, 1_000_000, math.nan, _Number.ONE]),
        ("latency", ["realtime", Latency.REALTIME, "async", "soon", b"async", math.nan, None]),
        ("tenant", ["one", "other", "", 1, math.nan, UUID(int=1), str(UUID(int=1)), None]),
        ("residency", ["eu", ["eu"], ("eu", "us"), {"eu"}, [1], [None], [UUID(int=1)], math.nan, None]),
        ("cache", [True, False, 1, 0, "true", math.nan, None]),
        ("prompt_cache", [True, False, "5m", "1h", 1, None]),
    ],
)
def test_what_is_read_together_is_read_as_each_alone(field: str, values: list[Any]) -> None:
    def said(reader: RequestReader, value: Any) -> JobSpec | str:
        try:
            return reader.read(request(**{field: value}), NOW)
        except InvalidRequest as error:
            return str(error)

    by_itself = [said(RequestReader(SETTINGS), value) for value in values]
    for first, second in permutations(range(len(values)), 2):
        reader = RequestReader(SETTINGS)
        assert [said(reader, values[first]), said(reader, values[second])] == [by_itself[first], by_itself[second]]
