"""Shared prefixes as a plan counts them, against the marks that a batch of the same requests gets."""

import math
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivet.client.submitting import GROUP_ROWS
from trivet.plan.lengths import Lengths
from trivet.plan.shared_prefixes import PrefixCounter, Use, Used, saving
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import JobSpec
from trivet_tasks.prices.price_book import TokenPrices
from trivet_tasks.requests.prompt_cache import Sharing
from trivet_tasks.requests.reading import RequestReader

D = Decimal
MODEL = "claude-sonnet-5"
LONG = "rule " * 900
PRICES = TokenPrices(-1, D(3), D(15), D("0.3"), D("3.75"), D(6))
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
RECENT: dict[str, float] = {"line_s": 0.1, "call_s": 5.0}


def jobs(systems: list[int], **defaults: Any) -> list[JobSpec]:
    """Requests with a system prompt each; below 0: none that is long enough."""
    reader = RequestReader(Settings(), {"model": MODEL, "max_tokens": 10, **defaults})
    texts = [f"{number} {LONG}" if number >= 0 else "short" for number in systems]
    return [reader.read({"prompt": f"q{at}", "system": text}, 0.0) for at, text in enumerate(texts)]


def counted(requests: list[JobSpec], most: int = 100) -> dict[Use[str], Used]:
    counter: PrefixCounter[str] = PrefixCounter(most)
    for request in requests:
        counter.add(request, "kind")
    return counter.uses()


def total(uses: dict[Use[str], Used], figure: str) -> int:
    return sum(getattr(used, figure) for used in uses.values())


def marked(requests: list[JobSpec]) -> list[JobSpec]:
    """The requests that a batch marks."""
    sharing, rows = Sharing(), GROUP_ROWS["sqlite"]
    groups = (requests[at : at + rows] for at in range(0, len(requests), rows))
    return [spec for group in groups for spec in sharing.marked(group) if b"cache_control" in spec.body]


systems = st.lists(st.integers(-1, 5), max_size=30)


@UNHURRIED
@given(systems)
def test_the_plan_counts_those_that_a_batch_marks(found: list[int]) -> None:
    uses = counted(jobs(found))
    batch = marked(jobs(found, prompt_cache=True))
    assert total(uses, "calls") == len(batch)
    assert total(uses, "prefixes") == len({spec.prefixes[0].digest for spec in batch})
    asked = counted(jobs(found, prompt_cache=True))
    assert {use._replace(asked=None): used for use, used in asked.items()} == uses


@UNHURRIED
@given(systems, st.integers(1, 3))
def test_with_more_prefixes_than_it_follows_it_claims_no_more_than_there_is(found: list[int], most: int) -> None:
    exact, bounded = counted(jobs(found)), counted(jobs(found), most)
    for figure in ("calls", "call_tokens"):
        assert total(bounded, figure) == total(exact, figure)
    for figure in ("prefixes", "prefix_tokens"):
        assert total(exact, figure) <= total(bounded, figure)


def test_groups_and_lines_of_a_batch_are_kept() -> None:
    rows = GROUP_ROWS["sqlite"]
    uses = counted(jobs([0] + [-1] * (rows - 1) + [0, 0, 0]))
    ((use, used),) = uses.items()
    assert (used.prefixes, used.calls) == (1, 3), "the first is alone in its group and stays unmarked"
    assert (use.warmed, use.lines_apart) == (True, 1)
    ((use, _),) = counted(jobs([0, -1, -1, -1] * 5)).items()
    assert use.lines_apart == 4
    realtime = counted(jobs([0, 0], latency="realtime"))
    assert [use.warmed for use in realtime] == [False]


uses = st.builds(
    lambda prefixes, more, tokens: Used(prefixes, prefixes + more, prefixes * tokens, (prefixes + more) * tokens),
    st.integers(1, 50),
    st.integers(0, 10_000),
    st.integers(1_024, 100_000),
)


@given(uses)
def test_one_write_and_reads_by_all_others(used: Used) -> None:
    use = Use("kind", None, warmed=True, pace=0)
    found = saving(use, used, [(D(1), PRICES)], "5m", **RECENT)
    reads = used.call_tokens - used.prefix_tokens
    assert found == reads * (PRICES.input - PRICES.cache_read) - used.prefix_tokens * D("0.75")
    dearer = saving(use, used, [(D(1), PRICES)], "1h", **RECENT)
    assert dearer < found


@given(uses, st.floats(0, 1e4), st.floats(0, 600), st.booleans(), st.sampled_from(["5m", "1h"]))
def test_a_saving_is_never_more_than_all_reads_and_never_less_than_all_writes(
    used: Used, line_s: float, call_s: float, warmed: bool, keep: Any
) -> None:
    use = Use("kind", None, warmed=warmed, pace=0)
    halves = [(D("0.5"), PRICES), (D("0.5"), PRICES)]
    for routes in ([(D(1), PRICES)], halves):
        found = saving(use, used, routes, keep, line_s=line_s, call_s=call_s)
        written = PRICES.cache_write_5m if keep == "5m" else PRICES.cache_write_1h
        assert -used.call_tokens * (written - PRICES.input) <= found
        assert found < used.call_tokens * (PRICES.input - PRICES.cache_read)


def test_a_cache_that_forgets_between_two_uses_saves_nothing() -> None:
    used, use = Used(1, 10, 2_000, 20_000), Use("kind", None, warmed=True, pace=0)
    seldom = {"line_s": 400.0, "call_s": 5.0}
    assert saving(use, used, [(D(1), PRICES)], "5m", **seldom) == -20_000 * D("0.75")
    assert saving(use, used, [(D(1), PRICES)], "1h", **seldom) == 18_000 * D("2.7") - 2_000 * 3


def test_without_a_first_call_those_that_begin_with_it_write_too() -> None:
    used, use = Used(1, 100, 2_000, 200_000), Use("kind", None, warmed=False, pace=0)
    found = saving(use, used, [(D(1), PRICES)], "5m", line_s=0.5, call_s=10)
    assert found == 79 * 2_000 * D("2.7") - 21 * 2_000 * D("0.75")
    assert saving(use, used, [(D(1), PRICES)], "5m", line_s=1e-308, call_s=2) == -100 * 2_000 * D("0.75")


@UNHURRIED
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=300), st.floats(0.01, 1))
def test_lengths_are_within_a_hundredth_and_the_longest_exact(found: list[int], share: float) -> None:
    lengths = Lengths()
    for line, tokens in enumerate(found, start=1):
        lengths.add(tokens, line)
    exact = sorted(found)[math.ceil(share * len(found)) - 1]
    assert lengths.most == max(found)
    assert found[lengths.longest_lines[0] - 1] == max(found)
    assert abs(lengths.quantile(share) - exact) <= 0.02 * exact + 1
    assert lengths.beyond(0) == sum(found)
    assert lengths.beyond(lengths.most) == 0
