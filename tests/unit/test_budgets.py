"""Windows of budgets, and which jobs they count."""

from datetime import UTC, datetime

import pytest
from tests.store.world import spec

from trivet_tasks.config.budgets import BudgetSettings, Per, Window, labels_asked, labels_of, window


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("per", "now", "key", "first", "ends"),
    [
        ("day", "2026-11-26T00:00:00", "2026-11-26", "2026-11-26", "2026-11-27"),
        ("day", "2026-11-26T23:59:59.999", "2026-11-26", "2026-11-26", "2026-11-27"),
        ("month", "2026-11-26T12:00:00", "2026-11", "2026-11-01", "2026-12-01"),
        ("month", "2026-12-31T23:59:59", "2026-12", "2026-12-01", "2027-01-01"),
        ("month", "2028-02-29T00:00:00", "2028-02", "2028-02-01", "2028-03-01"),
        ("month", "2027-01-01T00:00:00", "2027-01", "2027-01-01", "2027-02-01"),
    ],
)
def test_windows_turn_at_midnight_utc(per: str, now: str, key: str, first: str, ends: str) -> None:
    assert window(Per(per), at(now)) == Window(key, int(at(first) // 86_400), at(ends))


def test_a_total_never_ends() -> None:
    assert window(Per.TOTAL, at("2026-11-26")) == Window("total", 0, None)


def test_labels_are_what_is_asked_for_and_nothing_else() -> None:
    budgets = [
        BudgetSettings.model_validate({"name": "a", "usd": 1, "per": "day", **scope})
        for scope in ({"tag": "team=search"}, {"tenant": "acme"}, {"batch": "b"}, {})
    ]
    asked = labels_asked(budgets)
    assert asked == {("tag:team", "search"), ("tenant", "acme")}
    job = spec(tags={"team": "search", "other": "x"}, tenant="acme")
    assert labels_of(job, asked) == '{"tag:team":"search","tenant":"acme"}'
    assert labels_of(job, frozenset()) == "{}"
    assert labels_of(spec(), asked) == labels_of(spec(tags={"team": "mail"}, tenant="other"), asked) == "{}"
    assert [one.counts(False, {"tag:team": "search"}) for one in budgets] == [True, False, False, True]
    assert [one.counts(True, {"tenant": "acme"}) for one in budgets] == [False, True, True, True]
