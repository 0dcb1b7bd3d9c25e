"""Hours in which a route has other terms: exactly those of the local clock, also when it is put forward or back."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.route_windows import DAYS, RouteWindow, window_at
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import ConfigError

WEEK_MINUTES = 7 * 24 * 60
WEEKS = {
    "plain": datetime(2026, 6, 1, hour=12, tzinfo=UTC),
    "Europe puts the clock on": datetime(2026, 3, 26, hour=12, tzinfo=UTC),
    "Europe puts it back": datetime(2026, 10, 22, hour=12, tzinfo=UTC),
    "America puts it back": datetime(2026, 10, 29, hour=12, tzinfo=UTC),
    "the turn of the year": datetime(2026, 12, 28, hour=12, tzinfo=UTC),
}
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")


def window(hours: str, **terms: Any) -> RouteWindow:
    return RouteWindow.model_validate({"hours": hours, "weight": 2, **terms})


def minutes(week: datetime) -> Iterator[datetime]:
    return (week + timedelta(minutes=number) for number in range(WEEK_MINUTES))


def times_of_day(begin: int, end: int) -> dict[str, bool]:
    """Each `HH:MM` of a day in the window, walked from its beginning minute by minute; True: it is on the day after."""
    found, at, next_day = {}, begin, False
    while at != end:
        if at == 24 * 60:
            at, next_day = 0, True
            continue
        found[f"{at // 60:02}:{at % 60:02}"] = next_day
        at += 1
    return found


@settings(max_examples=15, deadline=None)
@given(
    begin=st.integers(0, 1_439),
    end=st.integers(1, 1_440),
    days=st.sets(st.sampled_from(DAYS)),
    zone=st.sampled_from(ZONES),
    week=st.sampled_from(sorted(WEEKS)),
)
def test_every_minute_of_a_week_is_in_exactly_what_the_hours_say(
    begin: int, end: int, days: set[str], zone: str, week: str
) -> None:
    """Against tables of times of day and names of days, as the zone's clock and calendar show them."""
    if begin == end:
        end = 1_440
    said = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    one = window(said, days=sorted(days), time_zone=zone)
    within = times_of_day(begin, end)
    named = [day.capitalize() for day in days] or [day.capitalize() for day in DAYS]
    yesterday = {"Mon": "Sun", "Tue": "Mon", "Wed": "Tue", "Thu": "Wed", "Fri": "Thu", "Sat": "Fri", "Sun": "Sat"}
    for moment in minutes(WEEKS[week]):
        day, clock = moment.astimezone(ZoneInfo(zone)).strftime("%a %H:%M").split()
        next_day = within.get(clock)
        expected = next_day is not None and (yesterday[day] if next_day else day) in named
        assert one.holds(moment.timestamp()) is expected, moment
        assert one.holds(moment.timestamp() + 59.9) is expected, moment


@pytest.mark.parametrize(
    ("week", "hours", "minutes_within"),
    [
        ("plain", "22-06", 7 * 8 * 60),
        ("Europe puts the clock on", "22-06", 7 * 8 * 60 - 60),
        ("Europe puts it back", "22-06", 7 * 8 * 60 + 60),
        ("Europe puts the clock on", "02-03", 6 * 60),
        ("Europe puts it back", "02-03", 8 * 60),
        ("Europe puts it back", "0-24", WEEK_MINUTES),
    ],
)
def test_an_hour_that_the_clock_skips_or_shows_twice(week: str, hours: str, minutes_within: int) -> None:
    one = window(hours, time_zone="Europe/Berlin")
    assert sum(one.holds(moment.timestamp()) for moment in minutes(WEEKS[week])) == minutes_within


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    one = window("22-06", days=["fri"])
    friday = datetime(2026, 6, 5, tzinfo=UTC)
    hours = {hour for hour in range(-24, 72) if one.holds((friday + timedelta(hours=hour)).timestamp())}
    assert hours == {22, 23, 24, 25, 26, 27, 28, 29}


def test_the_first_of_several_that_fit_counts() -> None:
    windows = (window("12-13", weight=5), window("0-24", weight=7), window("12-14", weight=9))
    noon = datetime(2026, 6, 1, 12, 30, tzinfo=UTC).timestamp()
    found = [window_at(windows, noon), window_at(windows, noon + 3600)]
    assert [one.weight for one in found if one] == [5, 7]
    assert window_at((), noon) is None
    assert window_at(windows[:1], noon + 3600) is None


def test_what_a_window_does_not_name_stays_as_it_is() -> None:
    route = RouteSettings.model_validate({"provider": "bedrock", "priority": 3, "weight": 4})
    held = route.within(window("0-24", weight=9, cost_factor="0.5"))
    assert (held.priority, held.weight) == (3, 9)
    assert route.within(None) == route
    assert str(window("22-06", days=["sat", "sun"], weight=9, cost_factor="0.50", priority=2)) == (
        "22-06 sat,sun UTC: cost x0.50, priority 2, weight 9"
    )


TABLE = "[routes.r]\nprovider = 'anthropic'\n[[routes.r.windows]]\n"


@pytest.mark.parametrize(
    ("words", "place", "says"),
    [
        ("hours = '22'\nweight = 2", "[routes.r.windows.0] hours", 'must be two times of day, as in "22-06"'),
        ("hours = '22-25'\nweight = 2", "[routes.r.windows.0] hours", "must be two times of day"),
        ("hours = '24-06'\nweight = 2", "[routes.r.windows.0] hours", "must be two times of day"),
        ("hours = '08:60-10'\nweight = 2", "[routes.r.windows.0] hours", "must be two times of day"),
        ("hours = '6-06:00'\nweight = 2", "[routes.r.windows.0] hours", 'is empty: the whole day is "0-24"'),
        ("hours = '22-06'", "[routes.r.windows] 0", "must say what holds in it: weight, priority or cost_factor"),
        ("weight = 2", "[routes.r.windows.0] hours", "field required"),
        ("hours = '22-06'\nweight = 0", "[routes.r.windows.0] weight", "greater than 0"),
        ("hours = '22-06'\npriority = 0", "[routes.r.windows.0] priority", "greater than or equal to 1"),
        ("hours = '22-06'\ncost_factor = -1", "[routes.r.windows.0] cost_factor", "greater than or equal to 0"),
        ("hours = '22-06'\nweight = 2\ndays = ['sam']", "[routes.r.windows.0.days] 0", "'mon', 'tue'"),
        ("hours = '22-06'\nweight = 2\ntime_zone = 'Europe/Berln'", "[routes.r.windows.0] time_zone", "Europe/Berln"),
        ("hours = '22-06'\nweight = 2\ntime_zone = '../etc'", "[routes.r.windows.0] time_zone", "no name of a time zone"),
        ("hours = '22-06'\nwieght = 2", "[routes.r.windows.0] wieght", "Did you mean weight?"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, place: str, says: str
) -> None:
    path = tmp_path / "trivet.toml"
    path.write_text(TABLE + words, encoding="utf-8")
    monkeypatch.delenv("TRIVET_CONFIG", raising=False)
    with pytest.raises(ConfigError) as refused:
        load_settings(path)
    said = str(refused.value).splitlines()[0]
    assert said.startswith(f"{path}: {place}: ")
    assert says.lower() in said.lower()


def test_windows_are_operational_and_no_part_of_a_place() -> None:
    plain = RouteSettings.model_validate({"provider": "bedrock"})
    other = RouteSettings.model_validate({"provider": "bedrock", "windows": [{"hours": "22-06", "cost_factor": "0.5"}]})
    assert (other.place(), other.place_digest) == (plain.place(), plain.place_digest)
    assert plain.operational() == {}
    assert other.operational() == {"windows": [{"hours": "22-06", "cost_factor": "0.5"}]}
    with pytest.raises(ValidationError, match="frozen"):
        other.windows[0].weight = 3.0
