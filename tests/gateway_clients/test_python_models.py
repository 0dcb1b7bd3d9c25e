"""The official Python client, unmodified, against the gateway: models and token counts."""

from typing import Any

import anthropic
import pytest
from tests.gateway_clients.running import MODEL, RunningGateway

HELLO: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello, world"}]


def test_models_are_listed_with_routes_prices_and_limits(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        models = list(client.models.list(limit=3))
        found = client.models.retrieve(MODEL)
    assert len(models) > 3
    assert len({model.id for model in models}) == len(models)
    assert MODEL in {model.id for model in models}
    assert (found.id, found.type, found.display_name) == (MODEL, "model", "Claude Haiku 4.5")
    assert (found.max_input_tokens, found.max_tokens, found.lifecycle) == (200_000, 64_000, "active")
    assert found.created_at.isoformat() == "2025-10-01T00:00:00+00:00"
    assert found.model_extra is not None
    routes = {route["name"]: route for route in found.model_extra["trivet"]["routes"]}
    assert routes.keys() == gateway.trivet.settings.routes.keys()
    assert routes["anthropic"]["prices_usd_per_million"]["output"] == "5"
    assert routes["anthropic"]["limits"]["max_concurrency"] >= 1


def test_pages_go_both_ways(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        every = [model.id for model in client.models.list(limit=1_000)]
        first = client.models.list(limit=2)
        assert [model.id for model in first.data] == every[:2]
        assert (first.has_more, first.first_id, first.last_id) == (True, every[0], every[1])
        second = first.get_next_page()
        assert [model.id for model in second.data] == every[2:4]
        back = client.models.list(limit=1, before_id=every[2])
        assert ([model.id for model in back.data], back.has_more) == ([every[1]], True)
        last = client.models.list(limit=2, after_id=every[-2])
        assert ([model.id for model in last.data], last.has_more) == ([every[-1]], False)


def test_an_alias_is_the_same_model(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        assert client.models.retrieve("claude-haiku-4-5-20251001").id == MODEL
        assert client.beta.models.retrieve("claude-haiku-4-5-latest").id == MODEL


@pytest.mark.parametrize("asked", [{"limit": 0}, {"limit": 1_001}, {"after_id": "claude-none"}, {"lifecycle": ["old"]}])
def test_a_wrong_page_is_refused_by_name(gateway: RunningGateway, asked: dict[str, Any]) -> None:
    with gateway.client() as client, pytest.raises(anthropic.BadRequestError, match=next(iter(asked))):
        client.models.list(**asked)


def test_a_model_of_nobody_is_not_found(gateway: RunningGateway) -> None:
    with gateway.client() as client, pytest.raises(anthropic.NotFoundError, match="no route serves it"):
        client.models.retrieve("claude-none")


def test_a_key_sees_its_own_models_alone(gateway: RunningGateway) -> None:
    with gateway.client("haiku") as client:
        assert {model.line for model in client.models.list(limit=1_000)} == {"haiku"}
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("claude-opus-5-5")


def test_a_drained_route_serves_nothing(gateway: RunningGateway) -> None:
    gateway.trivet.admin.routes.drain("anthropic")
    try:
        with gateway.client() as client:
            shown = client.models.retrieve(MODEL).model_extra
            counted = client.messages.with_raw_response.count_tokens(model=MODEL, messages=HELLO)
    finally:
        gateway.trivet.admin.routes.restore("anthropic")
    assert shown is not None
    assert "anthropic" not in {route["name"] for route in shown["trivet"]["routes"]}
    assert counted.headers["x-trivet-route"] != "anthropic"


def test_tokens_are_counted_without_a_job(gateway: RunningGateway) -> None:
    before = len(gateway.trivet.simulator.calls())
    with gateway.client() as client:
        few = client.messages.count_tokens(model=MODEL, messages=HELLO)
        many = client.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief. " * 200)
    assert 0 < few.input_tokens < many.input_tokens
    assert len(gateway.trivet.simulator.calls()) == before


@pytest.mark.parametrize("left", ["anthropic", "bedrock", "vertex"])
def test_each_wire_counts_where_the_others_fail(gateway: RunningGateway, left: str) -> None:
    for provider in {"anthropic", "bedrock", "vertex"} - {left}:
        gateway.trivet.simulator.fault(provider, "overloaded")
    with gateway.client() as client:
        answer = client.messages.with_raw_response.count_tokens(model=MODEL, messages=HELLO)
    assert gateway.trivet.settings.routes[answer.headers["x-trivet-route"]].provider == left
    assert answer.parse().input_tokens > 0


def test_without_a_route_that_counts_each_is_named_with_its_reason(gateway: RunningGateway) -> None:
    for provider in ("anthropic", "bedrock", "vertex"):
        gateway.trivet.simulator.fault(provider, "overloaded")
    with gateway.client() as client, pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.count_tokens(model=MODEL, messages=HELLO)
    assert caught.value.status_code == 529
    assert caught.value.type == "overloaded_error"
    for route in gateway.trivet.settings.routes:
        assert f"{route}: " in caught.value.message


def test_only_routes_with_the_features_of_a_request_count_it(gateway: RunningGateway) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "betas": ["mcp-client-2025-11-20"]}
    asked["mcp_servers"] = [{"name": "files", "type": "url", "url": "https://mcp.example.com"}]
    with gateway.client() as client:
        answer = client.beta.messages.with_raw_response.count_tokens(**asked)
        assert answer.headers["x-trivet-route"] == "anthropic"
        gateway.trivet.simulator.fault("anthropic", "overloaded")
        with pytest.raises(anthropic.OverloadedError, match="its wire has no"):
            client.beta.messages.count_tokens(**asked)


def test_a_count_of_what_providers_refuse_is_refused(gateway: RunningGateway) -> None:
    with gateway.client() as client, pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.role"):
        client.messages.count_tokens(model=MODEL, messages=[{"role": "robot", "content": "Hi"}])  # type: ignore[misc,list-item]


def test_a_count_keeps_the_terms_of_its_key(gateway: RunningGateway) -> None:
    with gateway.client("haiku") as client, pytest.raises(anthropic.PermissionDeniedError, match="claude-opus-5-5"):
        client.messages.count_tokens(model="claude-opus-5-5", messages=HELLO)
    with gateway.client("european") as client, pytest.raises(anthropic.InternalServerError, match="lacks residency eu"):
        client.messages.count_tokens(model=MODEL, messages=HELLO)
    with gateway.client() as client, pytest.raises(anthropic.NotFoundError, match="no route serves it"):
        client.messages.count_tokens(model="claude-none", messages=HELLO)
