"""The Celery tasks: one for each provider, named so that Flower and its metrics tell the providers apart.

A task runs a chunk of jobs. Its message holds ids and fencing tokens; results and costs go to the database, so a task
has no result of its own.
"""

from collections.abc import Callable
from typing import Any

from celery import Celery

from trivet_tasks.catalog import PROVIDERS
from trivet_tasks.messages import Chunk, task_name


def register_tasks(app: Celery, run: Callable[[Chunk], int]) -> None:
    """Register `trivet.run.PROVIDER` for every provider.

    Args:
        app: the application of this process (`celery_app.make_app`).
        run: runs a chunk to its end and returns the number of jobs that it ran.
    """
    for provider in PROVIDERS:
        app.task(name=task_name(provider), ignore_result=True)(_task(provider, run))


def _task(provider: str, run: Callable[[Chunk], int]) -> Callable[..., int]:
    def run_chunk(*args: Any) -> int:
        return run(Chunk.from_args(provider, args))

    return run_chunk
