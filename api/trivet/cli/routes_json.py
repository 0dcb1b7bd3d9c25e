"""The routes as one JSON object."""

from dataclasses import asdict
from typing import Any

from trivet.admin.route_status import ModelStatus, Picture, RouteStatus
from trivet.cli.routes_table import state_of
from trivet_tasks.config.environment import ignored
from trivet_tasks.config.route_hosts import effective_host


def as_object(picture: Picture) -> dict[str, Any]:
    """Everything that the table shows and more. Times are seconds, moments seconds since the epoch."""
    return {
        "routes": [_route(picture, route) for route in picture.routes],
        "waiting": [{**row._asdict(), "total": row.total} for row in picture.waiting],
        "held_up": [asdict(holdup) for holdup in picture.holdups],
        "impairments": [asdict(one) for one in picture.impairments],
        "workers": [worker._asdict() for worker in picture.workers],
        "schedulers": [scheduler._asdict() for scheduler in picture.schedulers],
        "silent": [one._asdict() for one in picture.silent],
        "ignored": list(ignored()),
        "idle": [one._asdict() for one in picture.idle],
        "now": picture.now,
        "trouble": picture.trouble,
        "budgets": list(picture.budgets),
        "dropped": [one._asdict() for one in picture.dropped],
    }


def _route(picture: Picture, route: RouteStatus) -> dict[str, Any]:
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
        "by_class": [row._asdict() for row in picture.standing if row.route == route.name],
        "priority": route.settings.priority,
        "weight": route.settings.weight,
        "window": route.window.model_dump(mode="json") if route.window else None,
        "overrides": [override._asdict() for override in route.overrides],
        "figures_since": route.version_at,
        "figures_by": route.version_by,
        "spent_today": route.spent._asdict(),
        "slots": dict(route.slots),
        "workers": dict(route.workers),
        "lacking_lanes": list(route.lacking),
        "models": [_model(route, model) for model in route.models],
    }


def _model(route: RouteStatus, model: ModelStatus) -> dict[str, Any]:
    quota = model.quota
    per_minute = dict(zip(("requests", "input_tokens", "output_tokens"), model.per_minute, strict=True))
    return {
        "model": model.model,
        "state": model.state,
        "shown_as": state_of(route, model),
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
