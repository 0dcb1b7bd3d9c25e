"""`trivet plan --output-observed`: answers as long as the latest ones in the ledger."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from tests.command_line import Said
from tests.store.world import MODEL, World

CALLS = 20
"""Minimum number of answers that tell a length."""


@pytest.fixture
def work(trivet: Callable[..., Said], tmp_path: Path) -> str:
    with (tmp_path / "trivet.toml").open("a", encoding="utf-8") as config:
        config.write('[routes.direct]\nprovider = "anthropic"\n')
    rows = [{"model": model, "max_tokens": 1_000, "prompt": "Hello"} for model in (MODEL, "claude-haiku-5-5")]
    file = tmp_path / "work.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return str(file)


def answered(world: World, calls: int) -> None:
    """Let calls of `max_tokens` 100 bring answers of 30 tokens."""
    lease, jobs = world.running(calls)
    world.end(lease, jobs)
    world.sql("UPDATE attempts SET output_tokens = 30")


def test_answers_are_as_long_as_the_latest_of_their_model(trivet: Callable[..., Said], world: World, work: str) -> None:
    answered(world, CALLS)
    found = trivet("plan", work, "--output-observed", "--json").json
    (direct,) = found["scenarios"]
    # 30 % of 1,000, and all of it where no answer is known
    assert Decimal(direct["output_tokens"]) == 1_300
    assert direct["at_most"]["output_tokens"] == "2000"
    assert any(f"30 % with {MODEL}" in line for line in found["assumptions"])


def test_too_few_answers_are_an_error_that_names_the_other_options(
    trivet: Callable[..., Said], world: World, work: str
) -> None:
    answered(world, CALLS - 1)
    done = trivet("plan", work, "--output-observed")
    assert done.code == 2
    assert "--output-observed: the database has too few answers of the last 30 days." in done.err
    assert "--output-tokens" in done.err
    both = trivet("plan", work, "--output-observed", "--output-tokens", "5")
    assert "Give --output-tokens or --output-observed, not both." in both.err
