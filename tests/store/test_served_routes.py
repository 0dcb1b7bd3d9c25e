"""Workers that serve a route by their own files while what is registered changes."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.store.world import OTHER_ROUTE, ROUTE, World, route_settings

from trivet_store.cluster import leases, registry, route_overrides
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_worker.run.process_state import RouteImpairments
from trivet_worker.run.served_routes import ServedRoutes


class Worker:
    """The part of a worker that is about its routes, with a lease that says so."""

    def __init__(self, world: World, name: str, routes: Mapping[str, RouteSettings]) -> None:
        self.impairments = RouteImpairments(logging.getLogger("test"))
        self.changes = 0
        self.lease = ""
        self._world = world
        self.served = ServedRoutes(
            world.store,
            routes,
            self.impairments,
            by=f"{name} from {name}.toml",
            defines=True,
            lease_id=lambda: self.lease,
            on_change=self._changed,
        )
        self.served.register()
        self.lease = world.lease(worker=name, routes=list(routes))
        self.beat()

    def look(self) -> str | None:
        """Compare, and let a heartbeat pass; why the first route is not served."""
        self.served.look()
        self.beat()
        return self.impairments.of(ROUTE)

    def beat(self) -> None:
        world = self._world
        with world.store.write() as connection:
            leases.renew(world.store, connection, self.lease, 0, None, 15.0, self.impairments.by_kind())

    def _changed(self) -> None:
        self.changes += 1


def test_the_order_of_a_list_makes_no_other_place(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = {"residency": ["us", "eu"], "compliance": ["a", "b"], "betas": ["y", "x"], "body_fields": ["top_k", "seed"]}
    Worker(world, "first", {ROUTE: route_settings(**lists)})
    turned = {name: [*reversed(values), values[0]] for name, values in lists.items()}
    second = Worker(world, "second", {ROUTE: route_settings(**turned)})
    assert second.look() is None
    written = "".join(f"{name} = {json.dumps(values)}\n" for name, values in lists.items())
    second.served.reload(_file(tmp_path, f'[routes.{ROUTE}]\nprovider = "bedrock"\nregion = "us-east-1"\n{written}'))
    assert "restarted" not in caplog.text


def test_a_worker_of_another_place_waits_until_the_others_are_gone(world: World) -> None:
    first = Worker(world, "first", {ROUTE: route_settings(), OTHER_ROUTE: route_settings()})
    moved = {ROUTE: route_settings(region="eu-west-1", api_key="env:SOME_KEY"), OTHER_ROUTE: route_settings()}
    second, third = Worker(world, "second", moved), Worker(world, "third", moved)
    assert first.look() is None
    for worker in (second, third):
        assert worker.look() == (
            f"[routes.{ROUTE}] of {'second' if worker is second else 'third'} from "
            f"{'second' if worker is second else 'third'}.toml has another region than the workers that serve the route "
            "now. It is served from here once they are gone, or after `trivet config apply --places` with this file."
        )
        assert worker.impairments.of(OTHER_ROUTE) is None
        assert not worker.served.takes(ROUTE)
    world.let_die(first.lease)
    assert second.look() is not None, "its lease is not dropped: it may renew it"
    world.rescue()
    changes = third.changes
    assert second.look() is None
    assert third.look() is None
    assert third.changes == changes + 1, "the lease is told at once"
    assert first.look() is not None, "one that was only stopped for a while"
    assert second.look() is None


def test_a_worker_calls_where_its_file_says_with_the_figures_in_force(world: World) -> None:
    first = Worker(world, "first", {ROUTE: route_settings(requests_per_minute=5, api_key="env:SOME_KEY")})
    Worker(world, "second", {ROUTE: route_settings(requests_per_minute=7)})
    first.look()
    now = first.served.now(ROUTE)
    assert now == route_settings(requests_per_minute=7, api_key="env:SOME_KEY")
    with world.store.write() as connection:
        route_overrides.put(world.store, connection, ROUTE, "*", {"requests_per_minute": 9}, by="ops")
    first.look()
    assert first.served.now(ROUTE).requests_per_minute == 9


@pytest.mark.parametrize("kind", ["no_credentials", "unreached", "key_refused"])
def test_a_worker_of_another_place_does_not_move_a_route_while_the_others_are_impaired(world: World, kind: str) -> None:
    """A fault of their machine passes; the place that they agree on stays."""
    good = [Worker(world, name, {ROUTE: route_settings()}) for name in ("first", "second")]
    for one in good:
        one.impairments.begin(ROUTE, kind, "Not now.")
        one.beat()
    other = Worker(world, "other", {ROUTE: route_settings(region="eu-west-1")})
    assert "has another region than the workers that serve the route now" in str(other.look())
    for one in good:
        one.impairments.end(ROUTE, kind)
    assert [one.look() for one in good] == [None, None]


def test_a_worker_that_could_not_serve_a_route_does_not_move_it(world: World) -> None:
    first = Worker(world, "first", {ROUTE: route_settings()})
    other = Worker(world, "other", {ROUTE: route_settings(region="eu-west-1")})
    other.impairments.begin(ROUTE, "no_credentials", "No key here.")
    world.let_die(first.lease)
    world.rescue()
    assert other.look() is not None
    with world.store.read() as connection:
        assert registry.registered(world.store, connection)[ROUTE].settings.region == "us-east-1"
    other.impairments.end(ROUTE, "no_credentials")
    assert other.look() is None


def test_an_outage_of_the_database_moves_no_route(world: World) -> None:
    """Leases ran out because nobody could renew them; the first renewal afterwards finds them unchanged."""
    first = Worker(world, "first", {ROUTE: route_settings()})
    other = Worker(world, "other", {ROUTE: route_settings(region="eu-west-1")})
    world.sql("UPDATE leases SET expires_at = expires_at - 3600")
    assert other.look() is not None
    assert first.look() is None


def test_applying_a_file_moves_the_route_to_the_workers_that_have_it(world: World) -> None:
    first = Worker(world, "first", {ROUTE: route_settings()})
    moved = {ROUTE: route_settings(region="eu-west-1")}
    second = Worker(world, "second", moved)
    with world.store.write() as connection:
        registry.apply(world.store, connection, moved, by="ops", places=True)
    assert first.look() == (
        f"[routes.{ROUTE}] was redefined while first from first.toml served it: it has another region now. Restart this "
        "worker with the same file, or run `trivet config apply --places` with its own."
    )
    assert second.look() is None


def test_workers_do_not_take_back_what_was_applied(world: World) -> None:
    """Also the last of them that is told, and though nobody serves the route where it is now."""
    first, second = (Worker(world, name, {ROUTE: route_settings()}) for name in ("first", "second"))
    with world.store.write() as connection:
        registry.apply(world.store, connection, {ROUTE: route_settings(region="eu-west-1")}, by="ops", places=True)
    for _ in range(2):
        assert first.look() is not None
        assert second.look() is not None
    for worker in (first, second):
        world.let_die(worker.lease)
    world.rescue()
    again = Worker(world, "again", {ROUTE: route_settings()})
    assert again.look() is None, "a worker that starts after it is asked"
    assert first.look() is None


def test_a_removed_route_comes_back_drained_with_the_file_of_a_worker(world: World) -> None:
    worker = Worker(world, "first", {ROUTE: route_settings(requests_per_minute=5)})
    with world.store.write() as connection:
        registry.remove(connection, ROUTE, "ops", 0.0)
    assert worker.look() is None
    with world.store.read() as connection:
        found = registry.registered(world.store, connection)[ROUTE]
    assert (found.settings, found.drained) == (route_settings(requests_per_minute=5), True)


def _file(folder: Path, text: str) -> Settings:
    from trivet_tasks.config.settings import load_settings

    path = folder / "trivet.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def test_workers_that_read_a_file_of_another_place_go_on_where_they_are(world: World, tmp_path: Path) -> None:
    """They agree with each other and with what is registered until the first is restarted."""
    workers = [Worker(world, name, {ROUTE: route_settings()}) for name in ("first", "second")]
    moved = _file(tmp_path, f'[routes.{ROUTE}]\nprovider = "bedrock"\nregion = "us-west-2"\n')
    for worker in workers:
        worker.served.reload(moved)
    assert [worker.look() for worker in workers] == [None, None]
    again = Worker(world, "third", {ROUTE: route_settings(region="us-west-2")})
    assert "has another region than the workers" in str(again.look())


def test_reading_the_file_again(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def again(*lines: str, name: str = ROUTE) -> None:
        head = f'[routes.{name}]\nprovider = "bedrock"\n'
        worker.served.reload(_file(tmp_path, head + "\n".join(lines)))

    worker = Worker(world, "first", {ROUTE: route_settings()})
    again('region = "us-east-1"', "max_concurrency = 3")
    assert worker.look() is None
    assert worker.served.now(ROUTE).max_concurrency == 3
    again('region = "us-west-2"', "max_concurrency = 4")
    assert worker.look() is None
    said = "has another region: it counts once this worker is restarted; so do the figures of that place."
    assert f"trivet.toml, read again, {said}" in caplog.text
    assert worker.served.now(ROUTE).max_concurrency == 3, "its figures belong to the other place"
    caplog.clear()
    again('region = "us-east-1"', 'api_key = "env:ANOTHER_KEY"', "stream = true", "max_concurrency = 6")
    assert worker.look() is None
    assert "has another api_key, stream: it counts once this worker is restarted.\n" in caplog.text
    assert "ANOTHER_KEY" not in caplog.text
    assert worker.served.now(ROUTE).max_concurrency == 6
    caplog.clear()
    again('region = "us-east-1"', "max_concurrency = 5")
    assert worker.look() is None
    assert worker.served.now(ROUTE).max_concurrency == 5
    assert "restarted" not in caplog.text
    with caplog.at_level(logging.INFO, "trivet.worker"):
        again('region = "us-east-1"', name="another")
    assert "not served by this process until it is restarted: another" in caplog.text
    assert worker.look() is None
    assert "is not there any more: this worker serves it until it is restarted" in caplog.text
