"""Survey of a file's requests for advice: those that repeat, prefixes that they share, lengths of their prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Self

from trivet.plan.lengths import Lengths
from trivet.plan.shared_prefixes import PrefixCounter, Use, Used
from trivet.plan.workload import LoadKind, Steps, Workload, WorkloadCounter
from trivet_tasks.call_times import too_short_text
from trivet_tasks.catalog import known
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.requests.jsonl import Seen
from trivet_tasks.requests.request_terms import cache_key_of, cache_terms

LINES_NAMED = 3
_PRESENT = bytes(8)


@dataclass(slots=True)
class TooLong:
    """Requests that may not fit the context window of their model: the prompt as estimated, and `max_tokens`."""

    window: int
    calls: int = 0
    lines: list[int] = field(default_factory=list)
    """The first of them."""


@dataclass(slots=True)
class TooSlow:
    """Requests of a model whose `max_tokens` need more time than their class, or their own deadline, gives a call."""

    limit: str = "in the time of their class"
    max_tokens: int = 0
    """The most of them."""
    why: str = ""
    """The limit and the cure, for the one with the most."""
    calls: int = 0
    lines: list[int] = field(default_factory=list)
    """The first of them."""

    def add(self, job: JobSpec, line: int, why: str) -> None:
        """Count a request, with the reason."""
        self.calls += 1
        if job.max_tokens > self.max_tokens:
            self.max_tokens, self.why = job.max_tokens, why
        if len(self.lines) < LINES_NAMED:
            self.lines.append(line)


@dataclass(frozen=True, slots=True)
class Survey:
    """Findings of a file, of all its runs in a day."""

    rows: int
    """Requests of one run."""
    runs: Decimal
    repeats: Workload
    """Calls that a response cache would save; it is off for them."""
    cached: Workload
    """The same where it is on."""
    prefixes: Mapping[Use[LoadKind], Used]
    """Shared prefixes of one run."""
    lengths: Mapping[str, Lengths]
    """Lengths of the prompts of one run, by model."""
    too_long: Mapping[str, TooLong]
    """By model."""
    too_slow: Sequence[TooSlow]


class Surveyor:
    """Surveys requests while they stream by, in bounded memory: digests of equal requests are in a temporary file."""

    def __init__(self, settings: Settings, steps: Steps, output_tokens: int | None) -> None:
        self._settings = settings
        self._seen = Seen()
        self._rows = 0
        self._repeats = WorkloadCounter(steps, output_tokens)
        self._cached = WorkloadCounter(steps, output_tokens)
        self._prefixes: PrefixCounter[LoadKind] = PrefixCounter()
        self._lengths: dict[str, Lengths] = {}
        self._too_long: dict[str, TooLong] = {}
        self._too_slow: dict[tuple[str, Latency | None], TooSlow] = {}
        """By model and class; None: by deadlines of jobs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seen.close()

    def add(self, job: JobSpec, line: int, kind: LoadKind) -> None:
        """Survey the request of a line, whose load is of this kind.

        Raises:
            InvalidRequest: the folder for temporary files is full.
        """
        self._rows += 1
        if job.cache is not False and self._is_repeat(job):  # one that asks for its own answer has its reason
            (self._repeats if job.cache_key is None else self._cached).add(job)
        self._prefixes.add(job, kind)
        self._lengths.setdefault(job.model, Lengths()).add(job.input_estimate, line)
        model = known(job.model)
        if model is not None and job.input_estimate + job.max_tokens > model.context_window:
            too_long = self._too_long.setdefault(job.model, TooLong(model.context_window))
            too_long.calls += 1
            if len(too_long.lines) < LINES_NAMED:
                too_long.lines.append(line)
        if why := too_short_text(model, job.latency, job.max_tokens, self._settings.classes):
            self._too_slow.setdefault((job.model, job.latency), TooSlow()).add(job, line, why)
        if short := next((one for one in job.warnings if one.startswith("deadline:")), None):
            self._too_slow.setdefault((job.model, None), TooSlow("before their own deadline")).add(job, line, short)

    def survey(self, runs: Decimal, share_of_max: Decimal | Mapping[str, Decimal] | None) -> Survey:
        """Return the findings, the work of which is done `runs` times a day; call it once, at the end."""
        return Survey(
            self._rows,
            runs,
            self._repeats.workload(runs, share_of_max),
            self._cached.workload(runs, share_of_max),
            self._prefixes.uses(),
            self._lengths,
            self._too_long,
            tuple(self._too_slow.values()),
        )

    def _is_repeat(self, job: JobSpec) -> bool:
        """Return whether an earlier request would have brought its answer, were the response cache on."""
        terms = cache_terms(self._settings, job.latency, job.residency, job.compliance, job.tenant)
        if terms is None:
            return False
        key = bytes.fromhex(cache_key_of(job.fingerprint, terms))
        return self._seen.earlier(key[:8], _PRESENT) is not None
