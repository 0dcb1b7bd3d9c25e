"""Costs: reports by any grouping, savings of caches, and pricing calls again by today's price lists."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from trivet.admin.group import Group
from trivet_routing.route_directory import ENOUGH_CALLS
from trivet_store.database.engine import Connection
from trivet_store.database.postgres import plan_freely
from trivet_store.reports.attempts import UsedOutput, used_output
from trivet_store.reports.cost_savings import ANSWERED_BY, AnswerSaving, CacheSaving, answer_savings, cache_savings
from trivet_store.reports.costs import CostRow, Span, Unpriced, summed, unpriced
from trivet_store.reports.spend_rate import SpendRate, spend_rate
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.tenant_scope import TenantScope

if TYPE_CHECKING:
    from trivet_store.repricing import Tally


LATEST_CALLS = 2_000
"""Calls whose answers tell the usual length."""
LATEST_WITHIN_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class AnswerLength:
    """Lengths of a model's latest answers, in tokens."""

    calls: int
    used: int
    allowed: int
    """Sum of their `max_tokens`."""

    @property
    def share(self) -> Decimal:
        """The part of `max_tokens` that they used, 0 to 1."""
        return min(Decimal(1), Decimal(self.used) / self.allowed)


@dataclass(frozen=True, slots=True)
class CostReport:
    """Costs of the calls that began in a span. Amounts are USD, exact."""

    span: Span
    by: tuple[str, ...]
    rows: Sequence[CostRow]
    """One row for each group, dearest first; by time where that is asked for. None without groups."""
    total: CostRow
    unpriced: Sequence[Unpriced]
    """Calls for which no price is known, and which no sum includes."""
    prompt_cache: Sequence[CacheSaving]
    """Savings of the providers' prompt caches, by day and model."""
    response_cache_by: tuple[str, ...]
    """Those of `by` by which answers from the response cache are grouped."""
    response_cache: Sequence[AnswerSaving]
    """Savings of the response cache."""

    @property
    def decimals(self) -> int:
        """Return the number of decimals to show of every amount, so that the columns align."""
        largest = max(self.total.cost_usd, self.total.estimated_usd)
        return 2 if largest >= 1_000 else 4 if largest >= 1 else 6

    @property
    def answered(self) -> AnswerSaving | None:
        """Return the savings of the response cache in all; None where it answered nothing."""
        found = self.response_cache
        hits = sum(one.hits for one in found)
        saved = sum((one.saved_usd for one in found), Decimal(0))
        return AnswerSaving((), hits, saved, sum(one.unpriced for one in found)) if hits else None


@dataclass(frozen=True, slots=True)
class CostOverview:
    """The costs of a span from several sides: for the page of `trivet costs --html`."""

    report: CostReport
    """Its response cache savings are by day, class and model."""
    made_at: float
    """Seconds since the epoch, by the database's clock."""
    daily: Sequence[CostRow]
    """By day and route."""
    jobs: Sequence[CostRow]
    """By class and model, without Trivet's probes."""
    roles: Sequence[CostRow]


class Repricing(NamedTuple):
    """Progress of pricing calls again. Amounts are USD."""

    span: Span
    version: str
    """Version of the price lists and rules."""
    applied: bool
    """True if new costs are written."""
    calls: int
    """Settled calls to price in all."""
    without_terms: int
    """Settled calls whose rows do not keep the terms of their price; they stay unchanged."""
    groups: "Mapping[tuple[str, str], Tally]"
    """Calls priced so far, by model and route."""
    not_in_force: tuple[str, ...] = ()
    """Routes whose negotiated prices in this configuration are not those in force."""

    @property
    def total(self) -> "Tally":
        """Return the sum over all groups."""
        from trivet_store.repricing import Tally

        return sum(self.groups.values(), Tally())


class Costs(Group):
    """Reports the costs of calls. Times are seconds since the epoch, days are UTC."""

    def report(
        self,
        by: Sequence[str] = (),
        *,
        since: float = 0.0,
        until: float | None = None,
        scope: TenantScope | None = None,
    ) -> CostReport:
        """Return the costs of the calls that began in a span, by group and in all.

            for row in admin.costs.report(["tag:team"], since=time.time() - 7 * 86_400).rows:
                print(row.group, row.cost_usd)

        Args:
            by: `route`, `model`, `provider`, `class`, `batch`, `tenant`, `tag:NAME`, `hour`, `day`, `month`, `outcome`,
                `purpose`, `role`.
            until: the end, which is not in the span; None: now.
            scope: only calls of this tenant's jobs; what the response cache saved is then of jobs that are still kept.

        Raises:
            InvalidRequest: a name of `by` is not known.
        """
        store = self._connections.store
        with store.read() as connection:
            plan_freely(connection)
            span = Span(since, store.now(connection) if until is None else until)
            return _report(connection, by, span, [name for name in by if name in ANSWERED_BY], scope)

    def answer_lengths(self) -> dict[str, AnswerLength]:
        """Return the lengths of the latest answers by model: of the newest 2,000 calls of the last 30 days.

        Models with too few answers are left out.

            admin.costs.answer_lengths()["claude-sonnet-5-5"].share
        """
        store = self._connections.store
        with store.read() as connection:
            rows = used_output(connection, store.now(connection) - LATEST_WITHIN_S, LATEST_CALLS)
        by_model: dict[str, list[UsedOutput]] = defaultdict(list)
        for row in rows:
            by_model[row.model].append(row)
        summed_up = {
            model: AnswerLength(
                sum(one.calls for one in of), sum(one.used for one in of), sum(one.allowed for one in of)
            )
            for model, of in by_model.items()
        }
        return {model: one for model, one in summed_up.items() if one.calls >= ENOUGH_CALLS}

    def rate(self) -> SpendRate:
        """Return the present spending in USD per hour, by route and in all.

        admin.costs.rate().usd_per_hour
        """
        store = self._connections.store
        with store.read() as connection:
            return spend_rate(connection, store.now(connection))

    def overview(self, by: Sequence[str] = (), *, since: float = 0.0, until: float | None = None) -> CostOverview:
        """Return the same report with the costs by day, by class and by role of the calls.

            page = trivet.costs_page.page(admin.costs.overview(["route"]))

        Raises:
            InvalidRequest: a name of `by` is not known.
        """
        store = self._connections.store
        with store.read() as connection:
            plan_freely(connection)
            now = store.now(connection)
            span = Span(since, now if until is None else until)
            return CostOverview(
                report=_report(connection, by, span, ["day", "class", "model"]),
                made_at=now,
                daily=summed(connection, ["day", "route"], span),
                jobs=summed(connection, ["class", "model"], span, probes=False),
                roles=summed(connection, ["role"], span),
            )

    def reprice(self, *, since: float = 0.0, until: float | None = None, apply: bool = False) -> Iterator[Repricing]:
        """Price settled calls again, each by the prices of its day as they are known today.

        Negotiated prices are those that the routes have in force now; calls on a removed route keep theirs. Workers go on
        meanwhile. Safe to interrupt: yielded work is committed, and another run does the rest.

            for progress in admin.costs.reprice(since=time.time() - 86_400, apply=True):
                print(progress.total.calls, "of", progress.calls)

        Args:
            apply: whether to write the new costs; else nothing is written.

        Yields:
            The progress: before the first call is priced, and after each group of calls.

        Raises:
            InvalidRequest: newer price lists than those of this machine have priced calls of the span.
            StoreUnavailable: the database does not answer. Work done until then stays done.
        """
        from trivet_store import repricing
        from trivet_tasks.prices.price_book import PriceBook

        book = PriceBook()
        routes = self._connections.directory.known(fresh=True).routes
        prices = {name: route.settings.prices for name, route in routes.items()}
        own = self._connections.settings.routes
        other = tuple(name for name, route in own.items() if route.prices != prices.get(name, ()))
        store = self._connections.store
        with store.read() as connection:
            span = Span(since, store.now(connection) if until is None else until)
        if apply and (newer := repricing.priced_by_newer(store, book, span)):
            raise InvalidRequest(
                f"Calls of this span were priced by {', '.join(newer)}; here is {book.version}, which is older.",
                hint="Nothing was written. Upgrade Trivet and genai-prices on this machine first.",
            )

        def run() -> Iterator[Repricing]:
            groups: defaultdict[tuple[str, str], Tally] = defaultdict(repricing.Tally)
            progress = Repricing(span, book.version, apply, *repricing.extent(store, span), {}, other)
            yield progress
            for page in repricing.reprice(store, book, span, prices=prices, apply=apply):
                for group, tally in page.items():
                    groups[group] += tally
                yield progress._replace(groups=dict(groups))

        return run()


def _report(
    connection: Connection,
    by: Sequence[str],
    span: Span,
    answered_by: Sequence[str],
    scope: TenantScope | None = None,
) -> CostReport:
    (total,) = summed(connection, [], span, scope=scope)
    return CostReport(
        span=span,
        by=tuple(by),
        rows=summed(connection, by, span, scope=scope) if by else [],
        total=total,
        unpriced=unpriced(connection, span, scope=scope),
        prompt_cache=cache_savings(connection, span, scope=scope),
        response_cache_by=tuple(answered_by),
        response_cache=answer_savings(connection, answered_by, span, scope=scope),
    )
