"""Recurring times through changes of the clock: by example, and against every minute that passes."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trivet_tasks.config.recurrence import Recurrence

ZURICH = "Europe/Zurich"
ZONES = (
    *("UTC", ZURICH, "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"),
    *("Africa/Casablanca", "America/Sao_Paulo", "Pacific/Apia"),
)
MINUTE_S = 60
WINDOW_S = 30 * 3_600


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def due(crontab: str, zone: str, after: str, count: int) -> list[str]:
    recurrence, now = Recurrence(crontab, zone), at(after)
    found = []
    for _ in range(count):
        next_time = recurrence.next_after(now)
        assert next_time is not None
        found.append(recurrence.local(next_time).isoformat())
        now = next_time
    return found


def test_a_time_in_the_gap_is_due_once_at_its_end() -> None:
    assert due("30 2 * * *", ZURICH, "2026-03-28T00:00Z", 3) == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert due("*/15 2,3 * * *", ZURICH, "2026-03-28T12:00Z", 3) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T03:15:00+02:00",
        "2026-03-29T03:30:00+02:00",
    ]


def test_a_repeated_time_is_due_once_the_first_time() -> None:
    assert due("30 2 * * *", ZURICH, "2026-10-24T12:00Z", 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


def test_a_schedule_of_every_hour_follows_real_time() -> None:
    autumn = due("*/15 * * * *", ZURICH, "2026-10-24T22:00Z", 200)
    spring = due("*/15 * * * *", ZURICH, "2026-03-28T22:00Z", 200)
    for found in (autumn, spring):
        moments = [at(one) for one in found]
        assert {later - earlier for earlier, later in pairwise(moments)} == {900}
    assert "2026-10-25T02:15:00+01:00" in autumn
    assert not any(one.startswith("2026-03-29T02") for one in spring)


def test_a_whole_day_that_was_left_out_is_due_when_the_next_one_begins() -> None:
    assert due("30 6 30 12 *", "Pacific/Apia", "2011-06-01T00:00Z", 2) == [
        "2011-12-31T00:00:00+14:00",
        "2012-12-30T06:30:00+14:00",
    ]


def test_both_day_fields_must_match() -> None:
    assert due("0 0 1 * mon", "UTC", "2026-01-01T00:00Z", 2) == [
        "2026-06-01T00:00:00+00:00",
        "2027-02-01T00:00:00+00:00",
    ]
    assert due("0 0 29 2 mon", "UTC", "2072-03-01T00:00Z", 1) == ["2112-02-29T00:00:00+00:00"]


def test_each_moment_has_a_stamp_of_its_own() -> None:
    half_hours = Recurrence("*/30 * * * *", ZURICH)
    stamps = [half_hours.stamp(at("2026-10-24T23:30Z") + 1_800 * number) for number in range(6)]
    assert stamps == [
        *("2026-10-25T01:30", "2026-10-25T02:00", "2026-10-25T02:30"),
        *("2026-10-25T02:00+0100", "2026-10-25T02:30+0100", "2026-10-25T03:00"),
    ]
    assert half_hours.stamp(at("2026-12-01T06:30:12Z"), seconds=True) == "2026-12-01T07:30:12"


@pytest.mark.parametrize(
    ("crontab", "zone", "said"),
    [
        ("30 6 * *", "UTC", "has 4 fields; it takes five, minute hour day month weekday"),
        ("0 25 * * *", "UTC", "hour '25': Invalid end range: 25 > 23"),
        ("0 0 * * 7", "UTC", "day of week '7': Invalid end range: 7 > 6; 0 or sun is Sunday"),
        ("0 0 * * mon#1", "UTC", "day of week 'mon#1': only numbers, names"),
        ("0 0 31 2,4 *", "UTC", "is never due"),
        ("0,, 0 * * *", "UTC", "minute '0,,'"),
        ("0 0 * * *", "Europe/Zürich", "did you mean Europe/Zurich?"),
        ("0 0 * * *", "Zurich", "did you mean Europe/Zurich?"),
        ("0 0 * * *", "../etc/passwd", "use an IANA name"),
        ("0 0 * * *", "", "use an IANA name"),
    ],
)
def test_what_is_wrong_is_named(crontab: str, zone: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Recurrence(crontab, zone)


# against every minute


def transitions() -> Iterator[tuple[str, int]]:
    """Zones with the hours in which their clocks change."""
    for name in ZONES:
        zone = ZoneInfo(name)
        hour = datetime(2010, 1, 1, tzinfo=UTC)
        before = hour.astimezone(zone).utcoffset()
        while hour.year < 2022:
            hour += timedelta(hours=12)
            offset = hour.astimezone(zone).utcoffset()
            if offset != before:
                yield name, int(hour.timestamp())
            before = offset


CHANGES = list(transitions())


def field(high: int, *others: str) -> st.SearchStrategy[str]:
    numbers = st.lists(st.integers(0, high), min_size=1, max_size=4, unique=True)
    return st.one_of(numbers.map(lambda found: ",".join(map(str, found))), st.sampled_from(others))


def expected(crontab: str, zone: str, begin: int) -> list[float]:
    """Return the moments of the window that are due, by looking at each minute of real time."""
    minutes, hours, days, months, weekdays = map(_values, crontab.split(), ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6)))
    real_time = len(hours) == 24

    def matches(wall: datetime) -> bool:
        fields = (wall.minute, wall.hour, wall.day, wall.month, wall.isoweekday() % 7)
        return all(value in of for value, of in zip(fields, (minutes, hours, days, months, weekdays), strict=True))

    found = []
    before = datetime.fromtimestamp(begin, ZoneInfo(zone))
    for moment in range(begin + MINUTE_S, begin + WINDOW_S, MINUTE_S):
        local = datetime.fromtimestamp(moment, ZoneInfo(zone))
        wall, skipped = local.replace(tzinfo=None, fold=0), before.replace(tzinfo=None, fold=0) + timedelta(minutes=1)
        left_out = False
        while skipped < wall:
            left_out = left_out or matches(skipped)
            skipped += timedelta(minutes=1)
        if (matches(wall) and (real_time or not local.fold)) or (left_out and not real_time):
            found.append(float(moment))
        before = local
    return found


def _values(text: str, bounds: tuple[int, int]) -> set[int]:
    low, high = bounds
    if text.startswith("*"):
        return set(range(low, high + 1, int(text[2:] or 1)))
    return {int(number) for number in text.split(",")}


@settings(max_examples=60)
@given(
    minute=field(59, "*/15", "*/20"),
    hour=field(23, "*", "*/2", "*/3"),
    day=st.sampled_from(["*", "*", "*", "*/2"]),
    weekday=st.sampled_from(["*", "*", "0,6", "1,2,3,4,5"]),
    change=st.sampled_from(CHANGES),
    shift=st.integers(-28, 4),
)
@example(minute="30", hour="2", day="*", weekday="*", change=(ZURICH, int(at("2026-03-29T01:00Z"))), shift=-20)
@example(minute="*/5", hour="*", day="*", weekday="*", change=(ZURICH, int(at("2026-10-25T01:00Z"))), shift=-20)
def test_no_time_is_left_out_none_is_added_and_they_increase(
    minute: str, hour: str, day: str, weekday: str, change: tuple[str, int], shift: int
) -> None:
    zone, moment = change
    crontab = f"{minute} {hour} {day} * {weekday}"
    begin = moment + shift * 3_600
    recurrence = Recurrence(crontab, zone)
    found: list[float] = []
    next_time = recurrence.next_after(begin)
    while next_time is not None and next_time < begin + WINDOW_S:
        assert not found or next_time > found[-1]
        found.append(next_time)
        next_time = recurrence.next_after(next_time)
    assert found == expected(crontab, zone, begin), f"{crontab} in {zone} from {begin}"
    for earlier, later in list(pairwise(found))[-3:]:
        assert recurrence.last_until(later - 1, not_before=begin) == earlier
        assert recurrence.last_until(later, not_before=begin) == later
    if found:
        assert recurrence.last_until(found[0] - 1, not_before=begin + 1) is None
