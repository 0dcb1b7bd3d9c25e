"""Hours in which a route has other terms: `[[routes.NAME.windows]]`."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*-\s*(\d{1,2})(?::(\d{2}))?")
_WHOLE_DAY = 24 * 60


def _span(hours: str) -> tuple[int, int]:
    """Minutes of the day at which a window begins and ends.

    Raises:
        ValueError: the text does not say so.
    """
    found = _HOURS.fullmatch(hours.strip())
    begin, end = (60 * int(found[at]) + int(found[at + 1] or 0) for at in (1, 3)) if found else (-1, -1)
    minutes = [int(found[at] or 0) for at in (2, 4)] if found else [60]
    if max(minutes) >= 60 or not 0 <= begin < _WHOLE_DAY or not 0 < end <= _WHOLE_DAY:
        raise ValueError('must be two times of day, as in "22-06" or "08:30-17"')
    if begin == end:
        raise ValueError('is empty: the whole day is "0-24"')
    return begin, end


def _checked_hours(hours: str) -> str:
    _span(hours)
    return hours


@lru_cache(maxsize=100)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _checked_zone(name: str) -> str:
    try:
        _zone(name)
    except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"{name!r} is no name of a time zone, such as Europe/Berlin") from None
    except KeyError:
        raise ValueError(f"no time zone {name!r} is known here, such as Europe/Berlin or UTC") from None
    return name


class RouteWindow(BaseModel):
    """Hours of the day with another weight, priority or price. If several fit, the first counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hours: Annotated[str, AfterValidator(_checked_hours)]
    """Local time of day: `22-06`, `08:30-17`. A span that ends before it begins goes on over midnight."""
    days: tuple[Day, ...] = ()
    """Days on which it begins. Empty: every day."""
    time_zone: Annotated[str, AfterValidator(_checked_zone)] = "UTC"
    """Time zone of `hours`, e.g. `Europe/Berlin`."""
    weight: float | None = Field(default=None, gt=0, le=1_000)
    """The route's weight meanwhile."""
    priority: int | None = Field(default=None, ge=1, le=1_000)
    """The route's priority meanwhile."""
    cost_factor: Annotated[Decimal, PlainSerializer(str, return_type=str, when_used="json")] | None = Field(
        default=None, ge=0, le=100, max_digits=15
    )
    """Factor on the provider's prices when routes are ordered by cost. It changes no booked cost."""

    @model_validator(mode="after")
    def _does_something(self) -> "RouteWindow":
        if self.weight is None and self.priority is None and self.cost_factor is None:
            raise ValueError("must say what holds in it: weight, priority or cost_factor")
        return self

    @cached_property
    def span(self) -> tuple[int, int]:
        """Minutes of the day at which it begins and ends."""
        return _span(self.hours)

    def holds(self, at: float) -> bool:
        """Return whether a moment, in seconds since the epoch, is within it."""
        local = datetime.fromtimestamp(at, UTC).astimezone(_zone(self.time_zone))
        minute = 60 * local.hour + local.minute
        begin, end = self.span
        if begin < end:
            return begin <= minute < end and self._begins(local)
        return (minute >= begin and self._begins(local)) or (minute < end and self._begins(local - timedelta(days=1)))

    def _begins(self, day: datetime) -> bool:
        return not self.days or DAYS[day.weekday()] in self.days

    def __str__(self) -> str:
        """In few words: `22-06 Europe/Berlin: cost x0.5`."""
        when = [self.hours, *([",".join(self.days)] if self.days else [])]
        what = [
            *([f"cost x{self.cost_factor:f}"] if self.cost_factor is not None else []),
            *([f"priority {self.priority}"] if self.priority is not None else []),
            *([f"weight {self.weight:g}"] if self.weight is not None else []),
        ]
        return f"{' '.join([*when, self.time_zone])}: {', '.join(what)}"


def window_at(windows: Iterable[RouteWindow], at: float) -> RouteWindow | None:
    """The window that holds at a moment, in seconds since the epoch; None: the route's own terms."""
    return next((window for window in windows if window.holds(at)), None)
