"""Token counts on every wire, as the gateway's process asks for them, against the simulator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from trivet_simulator import Control, Endpoints
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import Outcome
from trivet_worker.adapters.counting import TokenCounter
from trivet_worker.adapters.protocol import Failure

from .sdk import MODELS, ON_AWS, WIRES

MODEL = "claude-haiku-4-5"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Say something about stone bridges."}]}
NAMES = {**MODELS, "bedrock": "global.anthropic.claude-haiku-4-5-20251001-v1:0"}


@pytest.fixture
def route(endpoints: Endpoints, tmp_path: Path) -> Any:
    """Makes the settings of a route to a wire of the simulator."""
    key = tmp_path / "key"
    key.write_text("sk-simulated\n")

    def made(wire: str) -> RouteSettings:
        fields: dict[str, Any] = {"provider": wire}
        if wire in ON_AWS or wire == "bedrock":
            fields = {"provider": "bedrock", "region": "us-east-1", "endpoint": wire if wire in ON_AWS else "invoke"}
        if wire == "platform":
            fields["workspace_id"] = "wrkspc_1"
        if wire == "vertex":
            fields |= {"region": "us-east5", "project": "p"}
        fields |= {"base_url": endpoints.providers[wire], "api_key": f"file:{key}"}
        return RouteSettings.model_validate(fields)

    return made


def count(route: RouteSettings, named: str, body: dict[str, Any] = BODY, model: str = MODEL) -> int | Failure:
    async def ask() -> int | Failure:
        counter = TokenCounter(route)
        try:
            return await counter.count(body, model, named, 10)
        finally:
            await counter.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("wire", [*WIRES, *ON_AWS])
def test_each_wire_counts_free_of_charge(control: Control, route: Any, wire: str) -> None:
    model = MODEL if wire == "bedrock" else "claude-sonnet-5-5"
    few = count(route(wire), NAMES[wire], model=model)
    many = count(route(wire), NAMES[wire], {**BODY, "system": "Be brief. " * 300}, model=model)
    assert isinstance(few, int)
    assert isinstance(many, int)
    assert 0 < few < many
    assert control.calls() == []


@pytest.mark.parametrize("wire", ["bedrock", "messages"])
def test_an_inference_profile_is_counted_by_its_model(control: Control, route: Any, wire: str) -> None:
    profile = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
    assert isinstance(count(route(wire), profile), int)
    found = count(route(wire), "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/x")
    assert isinstance(found, Failure)


def test_a_thinking_budget_leaves_room_in_the_request(control: Control, route: Any) -> None:
    body = {**BODY, "thinking": {"type": "enabled", "budget_tokens": 8_000}}
    assert isinstance(count(route("bedrock"), NAMES["bedrock"], body), int)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("overloaded", Outcome.OVERLOADED),
        ("rate_limited", Outcome.RATE_LIMITED),
        ("auth", Outcome.UNUSABLE),
        ("reset", Outcome.CONNECTION),
    ],
)
def test_a_fault_is_classified_as_that_of_a_call(
    control: Control, route: Any, wire: str, fault: str, outcome: Outcome
) -> None:
    control.fault(wire, fault)
    found = count(route(wire), NAMES[wire])
    assert isinstance(found, Failure)
    assert found.outcome is outcome
    assert "sk-simulated" not in found.message


@pytest.mark.parametrize("wire", WIRES)
def test_a_request_at_fault_is_told_from_a_route_at_fault(control: Control, route: Any, wire: str) -> None:
    found = count(route(wire), NAMES[wire], {"messages": [{"role": "robot", "content": "Hi"}]})
    assert isinstance(found, Failure)
    assert found.outcome in (Outcome.INVALID, Outcome.AMBIGUOUS)


def test_a_silent_route_is_given_up(control: Control, route: Any) -> None:
    control.fault("anthropic", "hang")

    async def ask() -> int | Failure:
        counter = TokenCounter(route("anthropic"))
        try:
            return await counter.count(BODY, MODEL, MODEL, 0.3)
        finally:
            await counter.close()

    found = asyncio.run(ask())
    assert isinstance(found, Failure)
    assert found.outcome is Outcome.TIMEOUT


def test_a_route_without_its_key_is_unusable(endpoints: Endpoints) -> None:
    fields = {"provider": "anthropic", "base_url": endpoints.providers["anthropic"], "api_key": "env:NOT_SET_HERE"}
    found = count(RouteSettings.model_validate(fields), MODEL)
    assert isinstance(found, Failure)
    assert found.outcome is Outcome.UNUSABLE
    assert "NOT_SET_HERE" in found.message
