"""Measuring routes with real calls: figures, money, failures; and that the ledger has every call."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal

import pytest
from tests.command_line import Said
from tests.timing import PATIENCE_S, until

from trivet.testing import RunningTrivet

MODEL = "claude-sonnet-5-5"
ROUTES = ("anthropic", "bedrock-us-east-1", "vertex-global")
PROVIDERS = ("anthropic", "bedrock", "vertex")


def test_the_figures_are_those_of_the_providers_and_every_call_is_booked(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=0.05, per_output_token_s=0.002)
    since = system.admin.now()
    said = trivet("routes", "measure", "--calls", "6", "--model", MODEL, "--json")
    assert said.code == 0
    found = {one["route"]: one for one in said.json["routes"]}
    assert set(found) == set(ROUTES)
    booked = {row.group[0]: row for row in system.admin.costs.report(["route"], since=since).rows}
    for name, one in found.items():
        assert (one["calls"], one["failed"], one["stopped"]) == (6, {}, "")
        assert 0.05 <= one["first_token_s"]["p50"] <= one["first_token_s"]["p95"] < 5
        assert 0 < one["tokens_per_s"]["p5"] <= one["tokens_per_s"]["p50"] < 1_000
        assert booked[name].calls == 6
        assert booked[name].cost_usd == Decimal(str(one["cost_usd"])) > 0
    few = trivet("routes", "measure", "anthropic", "--calls", "4")
    assert few.out.startswith("ROUTE")
    assert "too few answers for tokens per second: 2 of one token and 2 longer, at least 3 of each" in few.out


def test_answers_that_take_no_longer_than_a_token_tell_no_rate(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    system.simulator.latency("anthropic", median_s=0.3)
    (one,) = trivet("routes", "measure", "anthropic", "--calls", "6", "--model", MODEL, "--json").json["routes"]
    assert one["tokens_per_s"] is None
    assert one["note"].startswith("no tokens per second: longer answers took hardly longer")


def test_ctrl_c_prints_what_was_measured_so_far(system: RunningTrivet) -> None:
    for provider in PROVIDERS:
        system.simulator.latency(provider, median_s=0.05)
    before = len(system.simulator.calls())
    process = subprocess.Popen(
        [
            sys.executable, "-m", "trivet", "--config", system.settings.source, "routes", "measure", "anthropic",
            "--calls", "1000", "--max-usd", "10", "--model", MODEL, "--json",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: len(system.simulator.calls()) >= before + 4, "some calls to be made")
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    (one,) = json.loads(out)["routes"]
    assert 2 <= one["calls"] < 1_000
    assert (one["stopped"], err.startswith("Interrupted.")) == ("interrupted", True)


def test_no_call_that_might_cost_too_much_is_made(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    since = system.admin.now()
    said = trivet("routes", "measure", "--calls", "20", "--max-usd", "0.003", "--model", MODEL)
    assert said.code == 1
    assert "the next call might cost more than is left." in said.out
    rows = system.admin.costs.report(["route"], since=since).rows
    assert 0 < sum(row.cost_usd + row.estimated_usd for row in rows) <= Decimal("0.003")


def test_failed_calls_are_counted_by_outcome(system: RunningTrivet, trivet: Callable[..., Said]) -> None:
    system.simulator.fault("vertex", "overloaded")
    found = trivet("routes", "measure", "vertex-global", "--calls", "2", "--model", MODEL, "--json")
    assert found.code == 1
    (one,) = found.json["routes"]
    assert one["failed"] == {"overloaded": one["calls"]}
    assert one["first_token_s"] is one["tokens_per_s"] is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("nowhere",), "No route is called 'nowhere'"),
        (("--max-usd", "0"), "must be above 0"),
        (("--max-usd", "much"), "is not an amount of USD"),
        (("anthropic", "--model", "claude-unknown"), "anthropic does not serve claude-unknown"),
    ],
)
def test_what_is_typed_wrong_is_said_before_any_call(
    system: RunningTrivet, trivet: Callable[..., Said], typed: tuple[str, ...], said: str
) -> None:
    before = len(system.simulator.calls())
    found = trivet("routes", "measure", *typed)
    assert found.code == 2
    assert said in found.err
    assert len(system.simulator.calls()) == before
