"""Budgets as schedulers registered them, so that producers and commands need no copy of the file, and their states.

The sums that they count are read in one statement and so at one moment: spent, and still possible for calls and messages.
A job that goes from a queue to a call, or whose call is settled, is in one of the three at any moment and never in none.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, text

from trivet_store import events
from trivet_store.controls import PAUSED
from trivet_store.database.engine import Store
from trivet_store.ledger.spending import Spent
from trivet_store.schema import Usd, usd_sum
from trivet_tasks.config.budgets import KEY_BUDGETS, BudgetSettings, Labels, Window, exact_usd, labels_asked, window
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.requests.prompt_cache import CacheWrite
from trivet_tasks.states import BudgetState

FRESH_S = 1.0
"""Maximum age in seconds of the labels that a producer uses."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A budget and its state. Amounts are USD, times seconds since the epoch."""

    settings: BudgetSettings
    state: BudgetState
    """State as last noted, in the window `state_window`."""
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


class InFlight(NamedTuple):
    """Similar calls under way, or similar jobs in the queue of a route; `jobs` is their number."""

    route: str
    batch_id: int | None
    labels: str
    jobs: int
    maximum_usd: Decimal
    """Maximum cost of all these calls; those without a price count as nothing."""
    model: str = ""
    """Tokens of the queued jobs, whose price is not recorded yet."""
    input_estimate: int = 0
    max_tokens: int = 0
    cache_write: CacheWrite = ""
    """Time for which the provider's prompt cache keeps what they write to it."""


class Sums(NamedTuple):
    """All that budgets count at one moment."""

    spent: tuple[Spent, ...]
    """Spending in the window of each budget that was asked for."""
    calling: tuple[InFlight, ...]
    queued: tuple[InFlight, ...]


class Waiting(NamedTuple):
    """Jobs that wait and could be dispatched, with the same labels for budgets."""

    batch_id: int | None
    labels: str
    jobs: int


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
# jobs of a revoked key that its budget holds must not run without a limit
_REMOVE_UNUSED = text(
    """
    DELETE FROM budgets WHERE name = :name
       AND NOT EXISTS (SELECT 1 FROM flows f WHERE f.active AND replace(f.labels, :pair, '') <> f.labels)
    """
)
_ORPHANS = text(
    """
    SELECT b.definition FROM budgets b WHERE b.name LIKE :of_keys AND NOT EXISTS (
        SELECT 1 FROM gateway_keys k WHERE :prefix || k.name = b.name AND k.revoked_at IS NULL
    )
    """
)
_STATE = text(
    """
    UPDATE budgets SET state = :state, "window" = :window, since = :now, needs_usd = :needs_usd
     WHERE name = :name AND state = :state_before AND "window" = :window_before
    """
).bindparams(bindparam("needs_usd", type_=Usd()))
_RAISE = text("UPDATE budgets SET raised_usd = :usd, raised_window = :window WHERE name = :name").bindparams(
    bindparam("usd", type_=Usd())
)
_COLUMNS = (
    "kind, number, route, batch_id, labels, model, input_estimate, max_tokens, cache_write, jobs, settled, estimated"
)
_SPENT = """
    SELECT 'spent', CAST(:number_{n} AS integer), CAST(NULL AS varchar), CAST(NULL AS integer), CAST(NULL AS varchar),
           CAST(NULL AS varchar), 0, 0, '', coalesce(sum(unpriced), 0), coalesce({settled}, {nothing}), coalesce({estimated}, {nothing})
      FROM spend WHERE day >= :day_{n} {scope}
"""
# for all budgets of tags and tenants together: each gateway key may have one, and SQLite joins 500 SELECTs at most
_SPENT_BY_LABELS = """
    SELECT 'labels', CAST(:number_{n} AS integer), CAST(NULL AS varchar), CAST(NULL AS integer), labels,
           CAST(NULL AS varchar), 0, 0, '', coalesce(sum(unpriced), 0), coalesce({settled}, {nothing}), coalesce({estimated}, {nothing})
      FROM spend WHERE day >= :day_{n} AND batch_id IS NULL AND labels <> '{{}}' GROUP BY labels
"""
_CALLING = """
    SELECT 'calling', 0, a.route, f.batch_id, f.labels, '', 0, 0, '', count(*), 0, coalesce({cost}, {nothing})
      FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN flows f ON f.id = j.flow_id
     WHERE a.outcome IS NULL GROUP BY a.route, f.batch_id, f.labels
"""
# SQLite uses a partial index only where the statement repeats its condition word for word
_QUEUED = """
    SELECT 'queued', 0, j.route, f.batch_id, f.labels, f.model, j.input_estimate, j.max_tokens,
           f.cache_write, count(*), 0, 0
      FROM jobs j JOIN flows f ON f.id = j.flow_id
     WHERE j.state IN ('dispatched', 'running') AND j.state = 'dispatched' AND j.route IS NOT NULL
     GROUP BY j.route, f.batch_id, f.labels, f.model, j.input_estimate, j.max_tokens, f.cache_write
"""
_WAITING = text(
    f"""
    SELECT f.batch_id, f.labels, count(*) AS jobs FROM flows f
      JOIN jobs j ON j.flow_id = f.id AND j.state = 'waiting' AND j.ended_at IS NULL
     WHERE f.active AND NOT f.held AND NOT {PAUSED} GROUP BY f.batch_id, f.labels
    """
)


def register(store: Store, connection: Connection, budgets: Sequence[BudgetSettings]) -> list[str]:
    """Make the budgets of a scheduler known; they are the only ones from then on, beside those of gateway keys.

    Returns what changed, for a log. What an operator raised stays raised unless the budget itself is another now.
    """
    now = store.now(connection)
    before = {
        row.name: row.definition for row in connection.execute(_DEFINITIONS) if not row.name.startswith(KEY_BUDGETS)
    }
    said = []
    for budget in budgets:
        if before.get(budget.name) == _definition(budget):
            continue
        _put(connection, budget, now)
        said.append(f"{budget.name}: {exact_usd(budget.usd)} per {budget.per} for {budget.scope}")
    for name in sorted(before.keys() - {budget.name for budget in budgets}):
        connection.execute(_REMOVE, {"name": name})
        said.append(f"{name}: removed")
    for line in said:
        events.note(connection, "budget set", f"{line} (by the file of a scheduler)", now)
    return said


def add_of_key(connection: Connection, budget: BudgetSettings, now: float) -> None:
    """Add the budget of a gateway key. No scheduler's file removes it; it goes with its key."""
    _put(connection, budget, now)


def remove_of_key(connection: Connection, name: str) -> None:
    """Remove the budget that a gateway key of this name has or had, whatever it holds."""
    connection.execute(_REMOVE, {"name": f"{KEY_BUDGETS}{name}"})


def remove_orphans(connection: Connection) -> None:
    """Remove the budgets of revoked gateway keys that have no jobs any more."""
    for row in connection.execute(_ORPHANS, {"of_keys": f"{KEY_BUDGETS}%", "prefix": KEY_BUDGETS}).all():
        settings = _settings(row.definition)
        if settings.label is not None:
            # labels are JSON objects of texts, as `labels_of` writes them: this is in them where the label is, and nowhere else
            pair = orjson.dumps(dict([settings.label])).decode()[1:-1]
            connection.execute(_REMOVE_UNUSED, {"name": settings.name, "pair": pair})


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
        of_key = name.startswith(KEY_BUDGETS)
        where, how = ("its key", "revoke the key") if of_key else ("the configuration", "change the file")
        raise InvalidRequest(
            f"--to: {exact_usd(to)} is less than the {exact_usd(row.settings.usd)} of {where}.",
            field="to",
            hint=f"To lower a budget {how}, and {'create it again' if of_key else 'restart the schedulers'}.",
        )
    current = window(row.settings.per, now)
    connection.execute(_RAISE, {"name": name, "usd": to, "window": current.key})
    said = f"{name}: from {exact_usd(row.limit(current))} to {exact_usd(to)} for {current.key}, by {by}"
    events.note(connection, "budget raised", said, now)
    return row, current


def sums(connection: Connection, budgets: Sequence[tuple[BudgetRow, Window]]) -> Sums:
    """Return what these budgets, in these windows, count now."""
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    total = partial(usd_sum, connection.dialect)
    nothing = "0" if connection.dialect.name == "postgresql" else "'0 0'"
    amounts = {"settled": total("settled_usd"), "estimated": total("estimated_usd"), "nothing": nothing}
    labelled: dict[int, dict[tuple[str, str], list[int]]] = {}
    for n, (row, span) in enumerate(budgets):
        if row.settings.label is not None:
            labelled.setdefault(span.first_day, {}).setdefault(row.settings.label, []).append(n)
            continue
        scope, given = _scope(row, n)
        parts.append(_SPENT.format(n=n, scope=scope, **amounts))
        parameters |= {f"number_{n}": n, f"day_{n}": max(span.first_day, row.batch_day or 0), **given}
    for first_day, budgets_of in labelled.items():
        n = min(ns[0] for ns in budgets_of.values())
        parts.append(_SPENT_BY_LABELS.format(n=n, **amounts))
        parameters |= {f"number_{n}": first_day, f"day_{n}": first_day}
    # the first of the parts names the columns
    every = " UNION ALL ".join([*parts, _CALLING.format(cost=total("a.cost_usd"), nothing=nothing), _QUEUED])
    statement = text(f"WITH counted ({_COLUMNS}) AS ({every}) SELECT * FROM counted").columns(
        settled=Usd(), estimated=Usd()
    )
    spent = [Spent()] * len(budgets)
    calling: list[InFlight] = []
    queued: list[InFlight] = []
    for found in connection.execute(statement, parameters):
        if found.kind == "spent":
            spent[found.number] = Spent(found.settled, found.estimated, 0, int(found.jobs))
            continue
        if found.kind == "labels":
            more = Spent(found.settled, found.estimated, 0, int(found.jobs))
            for label in orjson.loads(found.labels).items():
                for n in labelled[found.number].get(label, ()):
                    spent[n] = spent[n].plus(more)
            continue
        alike = InFlight(
            found.route, found.batch_id, found.labels, int(found.jobs), found.estimated, found.model,
            found.input_estimate, found.max_tokens, found.cache_write,
        )  # fmt: skip
        (calling if found.kind == "calling" else queued).append(alike)
    return Sums(tuple(spent), tuple(calling), tuple(queued))


def waiting(connection: Connection) -> list[Waiting]:
    """Return the jobs that could be dispatched now. Its duration grows with the backlog."""
    return [Waiting(*row) for row in connection.execute(_WAITING)]


def _scope(row: BudgetRow, n: int) -> tuple[str, dict[str, Any]]:
    """Return the condition on rows of `spend` of a budget without a label, and its parameters."""
    budget = row.settings
    if budget.batch:
        return f"AND batch_id = :batch_{n}", {f"batch_{n}": -1 if row.batch_id is None else row.batch_id}
    if budget.route:
        return f"AND batch_id IS NULL AND route = :route_{n}", {f"route_{n}": budget.route}
    return "AND batch_id IS NULL", {}


def _put(connection: Connection, budget: BudgetSettings, now: float) -> None:
    connection.execute(_UPSERT, {"name": budget.name, "definition": _definition(budget), "now": now})


def _definition(budget: BudgetSettings) -> str:
    return orjson.dumps(budget.definition(), option=orjson.OPT_SORT_KEYS).decode()


@lru_cache(maxsize=4_096)
def _settings(definition: str) -> BudgetSettings:
    """Return a registered budget. A newer Trivet may have registered it with keys that this one does not know."""
    return BudgetSettings.model_validate(orjson.loads(definition), extra="ignore")


class AskedLabels:
    """Labels of jobs that budgets ask for, read at most once a second. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._labels: Labels = frozenset()
        self._read_at = -FRESH_S
        self._lock = threading.Lock()

    def now(self) -> Labels:
        """Return those of all registered budgets. StoreUnavailable when the database does not answer."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_S:
                with self._store.read() as connection:
                    rows = connection.execute(_DEFINITIONS).all()
                self._labels = labels_asked(_settings(row.definition) for row in rows)
                self._read_at = time.monotonic()
            return self._labels
