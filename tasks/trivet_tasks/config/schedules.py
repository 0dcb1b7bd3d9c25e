"""Schedules: recurring work of the schedulers, as `[[schedules]]` describes it."""

import string
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from trivet_tasks.config.recurrence import Recurrence, zone_of
from trivet_tasks.latency import Latency
from trivet_tasks.result_files import LINES_ENDINGS
from trivet_tasks.spans import span_s

PLACEHOLDERS = ("name", "time")
"""Words in braces that `out` may have."""
REPORT_ENDINGS = (".csv", ".json", ".html")


class WorkKind(StrEnum):
    """Kind of a schedule's work: the key that names it."""

    BULK = "bulk"
    PRUNE = "prune"
    REPORT = "report"


_TIMES = ("crontab", "missed", "enabled")
"""Keys that decide when a schedule is due, and not what it does."""
_KEYS: dict[WorkKind, tuple[str, ...]] = {
    WorkKind.BULK: (
        *("model", "max_tokens", "latency", "tenant", "tags", "cache", "prompt_cache", "dedupe", "skip_bad"),
        *("out", "with_request"),
    ),
    WorkKind.PRUNE: ("older_than", "attempts_older_than", "keep_results"),
    WorkKind.REPORT: ("by", "since", "out"),
}
"""By kind of work: the keys that only it takes."""


class Missed(StrEnum):
    """Treatment of times that passed while no scheduler ran."""

    ONCE = "once"
    SKIP = "skip"


class ScheduleSettings(BaseModel):
    """Recurring work, done once at each time by one of the schedulers. An entry has one of `bulk`, `prune` and `report`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    """Name for commands, events and batches."""
    timezone: str = "UTC"
    """IANA name of the time zone in which `crontab` is read, e.g. `Europe/Zurich`."""
    crontab: str = Field(max_length=200)
    """Times: minute, hour, day of the month, month, day of the week, as in `30 6 * * mon-fri`. All fields must match."""
    enabled: bool = True
    """False: it is listed and never due."""
    missed: Missed = Missed.SKIP
    """Treatment of times that passed while no scheduler ran: `once` for the latest of them, or `skip`."""

    bulk: str = ""
    """Work: submit this JSON Lines file, or all such files of this folder, as one batch named `NAME-2026-12-01T06:30`."""
    prune: bool = False
    """Work: delete old data, as `trivet db prune` does."""
    report: Literal["", "costs"] = ""
    """Work: write a report to `out`, as `trivet costs` does."""

    out: str = ""
    """File of a report (`.csv`, `.json`, `.html`), or of the results of `bulk`, for which the run then waits. `{name}` and
    `{time}` in it stand for the schedule and the time, e.g. `2026-12-01T0630`."""
    model: str | None = None
    """Of `bulk`: model of the requests that name none."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Of `bulk`: maximum tokens of the requests that do not set it."""
    latency: Latency | None = None
    """Of `bulk`: latency class of the requests that name none."""
    tenant: str | None = Field(default=None, min_length=1, max_length=200)
    """Of `bulk`: tenant of the requests that name none."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Of `bulk`: tags of every job."""
    cache: bool | None = None
    """Of `bulk`: whether an earlier answer to an equal request may be used. Not set: `[cache] enabled`."""
    prompt_cache: Literal["5m", "1h"] | None = None
    """Of `bulk`: read the common beginning of requests from the provider's prompt cache for this time."""
    dedupe: Literal["tenant"] | None = None
    """Of `bulk`: `tenant` lets a request whose key its tenant used before join that job."""
    skip_bad: bool = False
    """Of `bulk`: leave bad lines out instead of refusing the file."""
    with_request: bool = False
    """Of `bulk` with `out`: write each request beside its result."""
    older_than: str = ""
    """Of `prune`: age of jobs whose requests and results are deleted, e.g. `30d`."""
    attempts_older_than: str = ""
    """Of `prune`: age of jobs that are deleted altogether, with their calls and costs. Empty: none are."""
    keep_results: bool = False
    """Of `prune`: keep results, delete request bodies only."""
    by: str = "route"
    """Of `report`: groups, as for `trivet costs --by`."""
    since: str = "30d"
    """Of `report`: span before the planned time that the report covers."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, given: str) -> str:
        zone_of(given)
        return given

    @field_validator("crontab")
    @classmethod
    def _sometimes_due(cls, given: str, info: ValidationInfo) -> str:
        Recurrence(given, info.data.get("timezone", "UTC"))
        return " ".join(given.split())

    @field_validator("older_than", "attempts_older_than", "since")
    @classmethod
    def _span(cls, given: str) -> str:
        if given and (not span_s(given) or given.strip()[-1].isdigit()):
            raise ValueError(f"{given!r} is not a span of time with a unit; use 30d, 12h or 90m")
        return given

    @model_validator(mode="after")
    def _one_kind_of_work(self) -> "ScheduleSettings":
        kinds = [kind for kind in _KEYS if getattr(self, kind)]
        if len(kinds) != 1:
            named = " and ".join(kinds) if kinds else "nothing to do"
            raise ValueError(f"{self.name}: has {named}; it needs exactly one of bulk, prune and report")
        (kind,) = kinds
        others = sorted({key for keys in _KEYS.values() for key in keys} - set(_KEYS[kind]))
        for key in others:
            if key in self.model_fields_set:
                of = " or ".join(other for other in _KEYS if key in _KEYS[other])
                raise ValueError(f"{self.name}: {key} goes with {of}, not with {kind}")
        self._check_out()
        if self.prune and not self.older_than:
            raise ValueError(f'{self.name}: prune needs older_than, as in older_than = "30d"')
        if self.attempts_older_than and (span_s(self.attempts_older_than) or 0) < (span_s(self.older_than) or 0):
            raise ValueError(f"{self.name}: attempts_older_than must not be shorter than older_than")
        if self.bulk == "-":
            raise ValueError(f"{self.name}: bulk must name a file or a folder; schedulers have no standard input")
        return self

    def _check_out(self) -> None:
        if self.report and not self.out.endswith(REPORT_ENDINGS):
            raise ValueError(f"{self.name}: report needs out, a file that ends with {', '.join(REPORT_ENDINGS)}")
        if self.bulk and self.out and Path(self.out).suffix.lower() not in LINES_ENDINGS:
            raise ValueError(f"{self.name}: results are written as JSON Lines: out must end with .jsonl")
        if self.with_request and not self.out:
            raise ValueError(f"{self.name}: with_request goes with out")
        try:
            words = {word for _, word, *_ in string.Formatter().parse(self.out) if word is not None}
        except ValueError:
            words = {self.out}
        if not words <= set(PLACEHOLDERS):
            raise ValueError(f"{self.name}: out may have {{name}} and {{time}} in braces, and no others")
        if self.bulk and self.out and "time" not in words:
            raise ValueError(f"{self.name}: out needs {{time}}, or each run would replace the results of the last")

    @property
    def kind(self) -> WorkKind:
        """Return the kind of its work."""
        return next(kind for kind in WorkKind if getattr(self, kind))

    @property
    def work(self) -> str:
        """Return its work for a person: `bulk data/mails.jsonl`."""
        return f"{self.kind} {self.bulk or self.report}".strip()

    @cached_property
    def recurrence(self) -> Recurrence:
        """The moments at which it is due."""
        return Recurrence(self.crontab, self.timezone)

    @cached_property
    def digest(self) -> str:
        """Digest of its definition: the same for the same entry in every scheduler's file."""
        return _digest(self.definition())

    @cached_property
    def work_digest(self) -> str:
        """Digest of what a run does, by whatever times it is due. The time zone counts: it is in the names of batches."""
        return _digest({key: value for key, value in self.definition().items() if key not in _TIMES})

    def run_name(self, planned_at: float, *, by_hand: bool = False) -> str:
        """Return the name of a run, and of its batch: `nightly-2026-12-01T06:30`.

        Args:
            planned_at: seconds since the epoch.
            by_hand: whether a person asked for it, so that the second counts.
        """
        return f"{self.name}-{self.recurrence.stamp(planned_at, seconds=by_hand)}"

    def out_path(self, planned_at: float, *, by_hand: bool = False) -> str:
        """Return the file of a run's report or results; empty: there is none."""
        stamp = self.recurrence.stamp(planned_at, seconds=by_hand).replace(":", "")
        return self.out.format(name=self.name, time=stamp)

    def report_span(self, planned_at: float) -> tuple[float, float]:
        """Return the begin and the end of a report, in seconds since the epoch."""
        return planned_at - (span_s(self.since) or 0.0), planned_at

    def definition(self, base: Path | None = None) -> dict[str, Any]:
        """Return it JSON-ready.

        Args:
            base: the folder that its relative paths count from; None: leave them relative.
        """
        given = self.model_dump(mode="json", exclude_defaults=True)
        for key in ("bulk", "out") if base is not None else ():
            if given.get(key):
                given[key] = str(base / given[key])
        return given


def _digest(definition: dict[str, Any]) -> str:
    return blake2b(orjson.dumps(definition, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
