"""The messages between schedulers and workers: one message carries one chunk of jobs to one route.

A message is a hint: ids and fencing tokens, never a prompt. Losing it loses no job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trivet_tasks.latency import Latency
from trivet_tasks.store.dispatching import Claimed


@dataclass(frozen=True, slots=True)
class Chunk:
    """Jobs of one class and model on their way to one route."""

    route: str
    provider: str
    latency: Latency
    model: str
    jobs: tuple[Claimed, ...]
    probe: str = ""
    """The token with which the one job, a probe, may pass an open gate."""
    alone: bool = False
    """The job was in flight when a worker process died: it runs in a process of its own."""

    def to_args(self) -> list[Any]:
        """The Celery arguments."""
        args: list[Any] = [self.route, self.latency.value, self.model, [_plain(job) for job in self.jobs]]
        if self.alone:
            return [*args, self.probe, True]
        return [*args, self.probe] if self.probe else args

    @classmethod
    def from_args(cls, provider: str, args: Sequence[Any]) -> "Chunk":
        """Back from the Celery arguments; the provider is in the task's name."""
        route, latency, model, jobs, *special = args
        return cls(route, provider, Latency(latency), model, tuple(Claimed(*job) for job in jobs), *special)

    def __str__(self) -> str:
        what = "probe" if self.probe else f"jobs={len(self.jobs)}" + (", alone" if self.alone else "")
        return f"(route={self.route}, class={self.latency}, model={self.model}, {what})"


def _plain(job: Claimed) -> list[Any]:
    """Without a cache key as a process reads it that knows of none."""
    return list(job) if job.cache_key else list(job[:-1])


def queue_name(route: str, latency: Latency) -> str:
    """The queue of a route and class."""
    return f"{route}.{latency}"


def task_name(provider: str) -> str:
    """The task's name: by provider, so that Flower and its metrics tell the providers apart."""
    return f"trivet.run.{provider}"
