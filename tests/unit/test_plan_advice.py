"""Advice on a file and the loss of routes, against figures worked out by hand from the list prices that stand here."""

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from trivet.plan.advice import Advice, AdviceKind
from trivet.plan.planner import Plan, Planner
from trivet_tasks.config.settings import Settings
from trivet_tasks.requests.jsonl import check_file

D = Decimal
MODEL = "claude-sonnet-4-6"  # 3 and 15 dollars a million; a read from the prompt cache 0.30, a write 3.75
DIRECT: dict[str, Any] = {"provider": "anthropic", "requests_per_minute": 60}
US: dict[str, Any] = {"provider": "bedrock", "region": "us-east-1", "residency": ["us"], "requests_per_minute": 30}
BODY = {"model": MODEL, "max_tokens": 100, "prompt": "Hello"}
Reckon = Callable[..., Plan]


@pytest.fixture
def reckon(tmp_path: Path) -> Reckon:
    """Plans a file of these requests."""

    def plan(
        *requests: dict[str, Any],
        routes: dict[str, Any] | None = None,
        cache: bool = False,
        runs: int = 1,
        **terms: Any,
    ) -> Plan:
        file = tmp_path / "work.jsonl"
        file.write_bytes(b"\n".join(orjson.dumps({**BODY, **request}) for request in requests))
        routes = {"direct": DIRECT} if routes is None else routes
        planner = Planner(Settings.model_validate({"routes": routes, "cache": {"enabled": cache}}))
        work = planner.file(
            lambda each: check_file(file, planner.settings, {}, now=time.time(), each=each), runs_per_day=D(runs)
        )
        return planner.plan(planner.scenarios(), work, **terms)

    return plan


def advice(plan: Plan, kind: AdviceKind) -> Advice:
    (found,) = [one for one in plan.advice if one.kind is kind]
    return found


def usd(plan: Plan, kind: AdviceKind) -> Decimal:
    found = advice(plan, kind).day_usd
    assert found is not None
    return found


def kinds(plan: Plan) -> set[AdviceKind]:
    return {one.kind for one in plan.advice}


def numbered(count: int, **request: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {number:04}", **request} for number in range(count)]


# --- repeated requests


def test_repeats_cost_what_their_calls_cost(reckon: Reckon) -> None:
    requests = [
        *numbered(10, max_tokens=1_000),
        *numbered(5, max_tokens=1_000),
        {"prompt": "Question 0000", "max_tokens": 9},
    ]
    plan = reckon(*requests, runs=2)
    assert usd(plan, AdviceKind.REPEATED_REQUESTS) == pytest.approx(D(2 * 5 * 1_000 * 15) / 10**6, rel=D("0.01"))
    assert (
        advice(plan, AdviceKind.REPEATED_REQUESTS).finding == "10 of 32 requests a day repeat an earlier one (31.25 %)."
    )
    assert "cache=True" in advice(plan, AdviceKind.REPEATED_REQUESTS).change
    tenants = [{**one, "tenant": "a" if at < 10 else "b"} for at, one in enumerate(requests)]
    assert AdviceKind.REPEATED_REQUESTS not in kinds(reckon(*tenants)), "answers belong to their tenant"


def test_with_the_cache_on_there_is_nothing_to_change(reckon: Reckon) -> None:
    plan = reckon(*[{"max_tokens": 1_000}] * 5, cache=True)
    assert usd(plan, AdviceKind.REPEATED_REQUESTS) > D("0.05")
    assert advice(plan, AdviceKind.REPEATED_REQUESTS).change == ""


def test_requests_that_ask_for_their_own_answers_are_no_repeats(reckon: Reckon) -> None:
    own = [{"max_tokens": 1_000, "cache": False}] * 5
    assert AdviceKind.REPEATED_REQUESTS not in kinds(reckon(*own))
    assert AdviceKind.REPEATED_REQUESTS not in kinds(reckon(*own, cache=True))
    mixed = reckon(*own, *[{"max_tokens": 1_000}] * 2)
    assert advice(mixed, AdviceKind.REPEATED_REQUESTS).finding.startswith("1 of 7 requests")


def test_hidden_costs_of_calls_are_saved_too_and_fixed_ones_are_not(reckon: Reckon) -> None:
    costs = {"per_request_usd": 1, "per_month_usd": 3_000}
    plan = reckon(*[{}] * 3, *numbered(5), routes={"direct": {**DIRECT, "costs": costs}})
    assert 2 < usd(plan, AdviceKind.REPEATED_REQUESTS) < D("2.01")


# --- prompt cache

RULES = "All of them obey this rule. " * 800  # 22,400 bytes are 5,600 tokens


def test_a_shared_prefix_is_written_once_a_run_and_read_by_the_others(reckon: Reckon) -> None:
    plan = reckon(*numbered(50, system=RULES), runs=3)
    written, read = 5_600, 49 * 5_600
    expected = 3 * (read * D("2.70") - written * D("0.75")) / 10**6
    assert usd(plan, AdviceKind.PROMPT_CACHE) == pytest.approx(expected, rel=D("0.01"))
    found = advice(plan, AdviceKind.PROMPT_CACHE)
    assert "50 requests of a run share a prefix of about 5,60" in found.finding
    assert "--prompt-cache 5m" in found.change
    asked = reckon(*numbered(50, system=RULES, prompt_cache="1h"))
    assert advice(asked, AdviceKind.PROMPT_CACHE).change == ""
    assert usd(asked, AdviceKind.PROMPT_CACHE) < expected / 3, "an hour costs more to write"


def test_a_slow_run_needs_the_hour(reckon: Reckon) -> None:
    slow = {"direct": {"provider": "anthropic", "output_tokens_per_minute": 10}}  # a call of 100 tokens in ten minutes
    plan = reckon(*numbered(20, system=RULES), routes=slow)
    assert '"1h"' in advice(plan, AdviceKind.PROMPT_CACHE).change
    slower = {"direct": {"provider": "anthropic", "output_tokens_per_minute": 1}}
    assert AdviceKind.PROMPT_CACHE not in kinds(reckon(*numbered(20, system=RULES), routes=slower))


@pytest.mark.parametrize(
    "requests",
    [numbered(20), numbered(20, system="Be brief."), [{"system": f"{n} {RULES}"} for n in range(20)]],
    ids=["none", "short", "each its own"],
)
def test_without_a_long_prefix_in_common_there_is_no_such_advice(
    reckon: Reckon, requests: list[dict[str, Any]]
) -> None:
    assert AdviceKind.PROMPT_CACHE not in kinds(reckon(*requests))


def test_a_given_share_of_cache_reads_counts_it_already(reckon: Reckon) -> None:
    assert AdviceKind.PROMPT_CACHE not in kinds(reckon(*numbered(50, system=RULES), cache_read_share=D("0.5")))


# --- lengths


def test_the_longest_prompts_are_named_with_what_they_cost(reckon: Reckon) -> None:
    requests = numbered(99)
    requests.insert(40, {"prompt": "x" * 350_000})
    plan = reckon(*requests)
    found = advice(plan, AdviceKind.PROMPT_LENGTHS)
    assert found.change.startswith("Shorten the longest to p95: lines 41, ")
    assert "at most 100,0" in found.finding
    assert usd(plan, AdviceKind.PROMPT_LENGTHS) == pytest.approx(D("0.3"), rel=D("0.01"))
    assert AdviceKind.PROMPT_LENGTHS not in kinds(reckon(*numbered(99, max_tokens=1_000)))


def test_prompts_at_the_price_of_long_ones_are_told(reckon: Reckon) -> None:
    haiku = {"model": "claude-haiku-5-5", "max_tokens": 1_000}  # above 100,000 tokens 0.50 instead of 0.10 dollars
    plan = reckon(*numbered(3, **haiku), {**haiku, "prompt": "x" * 420_000})
    found = advice(plan, AdviceKind.LONG_PROMPT_PRICES)
    # 120,000 tokens at 0.50 and 1,000 of answer at 2.50, instead of 100,000 at 0.10 and 1,000 at 0.50
    assert usd(plan, AdviceKind.LONG_PROMPT_PRICES) == pytest.approx(D("0.052"), rel=D("0.01"))
    assert "1 prompts of claude-haiku-5-5 a day have more than 100,000 tokens" in found.finding
    assert "line" in found.change


def test_what_may_not_fit_the_window_comes_first_and_has_no_amount(reckon: Reckon) -> None:
    small = {"model": "claude-haiku-4-5"}
    plan = reckon({}, {**small, "prompt": "x" * 700_000, "max_tokens": 1_000}, small, *[{"max_tokens": 1_000}] * 9)
    first = plan.advice[0]
    assert (first.kind, first.day_usd) == (AdviceKind.CONTEXT_WINDOW, None)
    assert "(line 2)" in first.finding
    assert "200,000 tokens" in first.finding


def test_requests_that_do_not_fit_in_their_class_are_counted_with_their_first_lines_and_the_cure(
    reckon: Reckon,
) -> None:
    slow = {"latency": "realtime", "max_tokens": 1_000}
    plan = reckon({}, *[slow] * 3, {**slow, "max_tokens": 2_000}, {"max_tokens": 64_000}, {"latency": "realtime"})
    found = advice(plan, AdviceKind.CALL_TIME)
    assert found.day_usd is None
    assert found.finding == "4 requests do not fit in the time of their class (lines 2, 3, 4, …)."
    assert "2,000 tokens take about 36 s" in found.change
    assert "class realtime ends after 3 s; use latency interactive" in found.change


def test_requests_whose_own_deadline_comes_before_their_answer_are_named(reckon: Reckon) -> None:
    plan = reckon({}, {"deadline": "20s", "max_tokens": 4_096}, {"deadline": "1h", "max_tokens": 4_096}, {})
    found = advice(plan, AdviceKind.CALL_TIME)
    assert found.finding == "1 requests do not fit before their own deadline (line 2)."
    assert "4,096 tokens take about 74 s" in found.change
    assert "the job's deadline leaves 20 s" in found.change


# --- model and route


def test_the_next_smaller_model_is_an_option(reckon: Reckon) -> None:
    plan = reckon(*numbered(10, max_tokens=10_000))
    found = next(one for one in plan.advice if "claude-haiku-5-5" in one.finding)
    # 100,000 tokens of output at 15 dollars a million, or at 0.50
    assert found.day_usd == pytest.approx(D("1.45"), rel=D("0.01"))
    assert "on a sample" in found.change
    same = next(one for one in plan.advice if "claude-sonnet-5-5" in one.finding)
    assert same.day_usd == pytest.approx(D("0.5"), rel=D("0.01"))
    assert not reckon(*numbered(9, model="claude-haiku-5-5", max_tokens=9_000)).advice


def test_long_prompts_make_the_smaller_model_dearer_too(reckon: Reckon) -> None:
    plan = reckon({"prompt": "x" * 3_500_000, "max_tokens": 1_000, "model": "claude-sonnet-5-5"})
    (found,) = [one for one in plan.advice if one.kind is AdviceKind.MODEL]
    # a million tokens of input at 2 dollars, or at the 0.50 of long prompts
    assert found.day_usd == pytest.approx(D("1.5"), rel=D("0.01"))


def test_advice_is_on_the_cheapest_scenario_and_a_mix_learns_of_a_cheaper_route(reckon: Reckon, tmp_path: Path) -> None:
    routes = {"direct": DIRECT, "us": US}
    plan = reckon(*numbered(10, max_tokens=10_000), routes=routes)
    assert plan.cheapest == "direct"
    assert AdviceKind.ROUTE not in kinds(plan)
    planner = Planner(Settings.model_validate({"routes": routes}))
    work = planner.volume(MODEL, D(10**7), input_share=D("0.6"))
    mixed = planner.plan(planner.scenarios([{"direct": D("0.5"), "us": D("0.5")}]), work)
    assert usd(mixed, AdviceKind.ROUTE) == D("3.9"), "10 % more on half of 78 dollars"
    assert kinds(mixed) == {AdviceKind.ROUTE, AdviceKind.MODEL}


def test_savings_are_in_order_and_small_ones_are_left_out(reckon: Reckon) -> None:
    plan = reckon(*[{"max_tokens": 1_000}] * 2, *numbered(300, system=RULES, max_tokens=1_000))
    amounts = [one.day_usd for one in plan.advice]
    assert amounts == sorted(amounts, key=lambda one: -(one or D(0)))
    day = plan.scenarios[0].expected
    assert AdviceKind.REPEATED_REQUESTS not in kinds(plan), f"0.015 dollars are less than 1 % of {day}"
    assert not reckon({}, {}).advice, "less than a cent"


# --- loss of routes


def test_without_each_route_it_takes_longer_and_costs_what_the_others_cost(reckon: Reckon) -> None:
    plan = reckon(*numbered(90), routes={"direct": DIRECT, "us": US}, without_each=True)
    whole, direct, us = plan.losses
    bounds = [loss.outlook.bound for loss in plan.losses]
    assert [None if bound is None else round(bound.seconds, 3) for bound in bounds] == [60, 180, 90]
    assert [loss.lost for loss in plan.losses] == [(), ("direct",), ("us",)]
    assert bounds[1] is not None
    assert (bounds[1].route, bounds[1].limit) == ("us", "requests")
    assert whole.change_usd == 0
    # 60 of the 90 calls are dearer by a tenth; 30 are cheaper
    day = us.outlook.day_usd
    assert direct.outlook.day_usd == pytest.approx(day * D("1.1"))
    assert direct.change_usd == pytest.approx(day * D(60) / 900, rel=D("0.001"))
    assert us.change_usd == pytest.approx(-day * D(30) / 900, rel=D("0.001"))
    assert not any(loss.waiting for loss in plan.losses)


def test_calls_with_nowhere_to_go_are_counted_by_class_and_tenant(reckon: Reckon) -> None:
    bound = [{"residency": "us", "tenant": "a"}, {"residency": "us", "tenant": "b", "latency": "async"}] * 2
    plan = reckon(*bound, *numbered(6), routes={"direct": DIRECT, "us": US}, without_each=True)
    whole, direct, us = plan.losses
    assert not whole.waiting
    assert not direct.waiting
    (waiting,) = us.waiting
    assert us.waiting_calls == 4
    assert {(owner.latency, owner.tenant): calls for owner, calls in waiting.load.owners} == {
        ("batch", "a"): 2,
        ("async", "b"): 2,
    }
    assert waiting.reasons == {"direct": "lacks residency us"}
    assert us.outlook.calls == 6
    assert us.change_usd <= 0, "of the work that goes on"


def test_providers_and_regions_are_lost_whole_and_each_set_once(reckon: Reckon) -> None:
    routes = {
        "direct": DIRECT,
        "us-1": US,
        "us-2": {**US, "residency": []},
        "eu": {**US, "region": "eu-west-1", "residency": ["eu"]},
        "vertex": {"provider": "vertex", "region": "us-east5", "project": "p"},
    }
    losses = reckon(*numbered(5), routes=routes, without_each=True).losses
    groups = {loss.name: loss.lost for loss in losses if len(loss.lost) > 1}
    assert groups == {"all of bedrock": ("us-1", "us-2", "eu"), "all of us-east-1": ("us-1", "us-2")}
    assert len(losses) == 1 + 5 + 2


def test_without_its_only_route_everything_waits(reckon: Reckon) -> None:
    whole, lost = reckon(*numbered(5), without_each=True).losses
    assert whole.outlook.calls == lost.waiting_calls == 5
    assert not lost.outlook.parts
    assert lost.outlook.bound is None
    assert lost.outlook.day_usd == 0
