"""JSON of jobs, batches, routes, costs and budgets: what `--json` prints and what the HTTP resources answer.

Amounts are strings, so that no digit is lost. Times are seconds since the epoch; of costs and budgets, ISO 8601 in UTC.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from trivet.times import iso

if TYPE_CHECKING:
    from trivet.admin import (
        BatchStatus,
        BudgetList,
        BudgetStatus,
        CallbackRow,
        ClusterStatus,
        CostReport,
        CostRow,
        JobLife,
        JobRow,
        ModelStatus,
        Progress,
        RouteStatus,
    )
    from trivet.client.result import Result

COST_FIGURES = (
    "calls",
    "jobs",
    "input_tokens",
    "plain_input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "cost_usd",
    "list_usd",
    "estimated_usd",
    "approximate_usd",
    "unpriced",
)
"""Figures of a line of costs, by the names they have in JSON and CSV."""


def as_json(value: Any) -> str:
    """Return a JSON document on one line; dataclasses as objects, amounts as strings.

    >>> as_json({"cost_usd": Decimal("0.10")})
    '{"cost_usd": "0.10"}'
    """
    return json.dumps(value, default=_plain, ensure_ascii=False)


def job_object(job: "JobRow") -> dict[str, Any]:
    """Return a job without its answer, which its result has."""
    return {name: value for name, value in asdict(job).items() if name != "message"}


def life_object(life: "JobLife", *, with_request: bool = False) -> dict[str, Any]:
    """Return a job with its attempts and its earlier ends; with its request where that was asked for."""
    more: dict[str, Any] = {"request": life.request} if with_request else {}
    if life.leader:
        more["leader"] = life.leader
    told = {
        "attempts": [asdict(one) for one in life.attempts],
        "retries": [asdict(one) for one in life.retries],
        "callbacks": [one._asdict() for one in life.callbacks],
    }
    return {**job_object(life.job), **told, **more}


def result_line(result: "Result", *, with_request: bool = False) -> bytes:
    """Return a result as one line of JSON, with its line end; with its request where that was asked for.

    Amounts are strings, so that no digit is lost; `message` is as the provider sent it.
    """
    value: dict[str, Any] = {
        "id": result.id,
        "batch": result.batch,
        "index": result.index,
        "key": result.key,
        "status": result.status,
        "pruned": result.pruned,
        "error": None if result.error is None else {"outcome": result.error.outcome, "message": result.error.message},
        "text": result.text if result.succeeded else None,
        "stop_reason": result.stop_reason,
        "usage": result.usage if result.succeeded else None,
        "cost_usd": None if result.cost_usd is None else format(result.cost_usd, "f"),
        "estimated_usd": format(result.estimated_usd, "f"),
        "route": result.route,
        "provider": result.provider,
        "model": result.model,
        "model_used": result.model_used,
        "attempts": [
            {
                "id": attempt.id,
                "route": attempt.route,
                "outcome": attempt.outcome,
                "started_at": attempt.started_at,
                "latency_s": attempt.latency_s,
                "cost_usd": None if attempt.cost_usd is None else format(attempt.cost_usd, "f"),
                "estimated": attempt.estimated,
                "request_id": attempt.request_id,
                "model_used": attempt.model_used,
            }
            for attempt in result.attempts
        ],
        "cached": result.cached,
        "latency_s": result.latency_s,
        "created_at": result.created_at,
        "ended_at": result.ended_at,
        "tags": result.tags,
        "metadata": result.metadata,
        "message": None if result.raw is None else _one_line(result.raw),
    }
    if with_request:
        value["request"] = result.request
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def progress_object(progress: "Progress") -> dict[str, Any]:
    """Return the progress of a batch."""
    return {**asdict(progress), "ended": progress.ended, "joined": progress.joined, "done": progress.done}


def batch_object(status: "BatchStatus", callbacks: "Sequence[CallbackRow] | None" = None) -> dict[str, Any]:
    """Return the progress of a batch, its speed, and why it does not move; with its callbacks where they are given."""
    more = {} if callbacks is None else {"callbacks": [one._asdict() for one in callbacks]}
    progress, speed, left, blocked = status
    return {
        **progress_object(progress),
        "jobs_per_s": speed,
        "left_s": left,
        "note": " ".join(blocked.notes) or None,
        "reasons": blocked.reasons,
        "held_up": blocked.wrong,
        "impairments": [asdict(one) for one in blocked.impairments],
        **more,
    }


def costs_object(report: "CostReport") -> dict[str, Any]:
    """Return a report of costs; amounts are USD, exact."""
    return {
        "since": iso(report.span.since),
        "until": iso(report.span.until),
        "by": report.by,
        "rows": [{**dict(zip(report.by, row.group, strict=True)), **cost_figures(row)} for row in report.rows],
        "total": cost_figures(report.total),
        "unpriced": [one._asdict() for one in report.unpriced],
        "prompt_cache": [asdict(one) for one in report.prompt_cache],
        "response_cache": [
            {
                **dict(zip(report.response_cache_by, one.group, strict=True)),
                "hits": one.hits,
                "saved_usd": one.saved_usd,
                "unpriced": one.unpriced,
            }
            for one in report.response_cache
        ],
    }


def cost_figures(row: "CostRow") -> dict[str, int | Decimal]:
    """Return all figures of a line of costs; amounts are USD, exact."""
    return {name: getattr(row, name) for name in COST_FIGURES}


def budgets_object(found: "BudgetList") -> dict[str, Any]:
    """Return all budgets; times are in ISO 8601, UTC."""
    return {"budgets": [_budget(one) for one in found.budgets], "now": iso(found.now)}


def cluster_object(status: "ClusterStatus") -> dict[str, Any]:
    """Return routes, processes, waiting jobs and what is wrong. Durations are in seconds, moments since the epoch."""
    from trivet_tasks.config.environment import ignored  # both load the settings: not for each command

    return {
        "routes": [_route(status, route) for route in status.routes],
        "waiting": [{**row._asdict(), "total": row.total} for row in status.waiting],
        "held_up": [asdict(reason) for reason in status.blocked],
        "impairments": [asdict(one) for one in status.impairments],
        "workers": [worker._asdict() for worker in status.workers],
        "schedulers": [scheduler._asdict() for scheduler in status.schedulers],
        "silent": [one._asdict() for one in status.silent],
        "ignored": list(ignored()),
        "idle": [one._asdict() for one in status.idle],
        "now": status.now,
        "impairment": status.impairment,
        "budgets": list(status.budgets),
        "dropped": [one._asdict() for one in status.dropped],
        "controls": [asdict(one) for one in status.controls],
        "callbacks": [one._asdict() for one in status.callbacks],
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _one_line(message: bytes) -> Any:
    """Return the provider's answer as it came, unless a gateway has broken it into lines."""
    return orjson.loads(message) if b"\n" in message or b"\r" in message else orjson.Fragment(message)


def _budget(budget: "BudgetStatus") -> dict[str, Any]:
    ends_at = budget.window_ends_at
    return {**asdict(budget), "window_ends_at": None if ends_at is None else iso(ends_at)}


def _route(status: "ClusterStatus", route: "RouteStatus") -> dict[str, Any]:
    from trivet_tasks.config.addresses import effective_host

    return {
        "route": route.name,
        "provider": route.settings.provider,
        "region": route.settings.region,
        "host": effective_host(route.settings),
        "drained": route.drained,
        "drained_at": route.drained_at,
        "drained_why": route.drained_why,
        "known": route.known,
        "proven_at": route.proven_at,
        "queued": route.queued,
        "running": route.running,
        "by_class": [row._asdict() for row in status.outstanding if row.route == route.name],
        "priority": route.settings.priority,
        "weight": route.settings.weight,
        "window": route.window.model_dump(mode="json") if route.window else None,
        "overrides": [override._asdict() for override in route.overrides],
        "figures_since": route.version_at,
        "figures_by": route.version_by,
        "spent_today": route.spent._asdict(),
        "usd_per_hour": route.usd_per_hour,
        "slots": dict(route.slots),
        "workers": dict(route.workers),
        "lacking_lanes": list(route.lacking),
        "models": [_model(route, model) for model in route.models],
    }


def _model(route: "RouteStatus", model: "ModelStatus") -> dict[str, Any]:
    quota = model.quota
    per_minute = dict(zip(("requests", "input_tokens", "output_tokens"), model.per_minute, strict=True))
    return {
        "model": model.model,
        "state": model.state,
        "shown_as": route.state_of(model),
        "cause": model.cause,
        "since": model.since,
        "wait_s": round(model.wait_s, 3),
        "share": model.share,
        "calls_in_flight": model.in_flight,
        "places": model.places,
        "headroom": {
            "requests": model.requests,
            "input_tokens": model.input_tokens,
            "output_tokens": model.output_tokens,
        },
        "frees_per_minute": per_minute,
        "limits": {
            "group": quota.group,
            "requests_per_minute": quota.requests or None,
            "input_tokens_per_minute": quota.input_tokens or None,
            "output_tokens_per_minute": quota.output_tokens or None,
            "max_concurrency": quota.max_concurrency,
        },
        "window": {"calls": model.calls, "failed": model.failed},
        "latency": {str(latency): {"p50_s": p.p50_s, "p95_s": p.p95_s, "calls": p.calls} for latency, p in model.paces.items()},
    }  # fmt: skip
