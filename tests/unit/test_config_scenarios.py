"""The reference set-ups: the code does what their files say."""

import math
import re
import time
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from trivet.config.template import NAMES, scenario_file
from trivet_routing.permits import BreakerView
from trivet_routing.route_choice import Candidate, Requirements, Why, choose
from trivet_tasks.catalog import MODELS
from trivet_tasks.config.finding import CONFIG_NAME
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.cost_model import TYPICAL, CostModel
from trivet_tasks.prices.price_book import PriceBook
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.states import RouteState

REPOSITORY = Path(__file__).parents[2]
STARTUP = "startup"
BY_PRIORITY = dict.fromkeys(Latency, "priority")
ORDERS = {
    "aws-native": BY_PRIORITY,
    "eu": BY_PRIORITY,
    "multi-cloud": {
        Latency.REALTIME: "latency",
        Latency.INTERACTIVE: "latency",
        Latency.BATCH: "weight",
        Latency.ASYNC: "weight",
        Latency.DEFERRED: "cost",
    },
    STARTUP: BY_PRIORITY,
    "sydney": BY_PRIORITY,
}
"""By class, the order in which it asks the routes."""
MAIN_MODELS = ("claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5", "claude-sonnet-5", "claude-haiku-4-5")
FREE = BreakerView(
    state=RouteState.HEALTHY, cause="", wait_s=0.0, in_flight=0, places=200, headroom=math.inf, input_headroom=math.inf,
    output_headroom=math.inf, rates=(math.inf, math.inf, math.inf), calls=0, failed=0, share=1.0, since=None, paces={},
)  # fmt: skip
OPEN = replace(FREE, state=RouteState.OPEN, cause="timeout", wait_s=9.0)

every_scenario = pytest.mark.parametrize("scenario", NAMES)


def text_of(scenario: str) -> str:
    """The file that is written where no credentials are found."""
    return scenario_file(scenario, {}, Path("/nobody")).text


def loaded(folder: Path, text: str) -> Settings:
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
    return load_settings(folder / CONFIG_NAME)


def settings_of(name: str, folder: Path) -> Settings:
    return loaded(folder, text_of(name))


def uncommented(text: str) -> str:
    return re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)


def blocks(text: str) -> dict[str, str]:
    """By route, the comment above its table and the table."""
    found = re.findall(r"((?:^#.*\n)+^\[routes\.(\S+)\]\n(?:.+\n)+)", text, flags=re.MULTILINE)
    return {name: block for block, name in found}


def candidates(settings: Settings, model: str, *, down: tuple[str, ...] = ()) -> list[Candidate]:
    costs, lanes = CostModel(), frozenset({"bulk", "realtime"})
    found = []
    for name, route in settings.routes.items():
        wire = name_on_wire(route, model)
        cost = costs.expected(route, model, wire, time.time()) if wire else None
        found.append(Candidate(name, model, route, wire, lanes, False, OPEN if name in down else FREE, cost))
    return found


def chosen(settings: Settings, latency: Latency, *, residency: tuple[str, ...] = (), **where: Any) -> list[str]:
    """The routes that would take a Sonnet job, the best first."""
    requirements = Requirements(MAIN_MODELS[0], latency, residency)
    choice = choose(requirements, candidates(settings, requirements.model, **where), settings.of_class(latency))
    return [route.name for route in choice.routes]


# --- the file


@every_scenario
def test_what_is_commented_out_outside_of_routes_are_the_defaults(scenario: str, tmp_path: Path) -> None:
    text = text_of(scenario)
    start, end = text.index("# The routes:"), text.index("[classes.realtime]")
    shown = loaded(tmp_path, uncommented(text[:start]) + text[start:end] + uncommented(text[end:])).model_dump()
    plain = loaded(tmp_path, text).model_dump()
    # what the empty default stands for
    assert shown.pop("store") == {**plain.pop("store"), "url": "sqlite:///.trivet/trivet.db"}
    assert shown == plain
    read = tomllib.loads(uncommented(text))
    assert all(read.values())
    assert {key: value for key, value in read["health"].items() if key in ("window_s", "min_calls")} == {
        "window_s": 30,
        "min_calls": 10,
    }


@every_scenario
def test_what_is_commented_out_in_routes_may_be_set(scenario: str, tmp_path: Path) -> None:
    routes = loaded(tmp_path, uncommented(text_of(scenario))).routes
    for route in routes.values():
        assert route.requests_per_minute
        assert route.input_tokens_per_minute
        assert route.output_tokens_per_minute
        assert route.compliance
        assert (route.provider == "bedrock") == (route.output_token_factor > 1)
    assert "limits" not in tomllib.loads(text_of(scenario))["routes"]


@every_scenario
def test_limits_that_are_not_set_limit_nothing(scenario: str, tmp_path: Path) -> None:
    for route in loaded(tmp_path, text_of(scenario)).routes.values():
        small = scenario == STARTUP
        assert (route.requests_per_minute, route.max_concurrency <= 20) == ((50, True) if small else (None, False))
        assert route.input_tokens_per_minute is route.output_tokens_per_minute is None


@every_scenario
def test_no_class_changes_but_in_its_order(scenario: str, tmp_path: Path) -> None:
    classes = loaded(tmp_path, text_of(scenario)).classes
    assert classes == {
        name: terms.model_copy(update={"order": ORDERS[scenario][name]}) for name, terms in DEFAULTS.items()
    }


@every_scenario
def test_lines_fit_and_every_route_says_where_its_limits_are_found(scenario: str, tmp_path: Path) -> None:
    text = text_of(scenario)
    assert not [line for line in text.splitlines() if len(line) > 120]
    assert "`trivet routes check --live`" in text
    places = {"bedrock": "Service Quotas", "vertex": "Quotas & System", "anthropic": "Anthropic Console"}
    for name, route in loaded(tmp_path, text).routes.items():
        assert places[route.provider] in blocks(text)[name]


# --- models


@every_scenario
def test_each_route_serves_the_main_models_and_says_which_it_does_not_serve(scenario: str, tmp_path: Path) -> None:
    text = text_of(scenario)
    for name, route in loaded(tmp_path, text).routes.items():
        assert all(name_on_wire(route, model) for model in MAIN_MODELS)
        said = " ".join(blocks(text)[name].replace("\n# ", " ").split())
        assert "it serves every model" in said
        but = [name for names in re.findall(r"serves every model but ([^;]*);", said) for name in names.split(", ")]
        lacking = {
            model.id for model in MODELS if "anthropic" not in model.retires and name_on_wire(route, model.id) is None
        }
        assert set(but) == lacking
        for model, wire in re.findall(r"(claude-\S+) is (\S+) here", said):
            assert name_on_wire(route, model) == wire


@pytest.mark.parametrize(
    ("scenario", "route", "prefix"),
    [
        ("aws-native", "bedrock-us-east-1", "us."),
        ("aws-native", "bedrock-eu-west-1", "eu."),
        ("eu", "bedrock-eu-central-1", "eu."),
        ("eu", "bedrock-eu-west-1", "eu."),
        ("multi-cloud", "bedrock-us-east-1", "us."),
        ("startup", "bedrock-us-east-1", "global."),
        ("sydney", "bedrock-ap-southeast-2", "au."),
    ],
)
def test_bedrock_uses_the_profile_that_stays_where_residency_is_declared(
    scenario: str, route: str, prefix: str, tmp_path: Path
) -> None:
    settings = settings_of(scenario, tmp_path).routes[route]
    for model in MAIN_MODELS:
        assert (name_on_wire(settings, model) or "").startswith(f"{prefix}anthropic.{model}")


# --- routing


@pytest.mark.parametrize(
    ("scenario", "firsts"),
    [
        ("aws-native", ["bedrock-us-east-1", "bedrock-eu-west-1", "anthropic"]),
        ("eu", ["bedrock-eu-central-1", "vertex-eu", "bedrock-eu-west-1"]),
        ("startup", ["anthropic", "bedrock-us-east-1", "vertex-us-central1"]),
        ("sydney", ["bedrock-ap-southeast-2", "vertex-australia-southeast1", "anthropic"]),
    ],
)
def test_routes_are_asked_in_the_order_that_the_file_tells(scenario: str, firsts: list[str], tmp_path: Path) -> None:
    settings = settings_of(scenario, tmp_path)
    for latency in Latency:
        assert chosen(settings, latency) == firsts
        assert chosen(settings, latency, down=(firsts[0],)) == firsts[1:]
        assert chosen(settings, latency, down=tuple(firsts[:2])) == firsts[2:]


def test_multi_cloud_shares_work_and_leaves_the_night_to_the_cheapest(tmp_path: Path) -> None:
    settings = settings_of("multi-cloud", tmp_path)
    for latency in (Latency.BATCH, Latency.ASYNC):
        choice = choose(
            Requirements(MAIN_MODELS[0], latency), candidates(settings, MAIN_MODELS[0]), settings.of_class(latency)
        )
        assert choice.levels == (0, 0, 0)
        assert {route.settings.weight for route in choice.routes} == {1.0}
    assert chosen(settings, Latency.DEFERRED)[0] == "anthropic"
    assert settings.of_class(Latency.REALTIME).order == "latency"


@pytest.mark.parametrize(
    ("scenario", "residency", "stays"),
    [
        ("sydney", "au", ["bedrock-ap-southeast-2", "vertex-australia-southeast1"]),
        ("aws-native", "us", ["bedrock-us-east-1"]),
        ("aws-native", "eu", ["bedrock-eu-west-1"]),
        ("multi-cloud", "us", ["bedrock-us-east-1", "vertex-us-central1"]),
        ("startup", "us", []),
    ],
)
def test_a_job_with_residency_never_goes_elsewhere(
    scenario: str, residency: str, stays: list[str], tmp_path: Path
) -> None:
    settings = settings_of(scenario, tmp_path)
    others = set(settings.routes) - set(stays)
    assert "anthropic" in others
    for latency in Latency:
        assert sorted(chosen(settings, latency, residency=(residency,))) == sorted(stays)
        assert chosen(settings, latency, residency=(residency,), down=tuple(stays)) == []
        for model in MAIN_MODELS:
            choice = choose(
                Requirements(model, latency, (residency,)),
                candidates(settings, model, down=tuple(stays)),
                settings.of_class(latency),
            )
            assert {refusal.route for refusal in choice.refusals if refusal.why is Why.NEVER} == others


def test_nothing_of_the_european_set_up_computes_elsewhere(tmp_path: Path) -> None:
    routes = settings_of("eu", tmp_path).routes
    assert {route.provider for route in routes.values()} == {"bedrock", "vertex"}
    for route in routes.values():
        assert route.residency == ("eu",)
        for model in MODELS:
            wire = name_on_wire(route, model.id)
            assert wire is None or route.provider == "vertex" or wire.startswith("eu.")


# --- prices


def test_the_list_prices_that_startup_tells_are_those_of_the_price_book() -> None:
    text = text_of(STARTUP).replace("\n# ", " ")
    told = re.findall(r"(claude-[\w-]+) ([\d.]+) and ([\d.]+)", text)
    assert len(told) == 3
    for model, into, out in told:
        priced = PriceBook().price("anthropic", model, model, None, datetime.now(UTC), Usage(input_tokens=1_000))
        assert (Decimal(priced.list_price["input"]), Decimal(priced.list_price["output"])) == (
            Decimal(into),
            Decimal(out),
        )
    assert "five times that for prompts above 100,000" in text
    short, long = (
        PriceBook().price("anthropic", "claude-haiku-5-5", "claude-haiku-5-5", None, datetime.now(UTC), usage)
        for usage in (Usage(input_tokens=100_000), Usage(input_tokens=100_001))
    )
    assert Decimal(long.list_price["input"]) == 5 * Decimal(short.list_price["input"])


@pytest.mark.parametrize(
    ("scenario", "premiums"),
    [
        ("aws-native", {"bedrock-us-east-1": "1.1", "bedrock-eu-west-1": "1.1", "anthropic": "1"}),
        ("eu", {"bedrock-eu-central-1": "1.1", "vertex-eu": "1.1", "bedrock-eu-west-1": "1.1"}),
        ("multi-cloud", {"bedrock-us-east-1": "1.1", "vertex-us-central1": "1.1", "anthropic": "1"}),
        ("startup", {"anthropic": "1", "bedrock-us-east-1": "1", "vertex-us-central1": "1.1"}),
        ("sydney", {"bedrock-ap-southeast-2": "1.1", "vertex-australia-southeast1": "1.1", "anthropic": "1"}),
    ],
)
def test_prices_against_list_price_are_those_that_the_files_tell(
    scenario: str, premiums: dict[str, str], tmp_path: Path
) -> None:
    settings, listed = settings_of(scenario, tmp_path), settings_of(STARTUP, tmp_path)
    for model in MAIN_MODELS:
        costs = {route.name: route.cost.of(TYPICAL) for route in candidates(settings, model) if route.cost}
        base = next(r.cost.of(TYPICAL) for r in candidates(listed, model) if r.name == "anthropic" and r.cost)
        assert {name: cost / base for name, cost in costs.items() if cost} == {
            name: Decimal(premium) for name, premium in premiums.items()
        }


# --- the page


def test_the_page_has_a_section_for_each_that_names_its_file() -> None:
    page = (REPOSITORY / "docs" / "reference" / "scenarios.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `([\w-]+)`.*?\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    assert tuple(sections) == NAMES
    for name, section in sections.items():
        (file,) = re.findall(r"`(api/\S+\.toml)`", section)
        assert tomllib.loads((REPOSITORY / file).read_text(encoding="utf-8"))["routes"], name
        assert file.endswith(f"/{name}.toml")
    assert "docs/reference/scenarios.md" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


# --- what is filled in


def test_each_route_of_a_provider_gets_what_was_found_of_it_and_no_other() -> None:
    """Two routes of Bedrock share a key; that of the Anthropic API stays its own."""
    found = {"AWS_BEARER_TOKEN_BEDROCK": "ABSK-1", "GOOGLE_CLOUD_PROJECT": 'our"project'}
    filled = scenario_file("aws-native", found, Path("/nobody"))
    keys = {name: route.get("api_key") for name, route in tomllib.loads(filled.text)["routes"].items()}
    assert keys == {
        "bedrock-us-east-1": "env:AWS_BEARER_TOKEN_BEDROCK",
        "bedrock-eu-west-1": "env:AWS_BEARER_TOKEN_BEDROCK",
        "anthropic": "env:ANTHROPIC_API_KEY",
    }
    assert [route.usable for route in filled.routes] == [True, True, False]
    assert "ABSK-1" not in filled.text
    routes = tomllib.loads(scenario_file("multi-cloud", found, Path("/nobody")).text)["routes"]
    assert routes["vertex-us-central1"]["project"] == 'our"project'
