"""Routes as everybody may know them."""

import json

import pytest
from tests.store.world import OTHER_ROUTE, ROUTE, World, route_settings

from trivet_routing.permits import Quota
from trivet_store.cluster import health, leases, registry, route_overrides
from trivet_store.cluster.registry import Kind
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import NotFound
from trivet_tasks.states import RouteState


def _register(world: World, **routes: RouteSettings) -> list[registry.Finding]:
    given = {name.replace("_", "-"): route for name, route in routes.items()}
    with world.store.write() as connection:
        return registry.register(world.store, connection, given, by="w from a.toml")


def _registered(world: World) -> dict[str, registry.RegisteredRoute]:
    with world.store.read() as connection:
        return registry.registered(world.store, connection)


def test_a_route_is_known_by_all_that_is_no_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "sk-123")
    given = route_settings(
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
        assert word not in world.value("SELECT definition || operating FROM routes")


def test_limits_of_groups_of_models_are_known_to_all(world: World) -> None:
    groups = [
        {"models": ["claude-haiku-*", "claude-3-*"], "requests_per_minute": 600, "max_concurrency": 5},
        {"models": ["*opus*"], "output_tokens_per_minute": 7, "input_tokens_per_minute": 8},
    ]
    given = route_settings(limits=groups, requests_per_minute=60)
    _register(world, bedrock_us_east_1=given)
    found = _registered(world)[ROUTE].settings
    assert found == given
    for model in ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-5-5"):
        assert Quota.of(found, model) == Quota.of(given, model)
    assert Quota.of(found, "claude-haiku-4-5").group == "claude-haiku-*+claude-3-*"


def test_keys_of_a_newer_trivet_are_passed_over(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings(limits=[{"models": ["a*"], "requests_per_minute": 600}]))
    definition = json.loads(world.value("SELECT definition FROM routes"))
    definition["tides"] = 3
    operating = json.loads(world.value("SELECT operating FROM routes"))
    operating["limits"][0]["moons"] = 2
    changed = {"definition": json.dumps(definition), "operating": json.dumps(operating)}
    world.sql("UPDATE routes SET definition = :definition, operating = :operating", **changed)
    (group,) = _registered(world)[ROUTE].settings.limits
    assert (group.models, group.requests_per_minute) == (("a*",), 600)


def test_registering_again_changes_nothing(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings(models={"a": "b", "c": "d"}))
    with world.store.write() as connection:
        registry.set_drained(connection, ROUTE, True)
    at = world.value("SELECT registered_at FROM routes")
    _register(world, bedrock_us_east_1=route_settings(models={"c": "d", "a": "b"}))
    assert world.value("SELECT registered_at FROM routes") == at
    assert _registered(world)[ROUTE].drained, "a drain is durable"


def test_a_place_that_nobody_serves_may_be_defined_anew(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings(region="us-east-1"))
    lease = world.lease(routes=[ROUTE])
    world.let_die(lease)
    world.rescue()
    world.lease(routes=[OTHER_ROUTE])
    (found,) = _register(world, bedrock_us_east_1=route_settings(region="us-west-2"))
    assert found.kind is Kind.CHANGED
    assert _registered(world)[ROUTE].settings.region == "us-west-2"
    assert world.events() == ["route redefined: region; by w from a.toml"]


def test_a_place_that_a_worker_serves_stays_until_it_is_gone(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings())
    lease = world.lease(worker="w-7", routes=[ROUTE])
    other = route_settings(region="eu-west-1", residency=["eu"], base_url="https://user:s3cret@proxy")
    (found,) = _register(world, bedrock_us_east_1=other)
    assert found == (
        ROUTE,
        Kind.ELSEWHERE,
        "[routes.bedrock-us-east-1]: base_url, region, residency of w from a.toml differ from what w-7 serves.",
    )
    assert _registered(world)[ROUTE].settings == route_settings()
    assert world.events() == []
    with world.store.write() as connection:  # whatever else is wrong passes
        leases.renew(world.store, connection, lease, 0, None, 15.0, {ROUTE: {"unreached": "No way there."}})
    _register(world, bedrock_us_east_1=other)
    assert _registered(world)[ROUTE].settings == route_settings()
    with world.store.write() as connection:  # the same file serves nothing there: it does not count
        leases.renew(world.store, connection, lease, 0, None, 15.0, {ROUTE: {"definition": "Another place."}})
    _register(world, bedrock_us_east_1=other)
    assert _registered(world)[ROUTE].settings == other


def test_a_process_does_not_block_itself(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings())
    lease = world.lease(routes=[ROUTE])
    with world.store.write() as connection:
        routes = {ROUTE: route_settings(region="us-west-2")}
        (found,) = registry.register(world.store, connection, routes, by="w", lease_id=lease)
    assert found.kind is Kind.CHANGED


def test_a_scheduler_adds_routes_and_redefines_none(world: World) -> None:
    with world.store.write() as connection:
        registry.register(world.store, connection, {ROUTE: route_settings()}, serves=False)
        assert registry.register(world.store, connection, {ROUTE: route_settings(region="x")}, serves=False) == []
    assert _registered(world)[ROUTE].settings == route_settings()
    world.lease(worker="w-7", routes=[ROUTE])
    with world.store.write() as connection:
        (found,) = registry.register(world.store, connection, {ROUTE: route_settings(region="x")}, serves=False)
    assert found.kind is Kind.ELSEWHERE


def test_removing_a_route_forgets_all_but_what_was_spent(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings(requests_per_minute=5), other=route_settings())
    with world.store.write() as connection:
        route_overrides.put(world.store, connection, ROUTE, "*", {"max_concurrency": 3}, by="ops")
        health.note(connection, ROUTE, "*", RouteState.OPEN, "timeout", 1000, 60)
        registry.remove(connection, ROUTE, "ops@here", 1001)
    assert list(_registered(world)) == ["other"]
    for table in ("route_versions", "route_overrides", "route_health"):
        assert ROUTE not in {row.route for row in world.sql(f"SELECT route FROM {table}")}
    assert world.events()[-1] == "route removed: by ops@here"
    _register(world, bedrock_us_east_1=route_settings(requests_per_minute=6))
    assert _registered(world)[ROUTE].settings.requests_per_minute == 6
    assert "route changed" not in "".join(world.events()), "it is new again"


def test_a_removed_route_comes_back_drained_until_it_is_restored(world: World) -> None:
    """A process with an old file makes it known again, which nobody asked for."""
    _register(world, bedrock_us_east_1=route_settings())
    for _ in range(2):
        with world.store.write() as connection:
            registry.remove(connection, ROUTE, "ops@here", 1001)
        _register(world, bedrock_us_east_1=route_settings())
        assert _registered(world)[ROUTE].drained
        assert world.events()[-1] == (
            "route drained: it was removed by ops@here, and registered again by w from a.toml"
        )
        with world.store.write() as connection:
            registry.set_drained(connection, ROUTE, False)
        _register(world, bedrock_us_east_1=route_settings(requests_per_minute=6))
        assert not _registered(world)[ROUTE].drained


@pytest.mark.parametrize("first", [True, False])
def test_applying_a_file_takes_a_removal_back(world: World, first: bool) -> None:
    """Also where no other process has made the route known again before."""
    _register(world, bedrock_us_east_1=route_settings())
    with world.store.write() as connection:
        registry.remove(connection, ROUTE, "ops@here", 1001)
    if not first:
        _register(world, bedrock_us_east_1=route_settings())
    with world.store.write() as connection:
        registry.apply(world.store, connection, {ROUTE: route_settings()}, by="ops@here")
    assert not _registered(world)[ROUTE].drained


def test_applying_a_file_restores_no_route_that_was_drained_by_hand(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings())
    with world.store.write() as connection:
        registry.remove(connection, ROUTE, "ops@here", 1001)
    _register(world, bedrock_us_east_1=route_settings())
    with world.store.write() as connection:
        registry.set_drained(connection, ROUTE, True)
        registry.apply(world.store, connection, {ROUTE: route_settings()}, by="ops@here")
    assert _registered(world)[ROUTE].drained


def test_a_drain_is_kept_until_it_is_taken_back(world: World) -> None:
    _register(world, bedrock_us_east_1=route_settings(), other=route_settings())
    for drained in (True, False):
        with world.store.write() as connection:
            registry.set_drained(connection, ROUTE, drained)
        assert {name: route.drained for name, route in _registered(world).items()} == {ROUTE: drained, "other": False}


def test_draining_an_unknown_route_is_an_error(world: World) -> None:
    with pytest.raises(NotFound, match="'nowhere'"), world.store.write() as connection:
        registry.set_drained(connection, "nowhere", True)
