"""Doors for people who know Celery: `generate` in their own application, `celery -A trivet.celery …`, `AsyncResult` of jobs.

The engine behind them is Trivet's own: SQL rescues, retries and times jobs, since a redelivered message would be a second
bill. See `docs/explanation/celery.md`.

Example:
    from celery import chain
    from trivet.celery import generate

    terms = {"model": "claude-sonnet-5-5", "max_tokens": 300}
    chain(load.s(url), generate.s(prompt="Summarise: {0}", **terms), save.s()).delay()

Example:
    from celery.result import AsyncResult
    from trivet.celery import app

    answer = AsyncResult(job.id, app=app).get(timeout=60)
    print(answer.text, answer.usage, answer.cost_usd)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.celery.application import TrivetApp
    from trivet.celery.failures import JobFailed
    from trivet.celery.generation import generate

    app: TrivetApp

__all__ = ["JobFailed", "TrivetApp", "app", "generate"]

_MODULES = {
    "JobFailed": "trivet.celery.failures",
    "TrivetApp": "trivet.celery.application",
    "generate": "trivet.celery.generation",
}


def __getattr__(name: str) -> Any:
    """Make what is asked for: `generate` needs no configuration before a task runs, `app` reads it at once."""
    if name == "app":
        from trivet.celery.application import load_app

        found: Any = load_app()
    elif name in _MODULES:
        found = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
