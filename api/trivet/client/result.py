"""The result of a job, as its submitter sees it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from textwrap import shorten
from typing import Any

import orjson

from trivet_store.database.engine import Connection
from trivet_store.reports import results
from trivet_store.reports.results import AttemptRow, JobRow, estimated
from trivet_tasks.catalog import bare_name, same_model
from trivet_tasks.outcomes import Outcome, OutcomeName
from trivet_tasks.requests.request_body import as_submitted
from trivet_tasks.states import END_STATES, EndStateName, JobState, name_of_end

LONGEST_WORDS = 160
"""Maximum characters of each of several routes' errors; the attempts have the whole."""

PRUNED = "Its result was pruned."


@dataclass(frozen=True)
class Attempt:
    """One provider call. `started_at` is seconds since the epoch; `cost_usd` is an upper bound where `estimated`."""

    id: str
    route: str
    outcome: OutcomeName | None
    """Outcome of the call; None: it has not ended yet."""
    started_at: float
    latency_s: float | None
    cost_usd: Decimal | None
    estimated: bool
    request_id: str | None
    message: str | None = field(repr=False, default=None)
    provider: str | None = field(repr=False, default=None)
    """`anthropic`, `bedrock` or `vertex`."""
    model_used: str | None = field(repr=False, default=None)
    """The model that answered, by its first-party id, where it is another than was asked for; else None."""


@dataclass(frozen=True)
class JobError:
    """Reason for which there is no message: the last outcome, by the words of the outcome table, and the provider's own words."""

    outcome: OutcomeName | None
    message: str


@dataclass(frozen=True)
class Result:
    """The result of a job. Failures are results too: look at `status`."""

    id: str
    key: str | None
    status: EndStateName
    """`succeeded`, `failed`, `expired` or `cancelled`."""
    error: JobError | None
    stop_reason: str | None
    cost_usd: Decimal | None
    """Settled cost of all attempts; None where one of them could not be priced."""
    route: str | None
    model: str
    attempts: Sequence[Attempt] = field(repr=False)
    cached: bool
    latency_s: float
    """Seconds from submit to the end."""
    created_at: float = field(repr=False)
    """Time of its submission, seconds since the epoch."""
    ended_at: float = field(repr=False)
    tags: dict[str, str]
    raw: bytes | None = field(repr=False, default=None)
    """The provider's answer as JSON, as it came."""
    pruned: bool = False
    """The job ended as `status` says, but its answer, or the words of its error, are not kept any more."""
    estimated_usd: Decimal = Decimal(0)
    """At most this much more: attempts whose cost is not known, such as timeouts."""
    batch: str | None = None
    """The name of its batch."""
    index: int | None = None
    """Its position among the requests of its batch, from 0, as they were submitted."""
    metadata: dict[str, Any] = field(repr=False, default_factory=dict)
    """The metadata of its request, as it was given."""
    request: dict[str, Any] | None = field(repr=False, default=None)
    """The request as `submit` takes it, with the marks that `prompt_cache` added; None unless it was asked for
    (`with_request=True`) and is still kept."""

    @property
    def provider(self) -> str | None:
        """The provider behind `route`, as its last call there says; None where there was none."""
        return next((attempt.provider for attempt in reversed(self.attempts) if attempt.route == self.route), None)

    @property
    def model_used(self) -> str:
        """The model that answered, by its first-party id: `model`, unless the answer names another (a server-side fallback).

        Its prices are those in `cost_usd`.
        """
        own = [
            attempt
            for attempt in self.attempts
            if attempt.outcome == Outcome.SUCCEEDED.value and attempt.route == self.route
        ]
        if own:
            return own[-1].model_used or self.model
        named = self.message.get("model") if self.cached and self.message else None
        if not isinstance(named, str) or same_model(named, self.model):
            return self.model
        return bare_name(named)

    @cached_property
    def message(self) -> dict[str, Any] | None:
        """The message of the Messages API, or None when the job did not succeed or its result was pruned."""
        return None if self.raw is None else dict(orjson.loads(self.raw))

    @property
    def text(self) -> str:
        """The text of the message, empty when there is none."""
        blocks = (self.message or {}).get("content", ())
        texts = (block.get("text") for block in blocks if block.get("type") == "text")
        return "".join(text for text in texts if isinstance(text, str))

    @property
    def usage(self) -> dict[str, Any]:
        """The usage the provider reported, as in the Messages API."""
        usage = (self.message or {}).get("usage")
        return usage if isinstance(usage, dict) else {}

    @property
    def succeeded(self) -> bool:
        """True when there is a message. Of a job that succeeded and whose result was pruned there is none."""
        return self.status == JobState.SUCCEEDED.value and not self.pruned


def to_result(row: JobRow, attempts: Sequence[AttemptRow]) -> Result:
    """Return the result of a job that has ended."""
    error = None
    if row.state != JobState.SUCCEEDED:
        said = row.error_message or (PRUNED if row.pruned else f"The job was {row.state}.")
        error = JobError(_name(row.error_outcome), f"{said}{_asked_before(attempts)}")
    return Result(
        id=row.id,
        key=row.key,
        status=name_of_end(row.state),
        error=error,
        stop_reason=row.stop_reason,
        cost_usd=row.cost_usd,
        route=row.route,
        model=row.model,
        attempts=tuple(
            Attempt(
                a.id,
                a.route,
                _name(a.outcome),
                a.started_at,
                a.latency_s,
                a.cost_usd,
                a.estimated,
                a.request_id,
                a.message,
                a.provider,
                a.model_used,
            )
            for a in attempts
        ),
        cached=row.cached,
        latency_s=row.latency_s or 0.0,
        created_at=row.created_at,
        ended_at=row.ended_at or row.created_at,
        tags=row.tags,
        raw=row.message,
        pruned=row.pruned,
        estimated_usd=estimated(attempts),
        batch=row.batch,
        index=row.index,
        metadata=row.metadata,
    )


def read_ends(connection: Connection, job_ids: Sequence[str]) -> dict[str, Result | JobState]:
    """Return for each job its result, or the state of one that has not ended. Unknown ids are left out."""
    rows = results.jobs_by_id(connection, job_ids)
    ended = [row.id for row in rows.values() if row.state in END_STATES]
    attempts = results.attempts_of(connection, ended) if ended else {}
    return {row.id: to_result(row, attempts[row.id]) if row.id in attempts else row.state for row in rows.values()}


def add_request(result: Result, body: bytes | None) -> Result:
    """Return the result with its request, from the body that its job keeps; None where it keeps none."""
    if body is None:
        return result
    return replace(result, request=as_submitted(orjson.loads(body), result.model, result.metadata))


def _asked_before(attempts: Sequence[AttemptRow]) -> str:
    """Return the reasons of the routes that were asked before the last one; empty where there were none."""
    last_words: dict[str, str] = {}
    for attempt in attempts:
        outcome = attempt.outcome or "no answer yet"
        words = (
            f"{outcome}: {shorten(attempt.message, LONGEST_WORDS, placeholder=' …')}" if attempt.message else outcome
        )
        last_words[attempt.route] = words.rstrip(".")
    if attempts:
        del last_words[attempts[-1].route]
    said = "; ".join(f"{route}: {words}" for route, words in last_words.items())
    return f" Asked before: {said}." if said else ""


def _name(outcome: Outcome | None) -> OutcomeName | None:
    return None if outcome is None else outcome.value
