"""Routes as everybody may know them."""

import json

import pytest
from tests.store.world import OTHER_ROUTE, ROUTE, World

from trivet_scheduler.permits import Quota
from trivet_tasks.errors import ConfigError, NotFound
from trivet_tasks.route_settings import RouteSettings
from trivet_tasks.store import registry


def _route(**terms: object) -> RouteSettings:
    return RouteSettings.model_validate({"provider": "bedrock", "region": "us-east-1", **terms})


def _register(world: World, **routes: RouteSettings) -> None:
    with world.store.write() as connection:
        registry.register(world.store, connection, {name.replace("_", "-"): route for name, route in routes.items()})


def _registered(world: World) -> dict[str, registry.RegisteredRoute]:
    with world.store.read() as connection:
        return registry.registered(connection)


def test_a_route_is_known_by_all_that_is_no_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "sk-123")
    given = _route(
        api_key="env:SECRET_OF_MINE",
        models={"claude-sonnet-5-5": "global.x", "a": "b"},
        residency=["us"],
        max_concurrency=7,
    )
    _register(world, bedrock_us_east_1=given)
    (found,) = _registered(world).values()
    assert (found.name, found.drained) == (ROUTE, False)
    assert found.settings == given.model_copy(update={"api_key": None})
    for word in ("SECRET_OF_MINE", "sk-123", "api_key"):
        assert word not in world.value("SELECT definition FROM routes")


def test_limits_of_groups_of_models_are_known_to_all(world: World) -> None:
    groups = [
        {"models": ["claude-haiku-*", "claude-3-*"], "requests_per_minute": 600, "max_concurrency": 5},
        {"models": ["*opus*"], "output_tokens_per_minute": 7, "input_tokens_per_minute": 8},
    ]
    given = _route(limits=groups, requests_per_minute=60)
    _register(world, bedrock_us_east_1=given)
    found = _registered(world)[ROUTE].settings
    assert found == given
    for model in ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-5-5"):
        assert Quota.of(found, model) == Quota.of(given, model)
    assert Quota.of(found, "claude-haiku-4-5").group == "claude-haiku-*+claude-3-*"


def test_costs_and_windows_may_change_while_a_worker_serves_the_route(world: World) -> None:
    _register(world, bedrock_us_east_1=_route())
    world.lease(worker="w-7", routes=[ROUTE])
    changed = _route(costs={"per_request_usd": "0.1"}, windows=[{"hours": "22-06", "cost_factor": "0.5"}])
    _register(world, bedrock_us_east_1=changed)
    assert _registered(world)[ROUTE].settings == changed
    _register(world, bedrock_us_east_1=_route())
    assert _registered(world)[ROUTE].settings == _route(), "whoever starts last says so"


def test_limits_that_differ_are_two_definitions(world: World) -> None:
    _register(world, bedrock_us_east_1=_route(limits=[{"models": ["a*"], "requests_per_minute": 600}]))
    world.lease(worker="w-7", routes=[ROUTE])
    with pytest.raises(ConfigError, match=r"defined differently \(limits\)"):
        _register(world, bedrock_us_east_1=_route(limits=[{"models": ["a*"], "requests_per_minute": 601}]))


def test_keys_of_a_newer_trivet_are_passed_over(world: World) -> None:
    _register(world, bedrock_us_east_1=_route(limits=[{"models": ["a*"], "requests_per_minute": 600}]))
    definition = json.loads(world.value("SELECT definition FROM routes"))
    definition["tides"] = 3
    definition["limits"][0]["moons"] = 2
    world.sql("UPDATE routes SET definition = :definition", definition=json.dumps(definition))
    (group,) = _registered(world)[ROUTE].settings.limits
    assert (group.models, group.requests_per_minute) == (("a*",), 600)


def test_registering_again_changes_nothing(world: World) -> None:
    _register(world, bedrock_us_east_1=_route(models={"a": "b", "c": "d"}))
    with world.store.write() as connection:
        registry.set_drained(connection, ROUTE, True)
    at = world.value("SELECT registered_at FROM routes")
    _register(world, bedrock_us_east_1=_route(models={"c": "d", "a": "b"}))
    assert world.value("SELECT registered_at FROM routes") == at
    assert _registered(world)[ROUTE].drained, "a drain is durable"


def test_a_route_that_nobody_serves_may_be_defined_anew(world: World) -> None:
    _register(world, bedrock_us_east_1=_route(max_concurrency=5))
    lease = world.lease(routes=[ROUTE])
    world.let_die(lease)
    world.lease(routes=[OTHER_ROUTE])
    _register(world, bedrock_us_east_1=_route(max_concurrency=9))
    assert _registered(world)[ROUTE].settings.max_concurrency == 9


def test_two_definitions_of_one_name_are_an_error(world: World) -> None:
    _register(world, bedrock_us_east_1=_route(max_concurrency=5))
    world.lease(worker="w-7", routes=[ROUTE])
    with pytest.raises(ConfigError) as caught:
        _register(world, bedrock_us_east_1=_route(max_concurrency=9, region="eu-west-1"), new=_route())
    said = str(caught.value)
    assert "[routes.bedrock-us-east-1]" in said
    assert "max_concurrency, region" in said
    assert "w-7" in said
    assert caught.value.hint
    assert list(_registered(world)) == [ROUTE], "nothing of it was written"
    assert _registered(world)[ROUTE].settings.max_concurrency == 5


def test_a_drain_is_kept_until_it_is_taken_back(world: World) -> None:
    _register(world, bedrock_us_east_1=_route(), other=_route())
    for drained in (True, False):
        with world.store.write() as connection:
            registry.set_drained(connection, ROUTE, drained)
        assert {name: route.drained for name, route in _registered(world).items()} == {ROUTE: drained, "other": False}


def test_draining_an_unknown_route_is_an_error(world: World) -> None:
    with pytest.raises(NotFound, match="'nowhere'"), world.store.write() as connection:
        registry.set_drained(connection, "nowhere", True)
