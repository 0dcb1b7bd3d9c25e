"""Versions of a route's operational figures, and limits set by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.world import ROUTE, World, route_settings

from trivet.cli.routes_remarks import override_words
from trivet_store.cluster import registry, route_overrides
from trivet_store.cluster.registry import Kind, RegisteredRoute
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
from trivet_tasks.config.route_overrides import overridden, target_of
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest

HAIKU = "claude-haiku-4-5"


def _register(store: Store, route: RouteSettings, by: str = "w from a.toml") -> list[registry.Finding]:
    with store.write() as connection:
        return registry.register(store, connection, {ROUTE: route}, by=by)


def _apply(store: Store, route: RouteSettings, *, places: bool = False, dry_run: bool = False) -> list[str]:
    by = "ops@here from b.toml"
    with store.write() as connection:
        done = registry.apply(store, connection, {ROUTE: route}, by=by, places=places, dry_run=dry_run)
    return done.changes.get(ROUTE, [])


def _known(store: Store) -> RegisteredRoute:
    with store.read() as connection:
        return registry.registered(store, connection)[ROUTE]


def test_new_figures_are_in_force_though_a_worker_serves_the_route(world: World) -> None:
    assert _register(world.store, route_settings(requests_per_minute=500)) == []
    world.lease(routes=[ROUTE])
    new = route_settings(
        requests_per_minute=600, costs={"per_request_usd": "0.1"}, windows=[{"hours": "22-06", "weight": 2}]
    )
    (found,) = _register(world.store, new, "w@b from /etc/trivet.toml")
    assert found.kind is Kind.CHANGED
    assert "requests_per_minute 500 -> 600" in found.text
    known = _known(world.store)
    assert known.settings == new
    assert known.version_by == "w@b from /etc/trivet.toml"
    (said,) = world.events()
    assert said.startswith("route changed: requests_per_minute 500 -> 600, costs ")
    assert said.endswith("; by w@b from /etc/trivet.toml")


def test_an_older_version_reverts_nothing_and_is_told(world: World) -> None:
    old, new = route_settings(requests_per_minute=500), route_settings(requests_per_minute=600)
    for route in (old, new):
        _register(world.store, route)
    (found,) = _register(world.store, old, "w@pod from old.toml")
    assert found.kind is Kind.OUTDATED
    assert "of w@pod from old.toml has an older version of its figures" in found.text
    assert "requests_per_minute 600 -> 500" in found.text
    assert "`trivet config apply`" in found.text
    assert _known(world.store).settings == new
    assert len(world.events()) == 1


def test_rolling_back_is_said_aloud_and_holds(world: World) -> None:
    old, new = route_settings(requests_per_minute=500), route_settings(requests_per_minute=600)
    for route in (old, new):
        _register(world.store, route)
    assert _apply(world.store, old, dry_run=True) == ["requests_per_minute 600 -> 500"]
    assert _known(world.store).settings == new
    assert _apply(world.store, old) == ["requests_per_minute 600 -> 500"]
    assert _known(world.store).settings == old
    assert [found.kind for found in _register(world.store, new)] == [Kind.OUTDATED]
    assert _known(world.store).settings == old
    assert _apply(world.store, old) == []
    assert world.events()[-1] == "route changed: requests_per_minute 600 -> 500; by ops@here from b.toml"


def test_applying_a_file_leaves_a_place_as_it_is_and_names_the_workers_there(world: World) -> None:
    _register(world.store, route_settings())
    world.lease(worker="w-7", routes=[ROUTE])
    given = {ROUTE: route_settings(region="eu-west-1", requests_per_minute=5)}
    with world.store.write() as connection:
        done = registry.apply(world.store, connection, given, by="ops")
    assert done.changes == {ROUTE: ["requests_per_minute none -> 5"]}
    assert done.redefinitions == {ROUTE: (("region",), ("w-7",))}
    assert _known(world.store).settings == route_settings(requests_per_minute=5)


def test_applying_a_file_with_its_places_redefines_one_that_a_worker_serves(world: World) -> None:
    _register(world.store, route_settings())
    world.lease(routes=[ROUTE])
    other = route_settings(region="eu-west-1", residency=["eu"])
    fields = ["region as in this file", "residency as in this file"]
    assert _apply(world.store, other, places=True, dry_run=True) == fields
    _apply(world.store, other, places=True)
    assert (_known(world.store).settings, _known(world.store).place) == (other, other.place_digest)
    assert world.events() == ["route redefined: region, residency; by ops@here from b.toml"]
    with world.store.write() as connection:
        assert registry.apply(world.store, connection, {"new": route_settings()}, by="ops").changes == {
            "new": ["is new"]
        }


def test_registering_again_changes_nothing(world: World) -> None:
    route = route_settings(limits=[{"models": ["a*"], "requests_per_minute": 600}])
    _register(world.store, route)
    before = world.sql("SELECT * FROM routes")
    assert _register(world.store, route, "another") == []
    assert world.sql("SELECT * FROM routes") == before


@pytest.fixture(scope="module")
def plain_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('versions')}/trivet.db")
    upgrade(store)
    return store


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=1, max_size=12))
def test_in_force_is_the_newest_first_seen_or_the_last_applied(
    plain_store: Store, steps: list[tuple[bool, int]]
) -> None:
    with plain_store.write() as connection:
        registry.remove(connection, ROUTE, "the test", 0.0)
    seen: set[int] = set()
    expected = 0
    for applies, figure in steps:
        if applies:
            _apply(plain_store, route_settings(requests_per_minute=figure))
        else:
            _register(plain_store, route_settings(requests_per_minute=figure))
        if applies or figure not in seen:
            expected = figure
        seen.add(figure)
        assert _known(plain_store).settings.requests_per_minute == expected


def test_limits_set_by_hand_beat_every_file_until_they_are_reset(world: World) -> None:
    _register(world.store, route_settings(requests_per_minute=500, max_concurrency=9))
    _set(world, "*", {"requests_per_minute": 100})
    _register(world.store, route_settings(requests_per_minute=700, max_concurrency=9))
    _set(world, "*", {"max_concurrency": 2})
    assert _known(world.store).settings == route_settings(requests_per_minute=100, max_concurrency=2)
    assert [(one.figure, one.value, one.set_by) for one in _known(world.store).overrides] == [
        ("max_concurrency", 2, "ops@here"),
        ("requests_per_minute", 100, "ops@here"),
    ]
    with world.store.write() as connection:
        assert len(route_overrides.reset(world.store, connection, ROUTE, None, by="ops@here")) == 2
        assert route_overrides.reset(world.store, connection, ROUTE, None, by="ops@here") == []
    assert _known(world.store).settings.requests_per_minute == 700
    assert world.events()[-1] == "route override over: max_concurrency, requests_per_minute: reset by ops@here"


def test_limits_set_by_hand_end_by_themselves(world: World) -> None:
    _register(world.store, route_settings(requests_per_minute=500))
    _set(world, "*", {"requests_per_minute": 100}, until=world.now() + 600)
    assert _known(world.store).settings.requests_per_minute == 100
    world.sql("UPDATE route_overrides SET until = :now", now=world.now() - 1)
    assert _known(world.store).settings.requests_per_minute == 500, "although nobody has swept it yet"
    with world.store.write() as connection:
        assert route_overrides.due(world.store, connection)
        assert route_overrides.expire(world.store, connection) == 1
        assert not route_overrides.due(world.store, connection)
    assert world.events()[-1] == "route override over: requests_per_minute: its time is over"


def _set(world: World, models: str, figures: dict[str, int], until: float | None = None) -> None:
    with world.store.write() as connection:
        route_overrides.put(world.store, connection, ROUTE, models, figures, by="ops@here", until=until)


def test_limits_of_a_group_and_of_a_model_without_one(world: World) -> None:
    groups = [{"models": ["claude-opus-*", "claude-3-*"], "requests_per_minute": 60, "max_concurrency": 5}]
    _register(world.store, route_settings(requests_per_minute=500, limits=groups))
    _set(world, "claude-opus-*+claude-3-*", {"requests_per_minute": 30})
    _set(world, HAIKU, {"input_tokens_per_minute": 1_000})
    found = _known(world.store).settings
    opus, haiku = found.group_of("claude-opus-4-5"), found.group_of(HAIKU)
    assert opus is not None
    assert haiku is not None
    assert (opus.requests_per_minute, opus.max_concurrency) == (30, 5)
    assert (haiku.name, haiku.requests_per_minute, haiku.input_tokens_per_minute) == (HAIKU, 500, 1_000)
    assert found.group_of("claude-sonnet-5-5") is None


def test_what_limits_may_be_set_for() -> None:
    route = route_settings(limits=[{"models": ["claude-opus-*", "claude-3-*"]}])
    group = "claude-opus-*+claude-3-*"
    named = [target_of(route, models) for models in (None, "*", group, "claude-3-*", "claude-haiku-*")]
    assert named == ["*", "*", group, group, "claude-haiku-*"]
    for shares in ("claude-opus-4-5", "claude-*"):
        with pytest.raises(InvalidRequest, match="shares its limits"):
            target_of(route, shares)
    with pytest.raises(InvalidRequest, match="is no model"):
        target_of(route, "a+b")
    assert overridden(route, []) == route


@pytest.mark.parametrize(
    ("by_hand", "of_file", "clash"),
    [
        ("claude-haiku-4-5", "claude-haiku-*", True),
        ("claude-haiku-*", "claude-haiku-4-5", True),
        ("claude-*-4-5", "claude-haiku-*", True),
        ("claude-haiku-?-5", "claude-haiku-[34]-5", True),
        ("claude-haiku-*", "claude-opus-*", False),
        ("claude-haiku-4", "claude-haiku-4-*", False),
    ],
)
def test_a_limit_set_by_hand_gives_no_model_a_share_beside_its_group(
    world: World, by_hand: str, of_file: str, clash: bool
) -> None:
    """The file brings the group later; what all its models share is what the account allows."""
    _register(world.store, route_settings())
    with world.store.write() as connection:
        route_overrides.put(world.store, connection, ROUTE, by_hand, {"max_concurrency": 3}, by="ops")
    new = route_settings(limits=[{"models": [of_file, "another"], "max_concurrency": 9}])
    _register(world.store, new)
    known = _known(world.store)
    (override,) = known.overrides
    group = f"{of_file}+another"
    assert override.clashes_with == (group if clash else "")
    assert [one.name for one in known.settings.limits] == ([group] if clash else [by_hand, group])
    (said,) = override_words(ROUTE, known.overrides, world.now())
    assert ("has no effect" in said) is clash
