"""Keys of the gateway from the command line, over either database."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command_line import Said
from tests.store.world import World

TOKEN = re.compile(r"trivet_[0-9a-f]{12}_[0-9a-f]{64}")


def test_a_key_is_printed_once_alone_on_standard_output(trivet: Callable[..., Said], world: World) -> None:
    said = trivet("keys", "create", "search", "--tenant", "acme")
    assert said.code == 0
    assert TOKEN.fullmatch(said.out.strip())
    assert said.err == "The key search. Keep it now: it is not shown again.\n"
    quiet = trivet("keys", "create", "quiet", "--quiet")
    assert TOKEN.fullmatch(quiet.out.strip())
    assert quiet.err == ""
    shown = [trivet("keys", "list", "--all"), trivet("keys", "list", "--json"), trivet("routes", "events")]
    for secret in (said.out.strip(), quiet.out.strip()):
        assert not any(secret in one.out + one.err or secret[20:] in one.out for one in shown)
        assert f"{secret[:19]}_…" in shown[0].out
    assert world.value("SELECT count(*) FROM gateway_keys") == 2


def test_limits_of_a_key_are_listed(trivet: Callable[..., Said], world: World) -> None:
    made = trivet(
        "keys", "create", "search", "--tag", "team=search", "--tags", "env=prod", "--class", "batch,async", "--classes",
        "deferred", "--models", "claude-haiku-*", "--residency", "eu", "--compliance", "hipaa",
        "--requests-per-minute", "1200", "--expires", "90d", "--json",
    ).json  # fmt: skip
    assert TOKEN.fullmatch(made["key"])
    (listed,) = trivet("keys", "list", "--json").json["keys"]
    assert listed == {name: value for name, value in made.items() if name not in ("key", "replaces")}
    assert listed["tags"] == {"team": "search", "env": "prod"}
    assert listed["classes"] == ["batch", "async", "deferred"]
    assert listed["models"] == ["claude-haiku-*"]
    assert (listed["state"], listed["admin"], listed["last_used_at"]) == ("active", False, None)
    row = trivet("keys", "list").out.splitlines()[1]
    assert "batch, async, deferred; claude-haiku-*; in eu; under hipaa; " in row
    assert re.search(r"\b1,200  never +\d{4}-", row)


def test_a_key_is_rotated_and_revoked(trivet: Callable[..., Said], world: World) -> None:
    first = trivet("keys", "create", "search", "-q").out.strip()
    second = trivet("keys", "rotate", "search", "--grace", "2h")
    assert second.err.splitlines()[1].startswith(f"The old one ({first[:19]}_…) works until 20")
    third = trivet("keys", "rotate", "search", "--grace", "0s")
    assert third.err.splitlines()[1] == f"The old one ({second.out.strip()[:19]}_…) is refused within 5 s."
    states = {key["prefix"]: key["state"] for key in trivet("keys", "list", "--json").json["keys"]}
    assert states == {f"{first[:19]}_…": "replaced", f"{third.out.strip()[:19]}_…": "active"}
    assert trivet("keys", "revoke", "search").out == "search is revoked; gateways refuse it within 5 s.\n"
    assert trivet("keys", "revoke", "search", "--json").json == {"name": "search", "changed": False}
    assert "There is no key that works" in trivet("keys", "list").out
    every = trivet("keys", "list", "--all", "--json").json["keys"]
    assert [key["state"] for key in every] == ["revoked"] * 3


def test_without_keys_the_list_says_how_to_make_one(trivet: Callable[..., Said]) -> None:
    said = trivet("keys", "list").out
    assert said == "There is no key that works: `trivet keys create NAME` makes one.\n"


def test_the_budget_of_a_key_is_listed_with_the_others_and_raised(trivet: Callable[..., Said], world: World) -> None:
    assert trivet("keys", "create", "search", "--budget", "$20/month").code == 0
    (budget,) = trivet("budgets", "--json").json["budgets"]
    assert (budget["name"], budget["scope"], budget["per"]) == ("key:search", "tag trivet_key=search", "month")
    assert "$25.00 may be spent" in trivet("budget", "raise", "key:search", "--to", "25").out
    assert trivet("keys", "revoke", "search").code == 0
    assert trivet("budgets", "--json").json["budgets"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "a b"), "name: must be 1 to 64 letters"),
        (("create", "a", "--expires", "90"), "--expires: '90' needs a unit"),
        (("create", "a", "--tag", "team"), "must read name=value"),
        (("create", "a", "--tag", "trivet_key=b"), "tags.trivet_key: is set by Trivet"),
        (("create", "a", "--class", "quick"), "latency: must be realtime"),
        (("create", "a", "--budget", "key:b"), "neither an amount of USD"),
        (("create", "a", "--budget", "none"), "No budget is called 'none'"),
        (("create", "a", "--budget", "20/week"), "Use 20/day, 500/month, or the name"),
        (("create", "a", "--requests-per-minute", "0"), "requests_per_minute: must be from 1"),
        (("create", "a", "--admin", "--tenant", "acme"), "an admin key sees every tenant"),
        (("rotate", "a"), "No key is called 'a', or it was revoked."),
        (("rotate", "a", "--grace", "soon"), "--grace: 'soon' is not a span of time."),
        (("revoke", "a"), "No key is called 'a', or it was revoked."),
    ],
)
def test_a_wrong_command_says_what_is_wrong(trivet: Callable[..., Said], arguments: tuple[str, ...], says: str) -> None:
    said = trivet("keys", *arguments)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


def test_no_file_may_name_a_budget_like_a_keys(trivet: Callable[..., Said], tmp_path: Path) -> None:
    config = tmp_path / "trivet.toml"
    with config.open("a") as file:
        file.write('[[budgets]]\nname = "key:search"\nusd = 5\nper = "day"\n')
    said = trivet("keys", "list")
    assert said.code == 2
    assert "[budgets.0] name: 'key:search': names that begin with 'key:' are those of gateway keys." in said.err
