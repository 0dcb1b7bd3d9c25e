"""Signing of cached answers: what was changed, moved or kept too long is not opened."""

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trivet_routing.response_cache import AnswerSeal, Unusable
from trivet_store.jobs.answering import CachedAnswer

KEY, OTHER = b"the key of this installation, long", b"the key of another installation!!"
CACHE_KEY = "c" * 32
NOW = 1_800_000_000.0

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
answers = st.builds(
    CachedAnswer,
    st.binary(max_size=200),
    _TEXT,
    _TEXT,
    st.none() | st.decimals(0, 1_000, places=12),
    st.none() | _TEXT,
)


def seal(key: bytes = KEY, now: float = NOW) -> AnswerSeal:
    return AnswerSeal(key, lambda: now)


@given(answers)
def test_what_was_sealed_is_opened_as_it_was(answer: CachedAnswer) -> None:
    opened = seal().open(CACHE_KEY, seal().seal(CACHE_KEY, answer, 60))
    assert opened == answer
    assert isinstance(opened, CachedAnswer)
    assert type(opened.cost_usd) is type(answer.cost_usd)


@given(answers, st.data())
def test_no_changed_byte_goes_unseen(answer: CachedAnswer, data: st.DataObject) -> None:
    entry = bytearray(seal().seal(CACHE_KEY, answer, 60))
    at = data.draw(st.integers(0, len(entry) - 1))
    entry[at] ^= data.draw(st.integers(1, 255))
    found = seal().open(CACHE_KEY, bytes(entry))
    # the line feed behind the MAC says nothing; whatever stands there, the answer is the one that was signed
    assert found is Unusable.FOREIGN or (at == 64 and found == answer)


@given(answers, st.binary(max_size=300), st.integers(0, 400), st.integers(0, 400))
def test_no_piece_put_in_or_taken_out_goes_unseen(answer: CachedAnswer, piece: bytes, begin: int, end: int) -> None:
    entry = seal().seal(CACHE_KEY, answer, 60)
    changed = entry[:begin] + piece + entry[end:]
    assume(changed[:64] + changed[65:] != entry[:64] + entry[65:])
    assert seal().open(CACHE_KEY, changed) is Unusable.FOREIGN


@given(st.binary(max_size=400), st.text("0123456789abcdef", min_size=32, max_size=32))
def test_junk_is_never_an_answer(entry: bytes, cache_key: str) -> None:
    assert seal().open(cache_key, entry) is Unusable.FOREIGN


@given(answers, st.text(max_size=40))
def test_an_answer_belongs_to_one_cache_key(answer: CachedAnswer, other: str) -> None:
    assume(other != CACHE_KEY)
    assert seal().open(other, seal().seal(CACHE_KEY, answer, 60)) is Unusable.FOREIGN


@pytest.mark.parametrize(("after_s", "opened"), [(0.0, True), (59.9, True), (60.0, False), (1e9, False)])
def test_it_ends_by_the_databases_clock(after_s: float, opened: bool) -> None:
    answer = CachedAnswer(b"{}", "end_turn", "anthropic", Decimal("0.1"), "tenant")
    entry = seal().seal(CACHE_KEY, answer, 60)
    assert (seal(now=NOW + after_s).open(CACHE_KEY, entry) == answer) is opened


def test_another_installations_answers_are_foreign() -> None:
    answer = CachedAnswer(b"{}", "end_turn", "anthropic", None)
    assert seal().open(CACHE_KEY, seal(OTHER).seal(CACHE_KEY, answer, 60)) is Unusable.FOREIGN
