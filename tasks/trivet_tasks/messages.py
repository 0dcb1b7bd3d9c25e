"""The messages between schedulers and workers: one message carries one chunk of jobs to one route.

A message is a hint: ids and fencing tokens, never a prompt. Losing it loses no job. Any client of the broker can
write one, so it is read strictly, and compared with the database before anything is done.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trivet_tasks.errors import TrivetError
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency

MAX_JOBS = 1_000
"""Maximum number of jobs in one message; the setting `chunk_jobs` allows half as many."""
MODEL_CHARS = 120
_MAX_INT = 2**31 - 1
_ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_DIGITS = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(r"[0-9A-Za-z]{0,64}")


class MalformedMessage(TrivetError):
    """A message is not one of Trivet's. The text names the part that is wrong, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Jobs of one class and model on their way to one route."""

    route: str
    provider: str
    latency: Latency
    model: str
    jobs: tuple[DispatchedJob, ...]
    probe: str = ""
    """Token with which the one job, a probe, may pass an open circuit breaker."""
    isolated: bool = False
    """True if the job is quarantined: it was in flight when a worker process died, and runs in a process of its own."""

    def to_args(self) -> list[Any]:
        """The Celery arguments."""
        return [self.route, self.latency.value, self.model, [list(job) for job in self.jobs], self.probe, self.isolated]

    @classmethod
    def from_args(cls, provider: str, args: Sequence[Any]) -> "Chunk":
        """Read the Celery arguments; the provider is in the task's name.

        Raises:
            MalformedMessage: they are not what `to_args` makes.
        """
        if len(args) != 6:
            raise MalformedMessage(f"It has {len(args)} arguments; there are 6.")
        route, latency, model, jobs, probe, isolated = args
        checked = (
            ("route", _is_text(route, _ROUTE)),
            ("class", isinstance(latency, str) and latency in _CLASSES),
            ("model", isinstance(model, str) and 1 <= len(model) <= MODEL_CHARS and model.isprintable()),
            ("jobs", isinstance(jobs, list) and 1 <= len(jobs) <= MAX_JOBS),
            ("probe token", _is_text(probe, _TOKEN)),
            ("mark of an isolated job", isinstance(isolated, bool)),
        )
        for name, good in checked:
            if not good:
                raise MalformedMessage(f"Its {name} cannot be one.")
        dispatched = tuple(_dispatched(job) for job in jobs)
        if len({job.id for job in dispatched}) < len(dispatched):
            raise MalformedMessage("It names a job twice.")
        if (probe or isolated) and len(dispatched) > 1:
            raise MalformedMessage("It names several jobs, where a probe or an isolated job has its own message.")
        return cls(route, provider, Latency(latency), model, dispatched, probe, isolated)

    def __str__(self) -> str:
        what = "probe" if self.probe else f"jobs={len(self.jobs)}" + (", isolated" if self.isolated else "")
        return f"(route={self.route}, class={self.latency}, model={self.model}, {what})"


_CLASSES = frozenset(latency.value for latency in Latency)


def _dispatched(fields: Any) -> DispatchedJob:
    if not isinstance(fields, list) or len(fields) != 5:
        raise MalformedMessage("One of its jobs is not a list of 5.")
    job_id, claim, input_estimate, max_tokens, cache_key = fields
    good = (
        _is_text(job_id, _DIGITS)
        and _is_count(claim)
        and _is_count(input_estimate)
        and _is_count(max_tokens)
        and (cache_key is None or _is_text(cache_key, _DIGITS))
    )
    if not good:
        raise MalformedMessage("One of its jobs has a field that cannot be one.")
    return DispatchedJob(job_id, claim, input_estimate, max_tokens, cache_key)


def _is_text(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INT  # True is an int, too


def queue_name(route: str, latency: Latency) -> str:
    """The queue of a route and class."""
    return f"{route}.{latency}"


def task_name(provider: str) -> str:
    """The task's name: by provider, so that Flower and its metrics tell the providers apart."""
    return f"trivet.run.{provider}"
