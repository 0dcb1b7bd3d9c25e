"""Recurring times: a crontab expression in a time zone, and the moments at which it is due, daylight saving included.

Celery's `crontab` reads the expression; the moments are found here. Celery itself adds wall time without regard to the
zone's changes and reads an application's clock, so it fires an hour early or late around them.

A schedule for certain hours follows the clock on the wall. A time that the change to summer time leaves out is due once,
at the first moment after the gap. A time that the change back repeats is due once, the first time. A schedule for every
hour of the day follows real time: `*/15 * * * *` is due at every quarter of an hour that really passes.
"""

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
"""Fields of an expression, in their order."""
_EXPRESSION = re.compile(r"[A-Za-z0-9*/,-]+")
_HORIZON = timedelta(days=366 * 41)
"""Maximum distance between two times: 29 February on a certain day of the week."""
_DAY = timedelta(days=1)
_HOURS = frozenset(range(24))


class _Sets(NamedTuple):
    """Values of each field for which a time is due."""

    minute: list[int]
    hour: list[int]
    day_of_month: frozenset[int]
    month_of_year: frozenset[int]
    day_of_week: frozenset[int]
    """0 is Sunday."""


class Recurrence:
    """The moments of a crontab expression in a time zone, in seconds since the epoch.

        every_weekday = Recurrence("30 6 * * mon-fri", "Europe/Zurich")
        every_weekday.next_after(time.time())

    Both day fields must match: `0 0 1 * mon` is due on a first of the month that is a Monday.

    Args:
        crontab: minute, hour, day of the month, month, day of the week, as `celery.schedules.crontab` reads them.
        timezone: IANA name.

    Raises:
        ValueError: the expression is wrong or never due, or there is no such time zone.
    """

    def __init__(self, crontab: str, timezone: str = "UTC") -> None:
        self._sets = _read(crontab)
        self._zone = zone_of(timezone)
        if self.next_after(0.0) is None:
            raise ValueError(f"{crontab!r} is never due: no such day is in the calendar")

    def next_after(self, at: float) -> float | None:
        """Return the first moment after this one; None: there is none."""
        day = self.local(at).date() - _DAY  # times of a gap are due on the day after
        last = day + _HORIZON
        while day <= last:
            later = [due for due in self._due_on(day) if due > at]
            if later:
                # a change at midnight repeats the end of a day after the next has begun
                return min(later + [due for due in self._due_on(day + _DAY) if due > at])
            day += _DAY
        return None

    def last_until(self, at: float, not_before: float) -> float | None:
        """Return the last moment that is not after `at`, or None where it would be before `not_before`."""
        day = self.local(at).date() + _DAY
        last = self.local(not_before).date() - _DAY
        while day >= last:
            earlier = [due for due in self._due_on(day) if due <= at]
            if earlier:
                found = max(earlier + [due for due in self._due_on(day - _DAY) if due <= at])
                return found if found >= not_before else None
            day -= _DAY
        return None

    def local(self, at: float) -> datetime:
        """Return a moment in the schedule's time zone."""
        return datetime.fromtimestamp(at, self._zone)

    def stamp(self, at: float, *, seconds: bool = False) -> str:
        """Return a moment as text that no other moment has: `2026-12-01T06:30`, in the second pass of a repeated hour
        `2026-10-25T02:30+0100`.
        """
        local = self.local(at)
        return local.strftime(f"%Y-%m-%dT%H:%M{':%S' if seconds or local.second else ''}{'%z' if local.fold else ''}")

    @cached_property
    def _real_time(self) -> bool:
        return _HOURS.issubset(self._sets.hour)

    def _due_on(self, day: date) -> list[float]:
        """Return the moments of the wall times of a day."""
        sets = self._sets
        if day.month not in sets.month_of_year or day.day not in sets.day_of_month:
            return []
        if day.isoweekday() % 7 not in sets.day_of_week:
            return []
        return [due for hour in sets.hour for due in self._due_in(datetime(day.year, day.month, day.day, hour))]

    def _due_in(self, hour: datetime) -> Iterator[float]:
        """Yield the moments of the wall times of an hour."""
        edges = [
            edge.replace(tzinfo=self._zone, fold=fold) for edge in (hour, hour + timedelta(hours=1)) for fold in (0, 1)
        ]
        if len({edge.utcoffset() for edge in edges}) == 1:
            begin = edges[0].timestamp()
            yield from (begin + 60.0 * minute for minute in self._sets.minute)
            return
        for minute in self._sets.minute:
            yield from self._moments(hour.replace(minute=minute))

    def _moments(self, wall: datetime) -> Iterator[float]:
        """Yield the moments at which a wall time is due."""
        first, second = (wall.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        before, after = first.utcoffset(), second.utcoffset()
        assert before is not None
        assert after is not None
        if before >= after:
            yield first.timestamp()
        if before > after and self._real_time:
            yield second.timestamp()
        if before < after and not self._real_time:
            yield self._gap_end(second.timestamp(), first.timestamp())

    def _gap_end(self, before: float, after: float) -> float:
        """Return the moment of the zone's change between two moments, by bisection to the second."""
        low, high = int(before), int(after)
        changed = self.local(high).utcoffset()
        while high - low > 1:
            middle = (low + high) // 2
            if self.local(middle).utcoffset() == changed:
                high = middle
            else:
                low = middle
        return float(high)


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a folder, not a name at all, not found
        pass
    known = available_timezones()
    if not known:
        raise ValueError(f"no time zones are installed here, so {name!r} is not known: install tzdata")
    near = get_close_matches(name, known, n=1, cutoff=0.6) or [zone for zone in sorted(known) if _city(zone) == name]
    hint = f"did you mean {near[0]}?" if near else "use an IANA name such as Europe/Zurich or UTC"
    raise ValueError(f"{name!r} is no time zone; {hint}")


def _city(zone: str) -> str:
    return zone.rpartition("/")[2]


def _read(crontab: str) -> _Sets:
    # slow to import, and few configurations have schedules
    from celery.schedules import ParseException
    from celery.schedules import crontab as read

    fields = crontab.split()
    if len(fields) != len(FIELDS):
        raise ValueError(
            f"{crontab!r} has {len(fields)} fields; it takes five, minute hour day month weekday, as in '30 6 * * mon-fri'"
        )
    found = {}
    for name, text in zip(FIELDS, fields, strict=True):
        try:
            if not _EXPRESSION.fullmatch(text):
                raise ValueError("only numbers, names, * / , and - may be in it")
            found[name] = set(getattr(read(**{name: text}), name))
        except (ValueError, ParseException) as error:
            hint = "; 0 or sun is Sunday" if name == "day_of_week" else ""
            raise ValueError(f"{name.replace('_', ' ')} {text!r}: {str(error).rstrip('.')}{hint}") from None
    return _Sets(
        sorted(found["minute"]),
        sorted(found["hour"]),
        *(frozenset(found[name]) for name in FIELDS[2:]),
    )
