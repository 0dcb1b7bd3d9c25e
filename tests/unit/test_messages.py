"""Messages are read as they were written, and nothing else is accepted as one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import MODEL

from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import MAX_JOBS, Chunk, MalformedMessage

JOBS = (DispatchedJob("a" * 32, 1, 10, 100), DispatchedJob("b" * 32, 7, 20, 200))
CHUNK = Chunk("bedrock-us-east-1", "bedrock", Latency.BATCH, MODEL, JOBS)
PROBE = Chunk("bedrock-us-east-1", "bedrock", Latency.BATCH, MODEL, JOBS[:1], probe="0192f0c1token")


@pytest.mark.parametrize("chunk", [CHUNK, PROBE], ids=["jobs", "probe"])
def test_a_chunk_comes_back_as_it_was_sent(chunk: Chunk) -> None:
    sent = json.loads(json.dumps(chunk.to_args()))
    assert Chunk.from_args("bedrock", sent) == chunk


def test_what_a_person_sees_of_a_message_has_no_ids_and_no_token() -> None:
    assert str(CHUNK) == f"(route=bedrock-us-east-1, class=batch, model={MODEL}, jobs=2)"
    assert str(PROBE) == f"(route=bedrock-us-east-1, class=batch, model={MODEL}, probe)"


GOOD: list[object] = CHUNK.to_args()
ONE = ["a" * 32, 1, 10, 100, None]


def with_jobs(*jobs: object) -> list[object]:
    return [*GOOD[:3], list(jobs), *GOOD[4:]]


@pytest.mark.parametrize(
    "args",
    [
        [],
        GOOD[:5],
        [*GOOD, None],
        [None, *GOOD[1:]],
        ["", *GOOD[1:]],
        ["r" * 101, *GOOD[1:]],
        ["a/../b", *GOOD[1:]],
        ["route\n", *GOOD[1:]],
        [GOOD[0], "urgent", *GOOD[2:]],
        [GOOD[0], ["batch"], *GOOD[2:]],
        [*GOOD[:2], "", *GOOD[3:]],
        [*GOOD[:2], "m" * 121, *GOOD[3:]],
        [*GOOD[:2], "a\x1b[31m", *GOOD[3:]],
        [*GOOD[:2], {"model": 1}, *GOOD[3:]],
        with_jobs(),
        [*GOOD[:3], {"a": 1}, *GOOD[4:]],
        [*GOOD[:3], "jobs", *GOOD[4:]],
        with_jobs(*([f"{n:032x}", 1, 1, 1, None] for n in range(MAX_JOBS + 1))),
        with_jobs("a" * 32),
        with_jobs(ONE[:4]),
        with_jobs([*ONE, 1]),
        with_jobs(["A" * 32, *ONE[1:]]),
        with_jobs(["a" * 33, *ONE[1:]]),
        with_jobs(["' OR 1=1 --", *ONE[1:]]),
        with_jobs([None, *ONE[1:]]),
        with_jobs(["a" * 32, True, 10, 100, None]),
        with_jobs(["a" * 32, -1, 10, 100, None]),
        with_jobs(["a" * 32, 1.0, 10, 100, None]),
        with_jobs(["a" * 32, "1", 10, 100, None]),
        with_jobs(["a" * 32, 1, 2**31, 100, None]),
        with_jobs(["a" * 32, 1, 10, None, None]),
        with_jobs([*ONE[:4], "short"]),
        with_jobs([*ONE[:4], 7]),
        with_jobs(ONE, ONE),
        [*GOOD[:4], "token", False],
        [*GOOD[:4], "", True],
        [*with_jobs(ONE)[:4], "a token!", False],
        [*with_jobs(ONE)[:4], "t" * 65, False],
        [*with_jobs(ONE)[:4], None, False],
        [*with_jobs(ONE)[:4], "", 1],
    ],
    ids=str,
)
def test_anything_else_is_refused_by_one_error_that_quotes_nothing(args: list[object]) -> None:
    with pytest.raises(MalformedMessage) as refused:
        Chunk.from_args("bedrock", args)
    assert not any(word in str(refused.value) for word in ("OR 1=1", "\x1b", "urgent", "token!"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(_JSON, max_size=7), st.integers(0, 5))
def test_whatever_arrives_is_read_or_refused(junk: list[object], at: int) -> None:
    """Reading raises no other error, and a message that is read equals one that would have been written."""
    for args in (junk, [*GOOD[:at], *junk, *GOOD[at + 1 :]]):
        try:
            chunk = Chunk.from_args("bedrock", args)
        except MalformedMessage:
            continue
        assert Chunk.from_args("bedrock", chunk.to_args()) == chunk
