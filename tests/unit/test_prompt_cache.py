"""Marks on the common prefixes of a batch's requests: their place, and never on what only one request has."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet_store.steps import Prompt
from trivet_tasks.catalog import MODELS
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.price_book import PriceBook
from trivet_tasks.requests.prompt_cache import LEAST_ELSE, MAX_LINES, Sharing, least_tokens, marked
from trivet_tasks.requests.reading import parse_request

MODEL = "claude-sonnet-5"
LONG = "rule " * 2_000
OTHER = "fact " * 2_000
SETTINGS = Settings()


def parsed(**request: Any) -> JobSpec:
    given = {"model": MODEL, "max_tokens": 10, "prompt_cache": True, **request}
    if "messages" not in given:
        given.setdefault("prompt", "a question")
    return parse_request(given, settings=SETTINGS, now=0.0)


def blocks(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


def marks(spec: JobSpec) -> list[Any]:
    """Return each part that carries a mark, and the mark."""
    body = json.loads(spec.body)
    parts = {"tools": body.get("tools"), "system": body.get("system")}
    parts |= {f"message {n}": message["content"] for n, message in enumerate(body["messages"])}
    return [
        (name, index, block["cache_control"])
        for name, part in parts.items()
        for index, block in enumerate(part if isinstance(part, list) else [])
        if "cache_control" in block
    ]


TOOLS = [
    {"name": "look", "input_schema": {"type": "object"}},
    {"name": "find", "description": LONG, "input_schema": {}},
]


@pytest.mark.parametrize(
    ("request_", "where"),
    [
        ({"system": LONG}, ("system", 0)),
        ({"system": [{"type": "text", "text": "be brief"}, {"type": "text", "text": LONG}]}, ("system", 1)),
        ({"tools": TOOLS}, ("tools", 1)),
        ({"tools": TOOLS, "system": "be brief"}, ("system", 0)),
        ({"messages": blocks(LONG, "more", "a question")}, ("message 0", 1)),
        ({"system": LONG, "messages": blocks("a document", "a question")}, ("message 0", 0)),
    ],
    ids=["system", "last of system", "last tool", "system after tools", "all blocks but the last", "both"],
)  # fmt: skip
def test_the_mark_is_at_the_end_of_the_prefix(request_: dict[str, Any], where: tuple[str, int]) -> None:
    first, second = Sharing().marked([parsed(**request_), parsed(**request_)])
    assert marks(first) == marks(second) == [(*where, {"type": "ephemeral"})]
    assert first.line == second.line is not None


def test_an_hour_is_said_and_five_minutes_are_the_default() -> None:
    for value, mark in (("1h", {"type": "ephemeral", "ttl": "1h"}), ("5m", {"type": "ephemeral"})):
        (_, found) = Sharing().marked([parsed(system=LONG, prompt_cache=value)] * 2)
        assert marks(found)[0][2] == mark


def test_a_mark_changes_nothing_else() -> None:
    plain, spec = parsed(system=LONG, prompt_cache=None), parsed(system=LONG)
    done = marked(spec, spec.prefixes[0])
    assert plain.fingerprint == spec.fingerprint == done.fingerprint, "the same request, marked or not"
    body = json.loads(done.body)
    del body["system"][0]["cache_control"]
    assert body == {**json.loads(plain.body), "system": [{"type": "text", "text": LONG}]}


@pytest.mark.parametrize(
    "request_",
    [
        {"system": "short"},
        {"messages": blocks("short", "a question")},
        {"prompt": LONG},
        {"system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]},
        {"system": LONG, "cache_control": {"type": "ephemeral"}},
        {"system": LONG, "prompt_cache": False},
        {"system": LONG, "prompt_cache": None},
        {"system": LONG, "model": "claude-haiku-4-5"},
    ],
    ids=["short", "short blocks", "all its own", "marked already", "marked as a whole", "off", "not asked", "too short for the model"],
)  # fmt: skip
def test_what_is_left_alone(request_: dict[str, Any]) -> None:
    spec = parsed(**request_)
    assert Sharing().marked([spec, spec]) == [spec, spec]


@pytest.mark.parametrize("value", [0, 1, "yes", "2h", [], 5.0])
def test_another_value_is_an_error(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"prompt_cache: must be true, false, 5m or 1h"):
        parsed(system=LONG, prompt_cache=value)


def test_a_document_that_one_request_has_is_not_written_to_the_cache() -> None:
    """Only what all have, before it, is: writing costs more than plain input, and nobody would read it."""
    group = [parsed(system=LONG, messages=blocks(f"{number} {OTHER}", "a question")) for number in range(3)]
    done = Sharing().marked(group)
    assert [marks(spec) for spec in done] == [[("system", 0, {"type": "ephemeral"})]] * 3
    assert len({spec.line for spec in done}) == 1
    unlike = [parsed(messages=blocks(f"{number} {OTHER}", "a question")) for number in range(3)]
    assert Sharing().marked(unlike) == unlike


def test_what_an_earlier_group_had_is_shared() -> None:
    sharing = Sharing()
    one = parsed(system=LONG)
    assert sharing.marked([one]) == [one], "nobody else has it yet"
    (second,) = sharing.marked([one])
    assert marks(second)
    assert second.line


def test_models_and_what_changes_the_cache_keep_prefixes_apart() -> None:
    specs = [
        parsed(system=LONG),
        parsed(system=LONG, model="claude-opus-5"),
        parsed(system=LONG, thinking={"type": "enabled", "budget_tokens": 1_024}, max_tokens=2_000),
        parsed(system=LONG + "."),
    ]
    assert Sharing().marked(specs) == specs
    other = parsed(system=LONG, max_tokens=77, metadata={"user_id": "x"})
    assert other.prefixes == specs[0].prefixes


def test_realtime_is_marked_and_never_waits() -> None:
    done = Sharing().marked([parsed(system=LONG, latency=Latency.REALTIME)] * 2)
    assert all(marks(spec) and spec.line is None for spec in done)


def test_lines_are_few() -> None:
    group = [parsed(system=f"{number} {LONG}") for number in range(MAX_LINES + 5) for _ in range(2)]
    done = Sharing().marked(group)
    assert all(marks(spec) for spec in done)
    assert len({spec.line for spec in done} - {None}) == MAX_LINES


def test_least_tokens_are_those_of_the_model() -> None:
    assert [least_tokens(name) for name in ("claude-opus-4-5", "claude-haiku-4-5", "claude-haiku-5-5")] == [
        LEAST_ELSE
    ] * 3
    assert {least_tokens(model.id) for model in MODELS} == {1_024, 2_048, LEAST_ELSE}


TODAY = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    """The price list, read: that takes longer than any example may."""
    book = PriceBook()
    book.price("anthropic", MODELS[0].id, MODELS[0].id, None, TODAY, Usage(1, 1))
    return book


@given(
    model=st.sampled_from([model.id for model in MODELS]),
    tokens=st.integers(1, 10**6),
    output=st.integers(0, 10**5),
    hour=st.booleans(),
    read=st.booleans(),
)
def test_estimates_of_marked_calls_stay_upper_bounds(
    book: PriceBook, model: str, tokens: int, output: int, hour: bool, read: bool
) -> None:
    plain = book.price("anthropic", model, model, None, TODAY, Usage(tokens, output)).cost_usd
    mark = {"type": "ephemeral", **({"ttl": "1h"} if hour else {})}
    body = json.dumps({"system": [{"cache_control": mark}]}, separators=(",", ":")).encode()
    kind = "read" if read else "write_1h" if hour else "write_5m"
    usage = Usage(
        output_tokens=output,
        cache_read_tokens=tokens if kind == "read" else 0,
        cache_write_5m_tokens=tokens if kind == "write_5m" else 0,
        cache_write_1h_tokens=tokens if kind == "write_1h" else 0,
    )
    real = book.price("anthropic", model, model, None, TODAY, usage).cost_usd
    bound = Prompt(body).maximum_cost(plain)
    assert (bound is None) == (real is None)
    assert bound is None or real is None or bound >= real
    assert Prompt(b'{"system":"x"}').maximum_cost(plain) == plain
    assert Prompt(body).maximum_cost(Decimal(1)) == (2 if hour else Decimal("1.25"))
