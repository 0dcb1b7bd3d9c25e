"""The one table from outcomes and end states to the statuses of the gateway's answers."""

import logging
from decimal import Decimal

import pytest

from trivet.client.blocked import BlockedKind, BlockedReason
from trivet.client.result import JobError, Result
from trivet.gateway.errors import KINDS, of_access, of_trivet
from trivet.gateway.job_errors import OF_BLOCKED, OF_OUTCOME, OF_STATE, answer_for, needs_reasons, rule_of
from trivet.gateway.principal import Forbidden, RateLimited, Unauthenticated
from trivet_tasks.errors import (
    BrokerUnavailable,
    InvalidRequest,
    KeyConflict,
    NotFound,
    StoreUnavailable,
    TrivetError,
)
from trivet_tasks.outcomes import Outcome, OutcomeName
from trivet_tasks.states import END_STATES, EndStateName

STATUSES = {
    Outcome.SUCCEEDED: 200,
    Outcome.RATE_LIMITED: 429,
    Outcome.OVERLOADED: 529,
    Outcome.SERVER_ERROR: 529,
    Outcome.TIMEOUT: 504,
    Outcome.CONNECTION: 529,
    Outcome.INCOMPLETE: 500,
    Outcome.UNUSABLE: 529,
    Outcome.PROXY_ERROR: 529,
    Outcome.INVALID: 400,
    Outcome.AMBIGUOUS: 400,
    Outcome.CANCELLED: 409,
    Outcome.UNKNOWN: 500,
}


def ended(status: EndStateName, outcome: OutcomeName | None, words: str = "Nothing came of it.") -> Result:
    return Result(
        id="0" * 32, key=None, status=status, error=JobError(outcome, words), stop_reason=None, cost_usd=Decimal(0),
        route=None, model="claude-haiku-4-5", attempts=(), cached=False, latency_s=1.0, created_at=0.0, ended_at=1.0, tags={},
    )  # fmt: skip


def blocked(kind: BlockedKind, wait_s: float = 0.0) -> BlockedReason:
    return BlockedReason(kind, "No route takes it", (), ("anthropic: limited", "vertex: open"), wait_s)


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_of_a_failed_job_has_its_status(outcome: Outcome) -> None:
    error = answer_for(ended("failed", outcome.value))
    assert error.status == STATUSES[outcome]
    assert rule_of(outcome.value).status == error.status
    assert error.message == "Nothing came of it."
    assert (error.headers["x-should-retry"] == "true") == ("retry-after" in error.headers)


def test_every_outcome_end_state_and_blocked_reason_is_in_the_table() -> None:
    assert set(OF_OUTCOME) == set(Outcome)
    assert set(OF_STATE) == END_STATES
    assert set(OF_BLOCKED) == set(BlockedKind)
    rules = [*OF_OUTCOME.values(), *OF_STATE.values(), *OF_BLOCKED.values()]
    assert {rule.status for rule in rules} - {200} <= set(KINDS)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (BlockedKind.THROTTLED, 429),
        (BlockedKind.UNHEALTHY, 529),
        (BlockedKind.OUT, 529),
        (BlockedKind.FORGOTTEN, 529),
        (BlockedKind.UNFIT, 400),
    ],
)
def test_an_expired_job_is_answered_by_what_blocks_it_and_names_the_routes(kind: BlockedKind, status: int) -> None:
    error = answer_for(ended("expired", None), [blocked(kind, 12.3)])
    assert error.status == status
    assert "anthropic: limited; vertex: open" in error.message
    if error.headers["x-should-retry"] == "true":
        assert error.headers["retry-after"] == "13"


def test_an_expired_job_that_nothing_blocks_took_too_long() -> None:
    assert answer_for(ended("expired", None)).status == 504
    assert answer_for(ended("expired", "server_error")).status == 504
    assert answer_for(ended("expired", "rate_limited")).status == 429
    assert answer_for(ended("failed", None)).status == 500
    assert answer_for(ended("cancelled", None)).status == 409
    assert rule_of("not_found").status == 500
    assert rule_of("expired").status == 504


def test_reasons_are_read_where_they_decide() -> None:
    assert needs_reasons(ended("expired", None))
    assert needs_reasons(ended("failed", "rate_limited"))
    assert not needs_reasons(ended("failed", "invalid"))


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (InvalidRequest("model: is missing.", field="model"), 400, "false"),
        (KeyConflict("The key is taken.", index=0), 409, "false"),
        (NotFound("There is no job."), 404, "false"),
        (TrivetError("Something else."), 500, "false"),
    ],
)
def test_errors_of_trivet_have_their_status(error: TrivetError, status: int, retry: str) -> None:
    answer = of_trivet(error)
    assert (answer.status, answer.message, answer.headers["x-should-retry"]) == (status, error.message, retry)


def test_errors_of_a_key_have_their_status() -> None:
    assert of_access(Unauthenticated("No key.")).status == 401
    assert of_access(Forbidden("Not allowed.")).status == 403
    limited = of_access(RateLimited("Too many.", 2.2))
    assert (limited.status, limited.headers["retry-after"]) == (429, "3")
    assert of_access(RateLimited("No money.", None)).headers == {"x-should-retry": "false"}


@pytest.mark.parametrize("kind", [StoreUnavailable, BrokerUnavailable])
def test_a_server_that_is_away_is_named_in_the_log_alone(
    kind: type[TrivetError], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "trivet.gateway"):
        answer = of_trivet(kind("db-7.internal:5432 does not answer."))
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "true")
    assert "db-7" not in answer.message
    assert "does not answer. Try again shortly." in answer.message
    assert "db-7.internal:5432" in caplog.text
