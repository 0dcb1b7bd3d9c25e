"""The demo's documents, its counting of throttling, and its audit of calls against attempts."""

from decimal import Decimal
from importlib import metadata
from itertools import islice

import pytest
from tests.builders import breaker

from trivet.admin import AttemptFate, Progress, RouteAttempts
from trivet.demo.documents import MAX_CHARS, MIN_CHARS, QUESTIONS, Piece, cut, pieces, prompt, prompts
from trivet.demo.ledger import Reading, RouteReading, doubled, mismatches
from trivet.demo.watch import ConditionMonitor, Journal
from trivet_simulator import Call
from trivet_tasks.errors import ProcessFailed
from trivet_tasks.states import BatchState


def test_pieces_are_real_text_of_installed_packages_within_their_bounds() -> None:
    found = list(islice(pieces(), 50))
    assert len(found) == 50
    installed = {dist.name for dist in metadata.distributions()}
    for piece in found:
        assert MIN_CHARS <= len(piece.text) <= MAX_CHARS
        assert piece.package in installed


def test_the_order_is_the_same_every_time() -> None:
    assert list(islice(prompts(10_000), 40)) == list(islice(prompts(10_000), 40))


def test_as_many_as_asked_for_and_no_two_the_same() -> None:
    count = 2 * sum(1 for _ in pieces()) + 7
    made = list(prompts(count))
    assert len(made) == len(set(made)) == count


def test_a_piece_that_comes_again_is_asked_something_else_forever() -> None:
    piece = Piece("some-package", "text")
    made = [prompt(piece, again) for again in range(3 * len(QUESTIONS))]
    assert len(set(made)) == len(made)
    assert all("some-package" in text for text in made)


def test_a_machine_without_any_documentation_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda: iter(()))
    with pytest.raises(ProcessFailed, match="no documents"):
        list(prompts(1))


@pytest.mark.parametrize(
    "page",
    [
        "short",
        "p" * 20_000,
        "\n\n".join(["a paragraph of some words."] * 400),
        "x" * 899 + "\n\n" + "y" * 3_999 + "\n\n" + "z" * 499,
        "",
    ],
)
def test_cutting_keeps_to_the_bounds_and_invents_nothing(page: str) -> None:
    found = list(cut("package", page))
    assert all(MIN_CHARS <= len(piece.text) <= MAX_CHARS for piece in found)
    kept = "".join("".join(piece.text for piece in found).split())
    assert "".join(page.split()).startswith(kept)
    assert len("".join(page.split())) - len(kept) < MIN_CHARS


def _call(attempt: str | None, finished: float, *, complete: bool = True) -> Call:
    status = 200 if complete else 429
    return Call("anthropic", "claude", attempt, finished - 1, finished=finished, status=status, complete=complete)


def test_one_answer_a_job_is_not_doubled_and_refusals_do_not_count() -> None:
    calls = [_call("a1", 1, complete=False), _call("a2", 2), _call("b1", 1)]
    fates = [
        AttemptFate("a1", "a", "rate_limited"),
        AttemptFate("a2", "a", "succeeded"),
        AttemptFate("b1", "b", "succeeded"),
    ]
    assert doubled(calls, fates) == 0
    assert list(mismatches(calls, fates)) == []


@pytest.mark.parametrize(
    ("first", "expected"),
    [("succeeded", 1), ("connection", 1), ("timeout", 0), ("unknown", 0), ("cancelled", 0)],
)
def test_a_second_answer_is_doubled_unless_the_first_was_lost_on_its_way(first: str, expected: int) -> None:
    calls = [_call("a2", 5), _call("a1", 3)]
    assert doubled(calls, [AttemptFate("a1", "a", first), AttemptFate("a2", "a", "succeeded")]) == expected


def test_each_of_three_answers_is_counted_beyond_the_first() -> None:
    fates = [AttemptFate(f"a{n}", "a", "succeeded") for n in range(3)]
    assert doubled([_call(f"a{n}", n + 1) for n in range(3)], fates) == 2


def test_a_call_without_a_row_a_row_called_twice_and_an_unheard_success_are_named() -> None:
    calls = [_call("nobody's", 1), _call(None, 1), _call("a1", 2), _call("a1", 3)]
    said = list(mismatches(calls, [AttemptFate("a1", "a", "succeeded"), AttemptFate("b1", "b", "succeeded")]))
    assert len(said) == 3
    assert said[0].startswith("2 calls")
    assert said[1].startswith("1 attempts made more than one call")
    assert said[2].startswith("1 attempts are written down as succeeded")


def _reading(at: float, breakers: dict[str, tuple[str, float]], *, waiting: int = 5) -> Reading:
    progress = Progress("demo", BatchState.OPEN, 0.0, 10, waiting, 0, 10 - waiting, 0, 0, 0, Decimal(0), 10, None)
    routes = {
        name: RouteReading(breaker(state=state, wait_s=wait_s), RouteAttempts())
        for name, (state, wait_s) in breakers.items()
    }
    return Reading(at, progress, routes)


SHUT = {"a": ("limited", 3.0), "b": ("open", 0.0)}


@pytest.mark.parametrize(
    ("breakers", "waiting", "expected_s"),
    [
        (SHUT, 5, 1.0),
        (SHUT, 0, 0.0),
        ({**SHUT, "c": ("healthy", 0.0)}, 5, 0.0),
        ({**SHUT, "c": ("healthy", 0.05)}, 5, 0.0),
        ({**SHUT, "a": ("limited", 0.4)}, 5, 0.4),
    ],
    ids=[
        "every route is shut",
        "nothing waits",
        "one has room",
        "one is at its pace",
        "one opens before the next reading",
    ],
)
def test_throttled_is_the_time_in_which_no_route_could_take_a_waiting_job(
    breakers: dict[str, tuple[str, float]], waiting: int, expected_s: float
) -> None:
    watch = ConditionMonitor(Journal(), 0.0)
    watch.update(_reading(0.0, breakers, waiting=waiting))
    watch.update(_reading(1.0, {"a": ("healthy", 0.0)}))
    assert watch.throttled_s == pytest.approx(expected_s)


def test_a_route_that_is_limited_again_and_again_is_one_line_and_says_once_that_it_is_well() -> None:
    journal = Journal()
    watch = ConditionMonitor(journal, 0.0)
    for at, state in ((0.0, "healthy"), (1.0, "limited"), (2.0, "healthy"), (2.5, "limited"), (3.0, "healthy")):
        watch.update(_reading(at, {"a": (state, 0.0)}))
    assert len(journal.lines) == 1
    watch.update(_reading(5.0, {"a": ("healthy", 0.0)}))
    assert [line.text for line in journal.lines][1:] == ["a healthy again after 1.5 s"]
