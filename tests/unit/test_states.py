"""The states are the same on all sides: enums, SQL, Lua; Python compares with the enums alone."""

import ast
import re
from collections.abc import Collection, Iterator
from importlib import resources
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import String

from trivet_routing.permits import Denial
from trivet_store import schema
from trivet_store.events import Drop
from trivet_store.jobs.batches import Progress
from trivet_store.reports.backlog import ClassBacklog, RouteBacklog
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.outcomes import HealthSignal, Outcome
from trivet_tasks.states import (
    BACKLOG_STATES,
    BREAKER_STATES,
    END_STATES,
    OUTSTANDING_STATES,
    SHUT_STATES,
    AttemptPurpose,
    BatchState,
    BudgetState,
    JobState,
    RouteState,
)

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("api", "tasks", "store", "routing", "scheduler", "worker")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "migrations" not in path.parts
]
ENUMS = (AttemptPurpose, BatchState, BudgetState, JobState, Lane, Outcome, RouteState)
WORDS = frozenset(word.value for words in ENUMS for word in words)
OF_TABLE: dict[str, dict[str, Collection[str]]] = {
    "jobs": {"state": set(JobState), "last_outcome": set(Outcome)},
    "retries": {"state": set(END_STATES), "error_outcome": set(Outcome)},
    "job_results": {"error_outcome": set(Outcome)},
    "batches": {"state": set(BatchState)},
    "budgets": {"state": set(BudgetState)},
    "route_health": {"state": set(BREAKER_STATES)},
    "attempts": {"outcome": set(Outcome), "purpose": set(AttemptPurpose), "latency": set(Latency)},
    "flows": {"latency": set(Latency)},
    "leases": {"lane": set(Lane)},
    "dropped": {"kind": set(Drop)},
}
"""Columns that hold states, and the states in each."""
_SQL_STATE = re.compile(
    r"""(?:\b(?:j|w|b|jobs|batches)\.)?\bstate(?:\ \|\|\ '')?\ (?:=|<>|IN)\ (\(?'\w+'(?:,\ '\w+')*)""", re.VERBOSE
)


def lua(name: str) -> str:
    return (resources.files("trivet_routing") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def words(pattern: str, *scripts: str) -> set[str]:
    return set(chain.from_iterable(re.findall(pattern, lua(name)) for name in scripts))


# SQL


@pytest.mark.parametrize(("table", "column"), [(table, column) for table, held in OF_TABLE.items() for column in held])
def test_every_state_fits_its_column(table: str, column: str) -> None:
    kind = schema.metadata.tables[table].c[column].type
    assert isinstance(kind, String)
    assert kind.length is not None
    assert max(len(word) for word in OF_TABLE[table][column]) <= kind.length


def test_sql_names_no_other_states_and_all_in_which_a_job_or_a_batch_waits_or_runs() -> None:
    said = set(chain.from_iterable(re.findall(r"'(\w+)'", found) for found in _sql_states()))
    assert said <= {*JobState, *BatchState, *BudgetState}
    assert said >= {*BACKLOG_STATES, *OUTSTANDING_STATES, BatchState.LOADING, BatchState.CANCELLED}


def _sql_states() -> Iterator[str]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from _SQL_STATE.findall(node.value)


def test_only_transitions_changes_jobs() -> None:
    changing = {
        path.stem
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Constant) and re.search(r"\b(UPDATE|INTO) jobs\b", str(node.value)))
        or (isinstance(node, ast.Call) and re.fullmatch(r"(insert|update)\(.*\bjobs\)", ast.unparse(node)))
    }
    assert changing == {"transitions"}


def test_only_events_writes_events() -> None:
    writing = {path.stem for path in SOURCES if re.search(r"\bINTO events\b", path.read_text(encoding="utf-8"))}
    assert writing == {"events"}


def test_only_locking_says_how_rows_are_locked() -> None:
    locks = re.compile(r"(?<!\{)\bFOR (KEY |NO KEY )?(UPDATE|SHARE)\b")
    assert [path.stem for path in SOURCES if locks.search(path.read_text(encoding="utf-8"))] == []


def test_a_job_waits_is_at_a_route_or_has_ended() -> None:
    groups = (BACKLOG_STATES, OUTSTANDING_STATES, END_STATES)
    assert sum(len(group) for group in groups) == len(JobState)
    assert frozenset().union(*groups) == set(JobState)


def test_a_batch_counts_each_end() -> None:
    assert set(schema.batches.c.keys()) >= END_STATES
    assert set(Progress.__annotations__) >= END_STATES


def test_reports_count_each_state_of_a_job_that_has_not_ended() -> None:
    assert set(ClassBacklog._fields) >= BACKLOG_STATES
    assert set(RouteBacklog._fields) >= OUTSTANDING_STATES


# Lua


def test_the_scripts_put_breakers_into_their_states_and_no_others() -> None:
    assert words(r"become\(level, '(\w+)'", "release") == BREAKER_STATES
    assert words(r"change\(\w+, '(\w+)'", "release") == BREAKER_STATES | {RouteState.LIMITED}


def test_the_scripts_know_no_other_states() -> None:
    compared = words(
        r"\b(?:state|breaker\[1\]|before\[1\]|'state'\)) == '(\w+)'", "common", "release", "take", "claim_probe", "view"
    )
    assert compared == BREAKER_STATES
    assert words(r"state, cause[, \w]* = '(\w+)'", "view") | SHUT_STATES == BREAKER_STATES | {RouteState.LIMITED}


def test_the_scripts_name_each_reason_for_which_there_is_no_permit() -> None:
    (limits,) = re.findall(r"local why = \{(.*)\}", lua("take"))
    said = words(r"refuse\(.*, '(\w+)'\)", "take") | words(r"reason = [\d.]+, '(\w+)'", "take")
    assert {*said, *re.findall(r"'(\w+)'", limits)} | SHUT_STATES == set(Denial)


def test_the_scripts_know_each_health_signal() -> None:
    assert words(r"signal == '(\w+)'", "release") - {"unconfirmed"} == set(HealthSignal)


# Python


def test_python_compares_states_with_the_enums_alone() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in SOURCES
        for node in _compared(ast.parse(path.read_text(encoding="utf-8")))
        if node.value in WORDS
    ]
    assert found == []


def _compared(tree: ast.AST) -> Iterator[ast.Constant]:
    """The constants that something is compared with, and those given as a `state`, an `outcome` or the like."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare():
                for operand in (node.left, *node.comparators):
                    yield from _constants(operand)
            case ast.MatchValue(value=ast.Constant() as constant):
                yield constant
            case ast.keyword(arg="state" | "outcome" | "purpose" | "lane", value=value):
                yield from _constants(value)
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value in ("state", "outcome", "purpose", "lane"):
                        yield from _constants(value)


def _constants(node: ast.expr) -> Iterator[ast.Constant]:
    match node:
        case ast.Constant():
            yield node
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            yield from chain.from_iterable(map(_constants, parts))
        case ast.IfExp(body=this, orelse=other):
            yield from chain(_constants(this), _constants(other))
