"""A job that proxies refuse: when it is at fault, and when it waits."""

import math
from dataclasses import replace

import pytest
from tests.builders import breaker

from trivet_routing.permits import BreakerView
from trivet_routing.retry_policy import proxies_agree, with_proxy_error, worth_asking_again
from trivet_tasks.jobs import ProxyError, proxy_errors_of, proxy_errors_text

HERE, ELSEWHERE = "anthropic", "bedrock-us-east-1"
NEVER = breaker(proven_s=math.inf)
JUST_NOW = breaker(proven_s=0.1)


def met(
    errors: tuple[ProxyError, ...], route: str, now: float, at: BreakerView | None, generation: str = "0.0"
) -> tuple[ProxyError, ...]:
    breakers = None if at is None else {HERE: at, ELSEWHERE: at}
    return with_proxy_error(errors, route, f"HTTP 403 of {route}", now=now, generation=generation, breakers=breakers)


def story(*steps: tuple[str, BreakerView | None]) -> tuple[ProxyError, ...]:
    """Pages a second apart."""
    errors: tuple[ProxyError, ...] = ()
    for second, (route, at) in enumerate(steps):
        errors = met(errors, route, float(second), at)
    return errors


def test_a_job_that_two_routes_refuse_twice_while_they_answer_others_is_at_fault() -> None:
    why = proxies_agree(story(*[(HERE, JUST_NOW), (ELSEWHERE, JUST_NOW)] * 2))
    assert why is not None
    assert f"{HERE}: HTTP 403 of {HERE}" in why
    assert f"{ELSEWHERE}: HTTP 403 of {ELSEWHERE}" in why


@pytest.mark.parametrize(
    "errors",
    [
        story((HERE, JUST_NOW)),
        story((HERE, JUST_NOW), (ELSEWHERE, JUST_NOW)),
        story((HERE, JUST_NOW), (ELSEWHERE, JUST_NOW), (HERE, JUST_NOW)),
        story(*[(HERE, JUST_NOW)] * 9),
        story(*[(HERE, NEVER), (ELSEWHERE, NEVER)] * 9),
        story(*[(HERE, None), (ELSEWHERE, None)] * 9),
    ],
    ids=["one page", "one each", "only one twice", "one route", "routes that answered nobody since", "nothing known"],
)
def test_until_then_nobody_knows(errors: tuple[ProxyError, ...]) -> None:
    assert proxies_agree(errors) is None


def test_an_answer_to_a_call_begun_before_the_page_proves_nothing() -> None:
    before = breaker(proven_s=30.0)
    assert proxies_agree(story(*[(HERE, before), (ELSEWHERE, before)] * 3)) is None


def test_what_came_before_the_breakers_changed_says_nothing_any_more() -> None:
    errors = story((HERE, JUST_NOW), (ELSEWHERE, JUST_NOW))
    anew = replace(JUST_NOW, generation="1.0")
    errors = met(errors, HERE, 5.0, anew, "1.0")
    assert [(error.route, error.times) for error in errors] == [(HERE, 1)]


def test_a_route_that_answered_others_since_is_worth_asking_again() -> None:
    errors = story((HERE, JUST_NOW), (ELSEWHERE, JUST_NOW))
    breakers = {HERE: JUST_NOW, ELSEWHERE: NEVER}
    assert worth_asking_again(errors, breakers, 5.0) == {HERE}
    confirmed = met(errors, HERE, 5.0, JUST_NOW)
    assert worth_asking_again(confirmed, breakers, 9.0) == frozenset(), "once"


def test_pages_are_kept_as_they_were() -> None:
    errors = story((HERE, JUST_NOW), (ELSEWHERE, JUST_NOW), (HERE, JUST_NOW))
    assert proxy_errors_of(proxy_errors_text(errors)) == errors
    assert proxy_errors_of(proxy_errors_text(())) == ()
