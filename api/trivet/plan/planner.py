"""Planning over the routes of a configuration: prices, work of a file or a volume, and the result of each scenario."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from trivet.plan import losses
from trivet.plan.advice import Advice, Basis, advise, cheaper_models
from trivet.plan.assumptions import Source, assumptions
from trivet.plan.losses import Loss
from trivet.plan.outlook import Obstacle, Outlook, outlook
from trivet.plan.survey import Survey, Surveyor
from trivet.plan.terms import Charge, Scenario, TariffOf, Terms, by_default, declared, mixed, percent
from trivet.plan.workload import Workload, WorkloadCounter, volume
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.prices.price_book import Tariff
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.requests.reading import model_id

if TYPE_CHECKING:
    from trivet_tasks.jobs import JobSpec
    from trivet_tasks.requests.jsonl import FileCheck

BYTES_PER_TOKEN = Decimal("3.5")
"""Bytes that a token of input has in a request, as Trivet's estimate counts."""


class Work(NamedTuple):
    """A day's work, with the source of its figures."""

    workload: Workload
    source: Source
    survey: Survey | None = None
    """Findings of the file; None: a volume."""


@dataclass(frozen=True, slots=True)
class PlannedScenario:
    """One scenario and its result."""

    scenario: Scenario
    expected: Outlook | Obstacle
    at_most: Outlook | None
    """Result with answers as long as they may be; None: they are expected to be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every scenario of one day's work."""

    scenarios: tuple[PlannedScenario, ...]
    terms: Terms
    assumptions: tuple[str, ...]
    """Sentences under the table."""
    advice: tuple[Advice, ...] = ()
    """Ways to pay less, the largest saving first."""
    cheapest: str = ""
    """Name of the scenario that advice is reckoned on; empty: none is possible."""
    losses: tuple[Loss, ...] = ()
    """The work with all routes, then without each of them; empty: not asked for."""

    @property
    def obstacles(self) -> tuple[tuple[Scenario, Obstacle], ...]:
        """Return the impossible scenarios, each with its reason."""
        return tuple((one.scenario, one.expected) for one in self.scenarios if isinstance(one.expected, Obstacle))


class Planner:
    """Plans work over the configured routes at today's list prices. Sends nothing anywhere and needs no database.

        planner = Planner(load_settings())
        work = planner.volume("claude-sonnet-5-5", Decimal(10**7), input_share=Decimal("0.6"))
        for scenario in planner.plan(planner.scenarios(), work).scenarios:
            print(scenario.scenario.name, scenario.expected)

    Raises:
        ConfigError: no route is configured, or no price data is installed.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.routes:
            raise ConfigError(f"{settings.source}: no route is configured.", hint="`trivet config init` proposes some.")
        self.settings = settings
        self._tariff_of, self._prices = _tariffs(settings)
        self._steps = lru_cache(maxsize=100)(self._price_steps)

    def scenarios(self, mixes: Sequence[Mapping[str, Decimal]] = ()) -> list[Scenario]:
        """Return a scenario for each mix of routes; without one each route by itself, and all of them by their weights.

        Args:
            mixes: shares by route, which sum to 1.

        Raises:
            InvalidRequest: a route is not configured, a share is not above 0, or they do not sum to 1.
        """
        routes = self.settings.routes
        return mixed(mixes, routes) if mixes else by_default(routes)

    def volume(
        self,
        model: str,
        tokens_per_day: Decimal,
        *,
        input_share: Decimal,
        tokens_per_call: Decimal | None = None,
        bytes_per_token: Decimal = BYTES_PER_TOKEN,
    ) -> Work:
        """Return a day's work of so many tokens, input and output together.

        Args:
            model: by any name it has.
            input_share: the part of them that is input, 0 to 1.
            tokens_per_call: input and output of one call together; None: it is not known how many calls there are.
            bytes_per_token: bytes that a token of input has in a request.

        Raises:
            InvalidRequest: the model has no known name.
        """
        named = model_id(model, self.settings)
        work = volume(
            named,
            tokens_per_day,
            input_share=input_share,
            tokens_per_call=tokens_per_call,
            bytes_per_token=bytes_per_token,
            steps=self._steps(named),
        )
        return Work(
            work,
            Source(
                self._prices,
                tokens_per_call=tokens_per_call,
                input_share=input_share,
                bytes_per_token=bytes_per_token,
            ),
        )

    def file(
        self,
        check: "Callable[[Callable[[JobSpec, int], None]], FileCheck]",
        *,
        runs_per_day: Decimal = Decimal(1),
        output_tokens: int | None = None,
        output_share_of_max: Decimal | Mapping[str, Decimal] | None = None,
    ) -> Work:
        """Return a day's work of a JSON Lines file of requests.

            planner.file(lambda each: check_file(path, planner.settings, {}, now=time.time(), each=each))

        Args:
            check: checks the file and calls its argument with every good request and the number of its line.
            output_tokens: expected tokens of an answer, if its `max_tokens` allows them.
            output_share_of_max: the same as a part of its `max_tokens`, 0 to 1; by model, or of every one.
        """
        tally = WorkloadCounter(self._steps, output_tokens)
        with Surveyor(self.settings, self._steps, output_tokens) as surveyor:
            checked = check(lambda job, line: surveyor.add(job, line, tally.add(job)))
            survey = surveyor.survey(runs_per_day, output_share_of_max)
        expected = "" if output_tokens is None else f"{output_tokens:,} tokens, or its max_tokens where that is less"
        if isinstance(output_share_of_max, Mapping):
            shares = (f"{percent(share)} with {model}" for model, share in output_share_of_max.items())
            expected = f"the part of its max_tokens that the latest ones of its model had ({', '.join(shares)})"
        elif output_share_of_max is not None:
            expected = f"{percent(output_share_of_max)} of its max_tokens"
        source = Source(
            self._prices,
            file=checked.name,
            requests=checked.rows - checked.repeated,
            repeated=checked.repeated,
            left_out=checked.bad,
            runs=runs_per_day,
            expected_output=expected,
        )
        return Work(tally.workload(runs_per_day, output_share_of_max), source, survey)

    def plan(
        self,
        scenarios: Sequence[Scenario],
        work: Work,
        *,
        charges: Sequence[Charge] = (),
        days_per_month: Decimal = Decimal(30),
        cache_read_share: Decimal = Decimal(0),
        without_each: bool = False,
    ) -> Plan:
        """Return the result of each scenario, with advice on the cheapest of them.

        Args:
            charges: hidden costs beside those that routes declare.
            cache_read_share: the part of input tokens that is read from the provider's prompt cache, 0 to 1.
            without_each: whether to reckon the loss of each route of the scenarios as well.

        Raises:
            InvalidRequest: a charge is by the call, and the number of calls is not known.
        """
        routes = self.settings.routes
        terms = Terms(routes, self._tariff_of, (*declared(routes), *charges), days_per_month, cache_read_share)
        planned = tuple(_planned(scenario, work.workload, terms) for scenario in scenarios)
        outlooks = [one.expected for one in planned if isinstance(one.expected, Outlook)]
        found = Plan(planned, terms, tuple(assumptions(work.source, terms, outlooks)))
        if outlooks:
            cheapest = min(outlooks, key=lambda one: one.day_usd)
            scenario = next(one.scenario for one in planned if one.expected is cheapest)
            advice = advise(Basis(scenario, cheapest, work.workload.loads, terms), work.survey)
            found = replace(found, advice=advice, cheapest=scenario.name)
        if without_each:
            names = list(dict.fromkeys(name for scenario in scenarios for name in scenario.shares))
            found = replace(found, losses=losses.without_each(names, work.workload.loads, terms))
        return found

    def _price_steps(self, model: str) -> tuple[int, ...]:
        """Return the prompt lengths, in tokens, above which a model has other prices on some route, or a cheaper one has."""
        tariffs = (
            self._tariff_of(route, one) for route in self.settings.routes for one in (model, *cheaper_models(model))
        )
        return tuple(sorted({tier.above for tariff in tariffs for tier in tariff.tiers} - {-1}))


def _planned(scenario: Scenario, workload: Workload, terms: Terms) -> PlannedScenario:
    expected = outlook(scenario, workload.loads, terms)
    most = None if workload.at_most is None else outlook(scenario, workload.at_most, terms)
    return PlannedScenario(scenario, expected, most if isinstance(most, Outlook) else None)


def _tariffs(settings: Settings) -> tuple[TariffOf, str]:
    """Return today's price of tokens on a route for a model, and the name of the price lists."""
    costs, now = CostModel(), datetime.now(UTC)
    if not costs.known:
        raise ConfigError("There is no price data here.", hint="pip install 'trivet[worker]' brings it.")

    def tariff_of(name: str, model: str) -> Tariff:
        route = settings.routes[name]
        wire_model = name_on_wire(route, model)
        if wire_model is None:
            return Tariff((), "it is not served")
        return costs.tariff(route, model, wire_model, now.timestamp())

    return tariff_of, f"{now:%Y-%m-%d} ({costs.book.version})"
