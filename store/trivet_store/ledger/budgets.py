"""Budgets as schedulers registered them, so that producers and commands need no copy of the file, and their states."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, text

from trivet_store import events
from trivet_store.database.engine import Store
from trivet_store.schema import Usd
from trivet_tasks.config.budgets import BudgetSettings, Labels, Window, exact_usd, labels_asked, window
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.states import BudgetState

FRESH_S = 1.0
"""Maximum age in seconds of the labels that a producer uses."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A budget and its state. Amounts are USD, times seconds since the epoch."""

    settings: BudgetSettings
    state: BudgetState
    """As last noted, in the window `state_window`."""
    state_window: str
    since: float
    needs_usd: Decimal | None
    """Maximum cost of the cheapest job that is held, while the budget holds."""
    raised_usd: Decimal | None
    raised_window: str | None
    batch_id: int | None
    """The batch that it names, once there is one."""
    batch_day: int | None
    """The day on which the batch was made: earlier spending belongs to another batch of the same id."""

    def limit(self, of: Window) -> Decimal:
        """Return the maximum that may be spent in a window."""
        return self.settings.usd if self.raised_usd is None or self.raised_window != of.key else self.raised_usd


class State(NamedTuple):
    """The state of a budget."""

    state: BudgetState
    window: str
    needs_usd: Decimal | None = None


_ALL = text(
    """
    SELECT b.definition, b.state, b.window, b.since, b.needs_usd, b.raised_usd, b.raised_window, b.name FROM budgets b
     ORDER BY b.name
    """
).columns(needs_usd=Usd(), raised_usd=Usd())
_BATCHES = text("SELECT id, name, created_at FROM batches WHERE name IN :names").bindparams(
    bindparam("names", expanding=True)
)
_ANY = text("SELECT 1 FROM budgets LIMIT 1")
_DEFINITIONS = text("SELECT name, definition FROM budgets")
_UPSERT = text(
    """
    INSERT INTO budgets (name, definition, registered_at, state, "window", since)
    VALUES (:name, :definition, :now, 'ok', '', :now)
    ON CONFLICT (name) DO UPDATE
       SET definition = :definition, registered_at = :now, raised_usd = NULL, raised_window = NULL
    """
)
_REMOVE = text("DELETE FROM budgets WHERE name = :name")
_STATE = text(
    """
    UPDATE budgets SET state = :state, "window" = :window, since = :now, needs_usd = :needs_usd
     WHERE name = :name AND state = :state_before AND "window" = :window_before
    """
).bindparams(bindparam("needs_usd", type_=Usd()))
_RAISE = text("UPDATE budgets SET raised_usd = :usd, raised_window = :window WHERE name = :name").bindparams(
    bindparam("usd", type_=Usd())
)


def register(store: Store, connection: Connection, budgets: Sequence[BudgetSettings]) -> list[str]:
    """Make the budgets of a scheduler known; they are the only ones from then on. Returns what changed, for a log.

    What an operator raised stays raised unless the budget itself is another now.
    """
    now = store.now(connection)
    before = {row.name: row.definition for row in connection.execute(_DEFINITIONS)}
    said = []
    for budget in budgets:
        definition = orjson.dumps(budget.definition(), option=orjson.OPT_SORT_KEYS).decode()
        if before.get(budget.name) == definition:
            continue
        connection.execute(_UPSERT, {"name": budget.name, "definition": definition, "now": now})
        said.append(f"{budget.name}: {exact_usd(budget.usd)} per {budget.per} for {budget.scope}")
    for name in sorted(before.keys() - {budget.name for budget in budgets}):
        connection.execute(_REMOVE, {"name": name})
        said.append(f"{name}: removed")
    for line in said:
        events.note(connection, "budget set", f"{line} (by the file of a scheduler)", now)
    return said


def exist(connection: Connection) -> bool:
    """Return whether there is any budget at all."""
    return connection.execute(_ANY).one_or_none() is not None


def registered(connection: Connection) -> list[BudgetRow]:
    """Return all budgets, by name."""
    rows = connection.execute(_ALL).all()
    if not rows:
        return []
    read = [_settings(row.definition) for row in rows]
    names = sorted({budget.batch for budget in read if budget.batch})
    batches = {row.name: row for row in connection.execute(_BATCHES, {"names": names})} if names else {}
    found = []
    for budget, row in zip(read, rows, strict=True):
        batch = batches.get(budget.batch)
        found.append(
            BudgetRow(
                budget,
                BudgetState(row.state),
                row.window,
                row.since,
                row.needs_usd,
                row.raised_usd,
                row.raised_window,
                batch.id if batch else None,
                int(batch.created_at // 86_400) if batch else None,
            )
        )
    return found


def note_state(connection: Connection, row: BudgetRow, found: State, kind: str, said: str, now: float) -> bool:
    """Record a budget's new state. False when another scheduler was quicker."""
    changed = connection.execute(
        _STATE,
        {
            **found._asdict(),
            "name": row.settings.name,
            "now": now,
            "state_before": row.state,
            "window_before": row.state_window,
        },
    )
    if changed.rowcount and kind:
        events.note(connection, kind, said, now)
    return bool(changed.rowcount)


def raise_limit(store: Store, connection: Connection, name: str, to: Decimal, by: str) -> tuple[BudgetRow, Window]:
    """Raise the limit of the current window. Returns the budget as it was, and the window.

    Raises:
        NotFound: there is no such budget.
        InvalidRequest: it is less than what the file says.
    """
    now = store.now(connection)
    row = next((row for row in registered(connection) if row.settings.name == name), None)
    if row is None:
        raise NotFound(f"No budget is called {name!r}.", hint="`trivet budgets` lists them.")
    if to < row.settings.usd:
        raise InvalidRequest(
            f"--to: {exact_usd(to)} is less than the {exact_usd(row.settings.usd)} of the configuration.",
            field="to",
            hint="To lower a budget change the file, and restart the schedulers.",
        )
    current = window(row.settings.per, now)
    connection.execute(_RAISE, {"name": name, "usd": to, "window": current.key})
    said = f"{name}: from {exact_usd(row.limit(current))} to {exact_usd(to)} for {current.key}, by {by}"
    events.note(connection, "budget raised", said, now)
    return row, current


def _settings(definition: str) -> BudgetSettings:
    """A newer Trivet may have registered it with keys that this one does not know."""
    return BudgetSettings.model_validate(orjson.loads(definition), extra="ignore")


class AskedLabels:
    """Labels of jobs that budgets ask for, read at most once a second. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._labels: Labels = frozenset()
        self._read_at = -FRESH_S
        self._lock = threading.Lock()

    def now(self) -> Labels:
        """Those of all registered budgets. StoreUnavailable when the database does not answer."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_S:
                with self._store.read() as connection:
                    rows = connection.execute(_DEFINITIONS).all()
                self._labels = labels_asked(_settings(row.definition) for row in rows)
                self._read_at = time.monotonic()
            return self._labels
