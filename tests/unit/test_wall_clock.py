"""The database's clock decides; the few places that may ask a machine's wall clock are named here with their reason."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAY = {
    "api/trivet/cli/batch.py": "shows how long ago",
    "api/trivet/config/effective.py": "shows which window holds, without a database",
    "api/trivet/cli/plan.py": "plans without a database",
    "api/trivet/cli/rehearse.py": "plans without a database",
    "api/trivet/plan/planner.py": "plans without a database",
    "api/trivet/cli/routes.py": "shows how long ago",
    "api/trivet/cli/watching.py": "shows the time",
    "api/trivet/flower/metrics.py": "tells Prometheus, which has the machines' clocks",
    "api/trivet/live_check/anthropic.py": "checks accounts without a database",
    "api/trivet/live_check/run.py": "checks accounts without a database",
    "routing/trivet_routing/liveness/process_impairments.py": "shows since when, also while the database does not answer",
    "store/trivet_store/database/clock.py": "sets the database's clock, and stands in until it is first read",
    "worker/trivet_worker/adapters/credentials.py": "compares with the expiry of a token, which Google tells in UTC",
    "worker/trivet_worker/adapters/headers.py": "reads a provider's moment where its answer has no date",
}


def test_nothing_else_asks_the_wall_clock() -> None:
    asking = set()
    for folder in ("api", "tasks", "store", "routing", "scheduler", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if "migrations" not in path.parts and any(_asks(node) for node in ast.walk(tree)):
                asking.add(path.relative_to(ROOT).as_posix())
    assert asking == set(MAY)


def _asks(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return False
    return (node.value.id, node.attr) in {
        ("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
    }  # fmt: skip
