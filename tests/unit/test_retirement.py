"""Models that providers retire: names, days by provider, messages at submit before and after, remaining routes."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from anthropic._data import DEPRECATED_MODELS
from tests.builders import route as candidate

from trivet_routing.route_choice import Requirements, choose
from trivet_tasks.catalog import MODELS, RETIRED, Retirement, known, wire_model
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.requests.eligibility import retired_on
from trivet_tasks.requests.reading import parse_request

SONNET = "claude-sonnet-4-5"
DIRECT = RouteSettings(provider="anthropic")
BEDROCK = RouteSettings(provider="bedrock", region="us-east-1")
VERTEX = RouteSettings(provider="vertex", region="global")


def moment(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def parse(day: str, model: str = SONNET, **routes: RouteSettings) -> JobSpec:
    request: dict[str, Any] = {"model": model, "max_tokens": 10, "prompt": "Hello"}
    return parse_request(request, settings=Settings(routes=routes), now=moment(day))


def test_the_days_are_those_of_each_provider() -> None:
    model = known(SONNET)
    assert model is not None
    assert model.retires == {
        "anthropic": Retirement(date(2026, 11, 30)),
        "bedrock": Retirement(date(2027, 4, 8)),
        "vertex": Retirement(date(2026, 9, 29), announced=False),
    }


def test_the_api_s_days_are_those_of_the_sdk() -> None:
    for name, said in DEPRECATED_MODELS.items():
        month, day, year = said.replace(",", "").split()
        told = datetime.strptime(f"{month} {day[:-2]} {year}", "%B %d %Y").date()
        model = known(name)
        assert (model.retires["anthropic"].day if model else RETIRED[name]) == told, name


@pytest.mark.parametrize(
    ("route", "last", "first_without"),
    [(DIRECT, date(2026, 11, 30), date(2026, 12, 1)), (BEDROCK, date(2027, 4, 8), date(2027, 4, 9))],
)
def test_a_route_serves_a_model_through_its_day(route: RouteSettings, last: date, first_without: date) -> None:
    assert retired_on(SONNET, route, last) is None
    assert retired_on(SONNET, route, first_without) == last


def test_a_day_that_is_only_the_earliest_closes_nothing() -> None:
    assert retired_on(SONNET, VERTEX, date(2030, 1, 1)) is None
    assert retired_on("claude-haiku-4-5", VERTEX, date(2030, 1, 1)) is None


def test_a_route_that_names_the_model_itself_is_exempt() -> None:
    named = RouteSettings(provider="anthropic", models={"claude-sonnet-4-5-20250929": "claude-sonnet-4-5-20250929"})
    assert retired_on(SONNET, named, date(2030, 1, 1)) is None
    assert parse("2026-12-05", a=named).warnings == ()


def test_submit_warns_within_sixty_days_and_names_the_routes() -> None:
    assert parse("2026-09-30", direct=DIRECT).warnings == ()
    (warning,) = parse("2026-10-01", direct=DIRECT, aws=BEDROCK).warnings
    assert warning.startswith("model: claude-sonnet-4-5 retires on 2026-11-30 on direct.")
    (warning,) = parse("2027-03-01", direct=DIRECT, aws=BEDROCK).warnings
    assert "retired on 2026-11-30 on direct; retires on 2027-04-08 on aws" in warning
    assert parse("2026-11-01", aws=BEDROCK).warnings == ()
    assert parse("2026-11-01", google=VERTEX).warnings == ()


def test_submit_refuses_a_model_that_every_route_has_lost() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("2026-12-01", direct=DIRECT)
    assert caught.value.field == "model"
    for part in ("direct (since 2026-11-30)", "Use claude-sonnet-5-5", "models = {"):
        assert part in str(caught.value)
    assert parse("2026-12-01", direct=DIRECT, aws=BEDROCK)
    assert parse("2026-12-01")  # a producer without routes leaves them to others


@pytest.mark.parametrize(("name", "newer"), [("claude-3-5-haiku-latest", "claude-haiku-5-5"), ("claude-2.1", "a newer model"),
                                             ("claude-opus-4-20250514", "claude-opus-5-5")])  # fmt: skip
def test_a_name_that_is_gone_says_so(name: str, newer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("2026-11-01", name, direct=DIRECT)
    assert f"{name} was retired on {RETIRED[name].isoformat()}" in str(caught.value)
    assert newer in str(caught.value)


def test_no_job_goes_to_a_route_that_has_lost_its_model() -> None:
    gone = replace(candidate("direct", provider="anthropic", model=SONNET), retired=date(2026, 11, 30))
    requirements = Requirements(SONNET, Latency.BATCH)
    terms = Settings().of_class(Latency.BATCH)
    choice = choose(requirements, [gone, candidate("aws", model=SONNET)], terms)
    assert [route.name for route in choice.routes] == ["aws"]
    assert [refusal.text for refusal in choice.refusals] == ["claude-sonnet-4-5 was retired there on 2026-11-30"]
    assert choose(requirements, [gone], terms).hopeless


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-opus-4-6-20260205", "claude-opus-4-6"),
        ("claude-opus-4-7-20260416", "claude-opus-4-7"),
        ("claude-opus-5-latest", "claude-opus-5"),
        ("claude-haiku-4-5-latest", "claude-haiku-4-5"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
    ],
)
def test_dated_and_latest_names(name: str, model: str) -> None:
    assert parse("2026-11-01", name, direct=DIRECT).model == model


@pytest.mark.parametrize(
    ("model", "region", "wire"),
    [
        ("claude-opus-5-5", "ap-southeast-1", "apac.anthropic.claude-opus-5-5"),
        ("claude-opus-5-5", "us-gov-east-1", "us-gov.anthropic.claude-opus-5-5"),
        ("claude-opus-5", "us-gov-west-1", "us-gov.anthropic.claude-opus-5"),
        ("claude-opus-4-8", "us-gov-west-1", "us-gov.anthropic.claude-opus-4-8"),
        ("claude-fable-5-1", "eu-central-1", "eu.anthropic.claude-fable-5-1"),
        ("claude-fable-5-1", "us-gov-west-1", "us-gov.anthropic.claude-fable-5-1"),
        ("claude-fable-5", "ap-southeast-1", "apac.anthropic.claude-fable-5"),
        ("claude-mythos-5", "us-east-1", "us.anthropic.claude-mythos-5"),
        ("claude-mythos-5-1", "us-west-2", "us.anthropic.claude-mythos-5-1"),
        ("claude-mythos-preview", "ap-southeast-2", "au.anthropic.claude-mythos-preview"),
    ],
)
def test_profiles_of_bedrock_that_were_missing(model: str, region: str, wire: str) -> None:
    assert wire_model(model, "bedrock", region, resident=True) == wire


def test_every_family_has_a_model_that_stays() -> None:
    assert all(
        any(f"-{family}-" in one.id and not one.retires for one in MODELS) for family in ("haiku", "sonnet", "opus")
    )
