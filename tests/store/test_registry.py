"""Routes as everybody may know them."""

import pytest
from tests.store.world import OTHER_ROUTE, ROUTE, World

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
