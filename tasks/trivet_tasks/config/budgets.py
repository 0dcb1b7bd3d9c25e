"""Budgets: limits on spending in a day, in a month or in all, and the windows in which spending is counted.

Windows turn at midnight UTC; a call belongs to the day on which it began.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, model_validator

from trivet_tasks.config.amounts import digits
from trivet_tasks.jobs import JobSpec

DAY_S = 86_400
TENANT = "tenant"
"""Label of the tenant that the work is done for; that of a tag is `tag:NAME`."""
KEY_BUDGETS = "key:"
"""Prefix of the names of budgets that belong to gateway keys. No file has such a name."""


class Per(StrEnum):
    """Period of a budget."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"
    """Lasts as long as its batch."""


class Window(NamedTuple):
    """The span of days in which a budget counts what was spent."""

    key: str
    """`2026-11-26`, `2026-11` or `total`."""
    first_day: int
    """Days since 1970-01-01, UTC."""
    ends_at: float | None
    """Start of the next window, seconds since the epoch; None: never."""


def window(per: Per, now: float) -> Window:
    """The window at a moment, seconds since the epoch."""
    today = datetime.fromtimestamp(now, UTC).date()
    day = int(now // DAY_S)
    match per:
        case Per.DAY:
            return Window(today.isoformat(), day, float((day + 1) * DAY_S))
        case Per.MONTH:
            year, month = divmod(12 * today.year + today.month, 12)
            ends_at = datetime(year, month + 1, 1, tzinfo=UTC).timestamp()
            return Window(f"{today:%Y-%m}", day - today.day + 1, ends_at)
        case Per.TOTAL:
            return Window("total", 0, None)


class BudgetSettings(BaseModel):
    """One budget. It counts one tag, batch, tenant or route; without a scope, all calls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=rf"^({KEY_BUDGETS})?[A-Za-z0-9][A-Za-z0-9_.-]{{0,99}}$")]
    """Name for commands, events and metrics."""
    usd: Annotated[Decimal, Field(gt=0, max_digits=15), PlainSerializer(digits, return_type=str, when_used="json")]
    """Limit on the spending in one window."""
    per: Per
    """Window. Days and months turn at midnight UTC; `total` lasts as long as its batch."""
    tag: str = Field(default="", max_length=401)
    """Scope: the jobs with this tag, `NAME=VALUE`."""
    batch: str = Field(default="", max_length=200)
    """Scope: the jobs of this batch."""
    tenant: str = Field(default="", max_length=200)
    """Scope: the jobs of this tenant."""
    route: str = Field(default="", max_length=100)
    """Scope: the calls of this route. Jobs go to other routes while it is used up."""
    warn_at: float = Field(default=0.8, gt=0, le=1)
    """Spent share of the limit at which Trivet warns."""

    @model_validator(mode="after")
    def _one_scope(self) -> "BudgetSettings":
        given = [key for key in ("tag", "batch", "tenant", "route") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{self.name}: {' and '.join(given)} do not go together: a budget counts one thing")
        name, equals, value = self.tag.partition("=")
        if self.tag and not (name and equals and value):
            raise ValueError(f"{self.name}: tag must be NAME=VALUE, as in team=search")
        if self.per is Per.TOTAL and not self.batch:
            raise ValueError(f'{self.name}: per = "total" is for a batch; name one, or use "day" or "month"')
        return self

    @property
    def scope(self) -> str:
        """Return a description of what the budget counts."""
        for key in ("tag", "batch", "tenant", "route"):
            if value := getattr(self, key):
                return f"{key} {value}"
        return "all"

    @property
    def label(self) -> tuple[str, str] | None:
        """Label that selects its jobs, if any: `("tag:team", "search")`."""
        if self.tag:
            name, _, value = self.tag.partition("=")
            return f"tag:{name}", value
        return (TENANT, self.tenant) if self.tenant else None

    def counts(self, batch: bool, labels: dict[str, str]) -> bool:
        """Return whether a job is in its scope, routes aside.

        Args:
            batch: whether the job is of the batch that the budget names.
            labels: the job's.
        """
        if self.batch:
            return batch
        label = self.label
        return label is None or labels.get(label[0]) == label[1]

    def definition(self) -> dict[str, Any]:
        """JSON-ready."""
        return self.model_dump(mode="json", exclude_defaults=True)


Labels: TypeAlias = frozenset[tuple[str, str]]
"""Facts of jobs that budgets select by: (`tenant`, NAME), (`tag:NAME`, VALUE)."""


def labels_asked(budgets: Iterable[BudgetSettings]) -> Labels:
    """Return the facts that these budgets select by."""
    return frozenset(label for budget in budgets if (label := budget.label))


def labels_of(spec: JobSpec, asked: Labels) -> str:
    """Return the facts of a job that budgets select by, as JSON. Equal facts give equal text; other facts are left out."""
    if not asked:
        return "{}"
    labels = {f"tag:{name}": value for name, value in spec.tags.items() if (f"tag:{name}", value) in asked}
    if spec.tenant is not None and (TENANT, spec.tenant) in asked:
        labels[TENANT] = spec.tenant
    return orjson.dumps(labels, option=orjson.OPT_SORT_KEYS).decode()


def exact_usd(amount: Decimal) -> str:
    """Return an amount of USD for a person, with every digit it has, at least cents: `$0.0125`."""
    whole = f"{amount:,.12f}".rstrip("0")
    cents = len(whole) - whole.index(".") - 1
    return f"${whole}{'0' * max(0, 2 - cents)}"
