"""Features of some versions of the API: accepted where a route for the job speaks one, refused by name where none does."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from trivet_tasks.catalog import wire_model
from trivet_tasks.config.addresses import effective_host
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.price_book import PriceBook
from trivet_tasks.requests.eligibility import misfit, name_on_wire
from trivet_tasks.requests.reading import parse_request, parse_requests

MODEL = "claude-haiku-4-5"
DIRECT = RouteSettings(provider="anthropic")
OLDER = RouteSettings(provider="anthropic", api_version="2023-06-01")
BEDROCK = RouteSettings(provider="bedrock", region="us-east-1")
VERTEX = RouteSettings(provider="vertex", region="global", project="p")
PLATFORM = RouteSettings(provider="bedrock", region="us-east-1", endpoint="platform", workspace_id="wrkspc_1")
CITED = {"type": "text", "text": "x", "citations": [{"type": "char_location"}]}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
ASSISTANT_DOCUMENT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": [DOCUMENT]},
    {"role": "user", "content": "b"},
]


def request(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}], **fields}


def parse(value: Mapping[str, Any], routes: dict[str, RouteSettings]) -> JobSpec:
    return parse_request(value, settings=Settings(), now=0, routes=lambda: routes)


def refused(value: Mapping[str, Any], routes: dict[str, RouteSettings]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(value, routes)
    return caught.value


ASKING = [
    (request(temperature=0.2), "temperature"),
    (request(temperature=1.0), "temperature"),
    (request(top_p=0.9, top_k=3), "top_p"),
    (request(top_k=3), "top_k"),
    (request(messages=ASSISTANT_DOCUMENT), "messages[1].content[0]"),
    (request(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, CITED]}]), "messages[0].content[1]"),
]


@pytest.mark.parametrize(("asking", "field"), ASKING)
@pytest.mark.parametrize("takes", [OLDER, BEDROCK, VERTEX], ids=["older", "bedrock", "vertex"])
def test_one_route_that_speaks_an_older_version_is_enough(
    asking: dict[str, Any], field: str, takes: RouteSettings
) -> None:
    job = parse(asking, {"direct": DIRECT, "other": takes})
    fits = {
        name: misfit(route, name_on_wire(route, MODEL), MODEL, (), (), job.features)
        for name, route in {"direct": DIRECT, "other": takes}.items()
    }
    assert fits["other"] == ""
    assert fits["direct"] == f"its API version, 2026-10-21, takes no {job.features[0]}"


@pytest.mark.parametrize(("asking", "field"), ASKING)
def test_without_one_the_error_names_field_routes_and_remedy(asking: dict[str, Any], field: str) -> None:
    error = refused(asking, {"direct": DIRECT, "platform": PLATFORM})
    assert error.field == field
    assert error.message.startswith(f"{field}: no route for {MODEL} takes ")
    assert "(direct speaks 2026-10-21, platform speaks 2026-10-21)" in error.message
    assert 'api_version = "2023-06-01" in [routes.direct]' in error.hint


def test_a_route_that_would_not_take_the_job_anyway_does_not_count() -> None:
    elsewhere = BEDROCK.model_copy(update={"residency": ("us",)})
    routes = {"direct": DIRECT.model_copy(update={"residency": ("eu",)}), "elsewhere": elsewhere}
    assert parse(request(temperature=0.2, residency="us"), routes).features == ("sampling",)
    error = refused(request(temperature=0.2, residency="eu"), routes)
    assert "direct speaks 2026-10-21)" in error.message
    assert "elsewhere" not in error.message


def test_a_model_s_own_version_counts() -> None:
    routes = {"direct": RouteSettings(provider="anthropic", api_versions={"claude-haiku-*": "2023-06-01"})}
    assert parse(request(temperature=0.2), routes).features == ("sampling",)
    assert refused(request(model="claude-sonnet-4-6", temperature=0.2), routes).field == "temperature"


def test_a_cloud_set_to_the_newer_version_is_told_its_usual_one() -> None:
    routes = {"bedrock": BEDROCK.model_copy(update={"api_version": "bedrock-2026-10-21"})}
    assert 'api_version = "bedrock-2023-05-31" in [routes.bedrock]' in refused(request(top_k=1), routes).hint


def test_where_no_route_is_known_or_none_serves_the_job_it_waits_as_any_other() -> None:
    assert parse(request(temperature=0.2), {}).features == ("sampling",)
    assert parse(request(temperature=0.2, compliance="hipaa"), {"direct": DIRECT}).features == ("sampling",)


def test_routes_are_asked_for_once_and_only_where_it_matters() -> None:
    asked = []

    def routes() -> dict[str, RouteSettings]:
        asked.append(1)
        return {"bedrock": BEDROCK}

    plain = [request(key=str(number)) for number in range(3)]
    assert len(list(parse_requests(plain, settings=Settings(), now=lambda: 0.0, routes=routes))) == 3
    assert asked == []
    warm = [request(temperature=0.2, key=str(number)) for number in range(3)]
    assert len(list(parse_requests(warm, settings=Settings(), now=lambda: 0.0, routes=routes))) == 3
    assert asked == [1]


def test_the_settings_routes_are_asked_where_no_others_are_given() -> None:
    settings = Settings(routes={"direct": RouteSettings(provider="anthropic")})
    with pytest.raises(InvalidRequest, match="direct speaks 2026-10-21"):
        parse_request(request(temperature=0.2), settings=settings, now=0)


@pytest.mark.parametrize(
    ("model", "endpoint", "named"),
    [
        (MODEL, "invoke", "global.anthropic.claude-haiku-4-5-20251001-v1:0"),
        (MODEL, "messages", "global.anthropic.claude-haiku-4-5-20251001-v1:0"),
        (MODEL, "mantle", "anthropic.claude-haiku-4-5"),
        (MODEL, "platform", "claude-haiku-4-5-20251001"),
        ("claude-opus-5-5", "mantle", "anthropic.claude-opus-5-5"),
        ("claude-opus-4-7", "mantle", "anthropic.claude-opus-4-7"),
        ("claude-mythos-5", "mantle", "anthropic.claude-mythos-5"),
        ("claude-opus-4-6", "mantle", None),
        ("claude-sonnet-4-6", "mantle", None),
        ("claude-sonnet-4-5", "mantle", None),
        ("claude-opus-5-5", "platform", "claude-opus-5-5"),
        ("claude-opus-4-1", "platform", None),
    ],
)
def test_each_endpoint_of_bedrock_has_names_of_its_own(model: str, endpoint: str, named: str | None) -> None:
    workspace = {"workspace_id": "wrkspc_1"} if endpoint == "platform" else {}
    route = RouteSettings(provider="bedrock", region="us-east-1", endpoint=endpoint, **workspace)  # type: ignore[arg-type]
    assert name_on_wire(route, model) == named
    assert name_on_wire(route.model_copy(update={"models": {model: "my-own"}}), model) == "my-own"


def test_a_resident_route_on_mantle_needs_names_of_its_own() -> None:
    route = RouteSettings(provider="bedrock", region="eu-west-1", endpoint="mantle", residency=("eu",))
    assert name_on_wire(route, "claude-opus-5-5") is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"provider": "vertex", "endpoint": "mantle"}, "endpoint = 'mantle' is one of provider bedrock"),
        ({"provider": "bedrock", "endpoint": "platform"}, "needs workspace_id"),
        ({"provider": "bedrock", "workspace_id": "w"}, "workspace_id belongs to endpoint = 'platform'"),
        ({"provider": "bedrock", "endpoint": "converse"}, "endpoint"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RouteSettings(**given)


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-opus-5-5"])
def test_the_platform_is_priced_as_the_anthropic_api_and_mantle_is_an_estimate(model: str) -> None:
    book, usage, day = PriceBook(), Usage(input_tokens=1_000_000), datetime(2026, 11, 29, tzinfo=UTC)
    first_party = str(wire_model(model, "anthropic"))
    direct = book.price("anthropic", model, first_party, None, day, usage)
    platform = book.price("bedrock", model, first_party, "us-east-1", day, usage)
    assert (platform.cost_usd, platform.estimated) == (direct.cost_usd, False)
    in_us = replace(usage, inference_geo="us")
    assert book.price("bedrock", model, first_party, "us-east-1", day, in_us).multipliers == (
        {} if model == "claude-haiku-4-5" else {"inference_geo_us": "1.1"}  # it came with 4.6
    )
    mantle = book.price("bedrock", model, f"anthropic.{model}", "us-east-1", day, usage)
    assert mantle.estimated
    assert direct.cost_usd is not None
    assert mantle.cost_usd == direct.cost_usd * Decimal("1.1")


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("invoke", "bedrock-runtime.eu-west-1.amazonaws.com"),
        ("messages", "bedrock-runtime.eu-west-1.amazonaws.com"),
        ("mantle", "bedrock-mantle.eu-west-1.api.aws"),
        ("platform", "aws-external-anthropic.eu-west-1.api.aws"),
    ],
)
def test_the_host_that_is_shown_is_the_endpoint_s(endpoint: str, host: str) -> None:
    workspace = {"workspace_id": "wrkspc_1"} if endpoint == "platform" else {}
    route = RouteSettings.model_validate(
        {"provider": "bedrock", "region": "eu-west-1", "endpoint": endpoint, **workspace}
    )
    assert effective_host(route) == host
