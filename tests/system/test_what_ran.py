"""The price of what really ran, through the whole system: an advisor, a fallback, a refusal."""

from decimal import Decimal
from typing import Any

import orjson
import pytest
from tests.databases import rows

from trivet.testing import RunningTrivet

IN_TIME_S = 60.0


def counted(fresh: int, output: int, **more: Any) -> dict[str, Any]:
    return {"input_tokens": fresh, "output_tokens": output, **more}


ADVISOR = [
    counted(1, 45, type="message"),
    counted(159_419, 7_805, type="advisor_message", model="claude-opus-4-7"),
    counted(1, 446, type="message"),
]
FALLBACK = [
    counted(408, 0, type="message", model="claude-fable-5"),
    counted(412, 264, type="fallback_message", model="claude-opus-4-8"),
]
LONG = [counted(99_195, 100, type="message"), counted(2_000, 50, type="message")]
REFUSED = {"stop_reason": "refusal", "content": [], "stop_details": {"type": "refusal", "category": "cyber"}}


@pytest.mark.parametrize(
    ("asked", "answered", "usage", "change", "cost", "input_tokens"),
    [
        ("claude-sonnet-4-6", "claude-sonnet-4-6", counted(2, 491, iterations=ADVISOR), {}, "0.999591", 159_421),
        ("claude-fable-5", "claude-opus-4-8", counted(412, 264, iterations=FALLBACK), {}, "0.008660", 820),
        ("claude-haiku-5-5", "claude-haiku-5-5", counted(101_195, 150, iterations=LONG), {}, "0.0101945", 101_195),
        ("claude-fable-5", "claude-fable-5", counted(1_000, 0), REFUSED, "0", 1_000),
    ],
)
def test_a_call_costs_what_really_ran(
    system: RunningTrivet,
    asked: str,
    answered: str,
    usage: dict[str, Any],
    change: dict[str, Any],
    cost: str,
    input_tokens: int,
) -> None:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": answered, "usage": usage, "stop_sequence": None,
        "content": [{"type": "text", "text": "yes"}], "stop_reason": "end_turn", "stop_details": None,
    }  # fmt: skip
    # the same on every wire: their global prices are one
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(
            provider, "raw", status=200, body=orjson.dumps({**message, **change}).decode(),
            headers={"content-type": "application/json"},
        )  # fmt: skip
    job = system.client.submit(f"{asked} {answered}", model=asked, latency="batch", max_tokens=1_000)
    result = job.result(timeout=IN_TIME_S)
    assert (result.status, result.model, result.model_used) == ("succeeded", asked, answered)
    assert result.cost_usd == Decimal(cost)
    last = result.attempts[-1]
    (row,) = rows(system.settings, "SELECT * FROM attempts WHERE id = :id", id=last.id)
    assert (row.input_tokens, row.model_used) == (input_tokens, answered if answered != asked else None)
    assert (row.price_parts is not None) == ("iterations" in usage)
