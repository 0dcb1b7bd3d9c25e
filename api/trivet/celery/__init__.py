"""Doors for people who know Celery: `celery -A trivet.celery …`, and `AsyncResult` of jobs.

The engine behind them is Trivet's own: SQL rescues, retries and times jobs, since a redelivered message would be a second
bill. See `docs/explanation/celery.md`.

Example:
    from celery.result import AsyncResult
    from trivet.celery import app

    answer = AsyncResult(job.id, app=app).get(timeout=60)
    print(answer.text, answer.usage, answer.cost_usd)
"""

from trivet.celery.application import TrivetApp, load_app
from trivet.celery.results import JobFailed

__all__ = ["JobFailed", "TrivetApp", "app"]

app: TrivetApp = load_app()
