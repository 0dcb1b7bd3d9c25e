"""The saving that a plan promises for the prompt cache, against the ledger of the run that follows the advice."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from tests.builders import unique
from tests.command_line import Said

from trivet.testing import RunningTrivet

MODEL = "claude-opus-4-8"
"""No other test of the prompt cache uses it: the report sums by model."""
RULES = "the rule of this house is that every letter is answered on the day it came " * 300


def written(path: Path) -> Path:
    """Write a file in which two prefixes alternate, of 5,700 and 2,900 tokens, and every fifth request has its own."""
    stem = unique("advised")
    systems = (f"{stem} letters {RULES}", f"{stem} orders {RULES[: len(RULES) // 2]}")
    rows: list[dict[str, Any]] = [
        {"model": MODEL, "max_tokens": 20, "prompt": f"number {number}", "system": systems[number % 2]}
        for number in range(60)
    ]
    for number in range(0, 60, 5):
        rows[number]["system"] = f"{number} {systems[0]}"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    return path


def saved(system: RunningTrivet) -> Decimal:
    found = [one for one in system.admin.costs.report().prompt_cache if one.model == MODEL]
    return sum((one.saved_usd - one.surcharge_usd for one in found), Decimal(0))


def test_the_run_saves_what_the_plan_said(system: RunningTrivet, trivet: Callable[..., Said], tmp_path: Path) -> None:
    file = written(tmp_path / "letters.jsonl")
    items = trivet("plan", str(file), "--json").json["advice"]["items"]
    (found,) = [one for one in items if one["kind"] == "prompt cache"]
    assert "2 prefixes" in found["finding"]
    assert "--prompt-cache 5m" in found["change"]
    before = saved(system)
    done = trivet("bulk", str(file), "--name", unique("advised"), "--prompt-cache", "5m", "--wait")
    assert done.code == 0, done
    promised, saving = Decimal(found["day_usd"]), saved(system) - before
    assert abs(promised - saving) <= Decimal("0.05") * saving, (promised, saving)
