"""Limits set by hand, routes removed and files applied from the command line, over either database."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command_line import Said
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World

from trivet_store.cluster import leases, registry
from trivet_tasks.config.route_settings import RouteSettings


def _limits(world: World) -> RouteSettings:
    with world.store.read() as connection:
        return registry.registered(world.store, connection)[ROUTE].settings


def test_a_limit_is_set_shown_and_reset(trivet: Callable[..., Said], routes: World) -> None:
    said = trivet("route", "limit", ROUTE, "--requests", "600", "--concurrency", "7", "--for", "2h")
    assert (said.code, said.err) == (0, "")
    assert _limits(routes) == _limits(routes).model_copy(update={"requests_per_minute": 600, "max_concurrency": 7})
    assert f"{ROUTE}: max_concurrency 7, requests_per_minute 600, set by " in said.out.replace("\n", " ")
    assert "ago, until 20" in said.out.replace("\n", " ")
    shown = trivet("route", "limit", ROUTE, "--json").json
    assert shown["limits"]["*"]["requests_per_minute"] == 600
    assert [one["figure"] for one in shown["overrides"]] == ["max_concurrency", "requests_per_minute"]
    until = shown["overrides"][0]["until"]
    assert 7_000 < until - routes.now() <= 7_200
    reset = trivet("route", "limit", ROUTE, "--reset")
    assert "set by" not in reset.out
    assert _limits(routes).requests_per_minute == 500
    assert f"Nothing was set by hand for {ROUTE}." in trivet("route", "limit", ROUTE, "--reset").out
    kinds = [row.kind for row in routes.sql("SELECT kind FROM events ORDER BY id")]
    assert kinds == ["route override", "route override over"]
    events = trivet("routes", "events", ROUTE, "--json").json
    assert events[0]["text"].startswith("requests_per_minute 600, max_concurrency 7; by ")


def test_a_limit_of_a_model(trivet: Callable[..., Said], routes: World) -> None:
    assert trivet("route", "limit", ROUTE, "--requests", "30", "--model", MODEL).code == 0
    assert {one.name: one.requests_per_minute for one in _limits(routes).limits}[MODEL] == 30
    refused = trivet("route", "limit", ROUTE, "--requests", "40", "--model", "claude-haiku-4-5")
    assert (refused.code, "shares its limits with claude-haiku-*" in refused.err) == (2, True)
    trivet("route", "limit", ROUTE, "--reset", "--model", MODEL)
    assert MODEL not in {one.name for one in _limits(routes).limits}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--reset", "--requests", "5"), "--reset takes limits back"),
        (("--for", "2h"), "need a limit"),
        (("--requests", "5", "--for", "2"), "needs a unit: days, hours, minutes?"),
        (("--requests", "5", "--until", "2h"), "is no moment to come"),
        (("--requests", "5", "--until", "2020-01-01"), "is no moment to come"),
        (("--requests", "5", "--until", "soon"), "is not a time"),
        (("--requests", "5", "--until", "2999-01-01", "--for", "2h"), "not both"),
        (("--requests", "0"), "requests_per_minute is 0; it is 1 to 2,000,000,000"),
    ],
)
def test_a_limit_that_cannot_be_set(
    trivet: Callable[..., Said], routes: World, options: tuple[str, ...], says: str
) -> None:
    said = trivet("route", "limit", ROUTE, *options)
    assert said.code == 2
    assert says in said.err
    assert _limits(routes).requests_per_minute == 500


def test_a_limit_of_an_unknown_route_names_the_nearest(trivet: Callable[..., Said], routes: World) -> None:
    said = trivet("route", "limit", "bedrock-us-east-11", "--requests", "5")
    assert (said.code, f"Did you mean {ROUTE}?" in said.err) == (2, True)
    assert routes.sql("SELECT 1 FROM route_overrides") == []


def test_a_route_is_removed_where_nothing_prevents_it(trivet: Callable[..., Said], routes: World) -> None:
    lease = routes.lease(worker="w-7", routes=[ROUTE])
    served = trivet("route", "remove", ROUTE)
    assert (served.code, "a worker serves it: w-7" in served.err) == (2, True)
    routes.let_die(lease)
    said = trivet("route", "remove", ROUTE, "--json")
    assert (said.code, said.json) == (0, {"route": ROUTE, "removed": True, "health_forgotten": False})
    assert trivet("route", "remove", ROUTE).code == 2
    assert trivet("route", "remove", OTHER_ROUTE).out.startswith(f"{OTHER_ROUTE} is removed. A file that still has it")


def test_the_json_of_routes_has_the_leases_of_workers(trivet: Callable[..., Said], routes: World) -> None:
    lease = routes.lease(routes=[ROUTE])
    with routes.store.write() as connection:
        leases.renew(routes.store, connection, lease, 0, None, 15.0, {ROUTE: {leases.ELSEWHERE: "Another region."}})
    (worker,) = trivet("routes", "--json").json["workers"]
    assert (worker["impaired"], worker["elsewhere"]) == ({ROUTE: "Another region."}, [ROUTE])


def test_a_file_is_put_in_force(trivet: Callable[..., Said], routes: World, tmp_path: Path) -> None:
    config = tmp_path / "trivet.toml"
    config.write_text(
        f'{config.read_text()}\n[routes.{ROUTE}]\nprovider = "bedrock"\nregion = "us-west-2"\nrequests_per_minute = 700\n'
        '[routes.new]\nprovider = "anthropic"\n'
    )
    routes.lease(routes=[ROUTE])
    dry = trivet("config", "apply", "--dry-run", "--json").json
    assert (dry["applied"], dry["source"]) == (False, str(config))
    group = '[{"models":["claude-haiku-*","claude-3-*"],"requests_per_minute":50}]'
    assert dry["changes"] == {
        ROUTE: ["requests_per_minute 500 -> 700", f"limits {group} -> none"],
        "new": ["is new"],
    }
    assert dry["redefinitions"] == {ROUTE: {"fields": ["region"], "workers": ["worker-1"]}}
    assert _limits(routes).requests_per_minute == 500
    assert "Nothing was changed: --dry-run." in trivet("config", "apply", "--dry-run").out
    said = trivet("config", "apply").out
    assert f"{ROUTE}: requests_per_minute 500 -> 700" in said
    words = f"{ROUTE}: this file has another region. It stays as it is: --places redefines it, and stops the work of the route on:"
    assert f"{words} worker-1." in " ".join(said.split())
    assert (_limits(routes).region, _limits(routes).requests_per_minute) == ("us-east-1", 700)
    assert "Restart the workers that served it where it was: worker-1." in trivet("config", "apply", "--places").out
    assert _limits(routes).region == "us-west-2"
    assert trivet("config", "apply").out == "Nothing differs from what is in force.\n"
    by = routes.value("SELECT text FROM events WHERE kind = 'route changed'")
    assert by.endswith(f"from {config}")
