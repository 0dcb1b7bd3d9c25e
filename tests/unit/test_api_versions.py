"""The version of the API that a call names: the one documented for its wire, or the route's setting."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from pydantic import ValidationError
from tests.wires import REQUEST, listened

from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.protocol import Answer, Caller, CallLimits, CallPurpose

pytestmark = pytest.mark.usefixtures("no_credentials")
HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-4-6"


def settings(provider: str, **more: Any) -> dict[str, Any]:
    return {"provider": provider, "region": "us-east-1", "project": "p", "api_key": "env:TRIVET_TEST_KEY", **more}


def versions_of(
    route: dict[str, Any], models: tuple[str, ...], body: Mapping[str, Any] = REQUEST
) -> list[tuple[Any, Any]]:
    """Return the versions that calls of one caller named, in the header and in the body."""

    async def each(caller: Caller) -> None:
        for number, model in enumerate(models):
            answer = await caller.call(
                orjson.dumps(body), f"wire.{model}", f"attempt-{number}", CallLimits(30), CallPurpose(model)
            )
            assert isinstance(answer, Answer), answer

    return [
        (headers.get("anthropic-version"), orjson.loads(sent).get("anthropic_version"))
        for _, headers, sent in listened(route, each).requests
    ]


@pytest.mark.parametrize(
    ("provider", "named"),
    [
        ("anthropic", ("2026-10-21", None)),
        ("bedrock", (None, "bedrock-2023-05-31")),
        ("vertex", (None, "vertex-2023-10-16")),
    ],
)
def test_each_wire_names_the_version_documented_for_it(provider: str, named: tuple[Any, Any]) -> None:
    assert versions_of(settings(provider), (HAIKU, HAIKU, OPUS)) == [named] * 3  # by the SDK, after it, a new model


@pytest.mark.parametrize("provider", ["anthropic", "bedrock", "vertex"])
def test_settings_of_the_route_and_of_a_model_override_it(provider: str) -> None:
    route = settings(provider, api_version="2023-06-01", api_versions={"claude-opus-*": "2026-10-21"})
    named = versions_of(route, (HAIKU, OPUS, HAIKU, OPUS))
    place = 0 if provider == "anthropic" else 1
    assert [versions[place] for versions in named] == ["2023-06-01", "2026-10-21"] * 2
    assert {versions[1 - place] for versions in named} == {None}


@pytest.mark.parametrize("provider", ["anthropic", "bedrock", "vertex"])
def test_two_models_of_one_wire_id_keep_their_versions_apart(provider: str) -> None:
    route = settings(provider, api_versions={OPUS: "2023-06-01"})

    async def each(caller: Caller) -> None:
        for number, model in enumerate((OPUS, HAIKU, OPUS, HAIKU)):
            await caller.call(
                orjson.dumps(REQUEST), "one-profile", f"attempt-{number}", CallLimits(30), CallPurpose(model)
            )

    requests = listened(route, each).requests
    named = [
        headers.get("anthropic-version") or orjson.loads(sent)["anthropic_version"] for _, headers, sent in requests
    ]
    usual = RouteSettings(**settings(provider)).version_of(HAIKU)
    assert named == ["2023-06-01", usual] * 2


@pytest.mark.parametrize("provider", ["anthropic", "bedrock", "vertex"])
def test_a_request_cannot_bring_a_version_of_its_own(provider: str) -> None:
    brought = {**REQUEST, "anthropic_version": "2020-01-01"}
    assert versions_of(settings(provider), (HAIKU, HAIKU), brought) == versions_of(settings(provider), (HAIKU, HAIKU))


@pytest.mark.parametrize(
    ("given", "key"),
    [({"api_version": "latest"}, "api_version"), ({"api_versions": {"claude-opus-*": "2023-6-1"}}, "claude-opus-*")],
)
def test_what_is_no_version_is_refused(given: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match="is no version of the API") as caught:
        RouteSettings(provider="bedrock", **given)
    assert key in str(caught.value)
