"""`trivet plan`: what a run would cost and how long it would take, before it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import context
from trivet_tasks.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from trivet.plan.assumptions import Source
    from trivet.plan.outlook import Obstacle, Outlook, TariffOf, Terms
    from trivet.plan.scenarios import Scenario
    from trivet.plan.workload import Steps, Workload
    from trivet_tasks.config.settings import Settings

BYTES_PER_TOKEN = "3.5"
"""As many as Trivet's estimate of input tokens counts."""
OF_FILES = ("output_tokens", "output_share_of_max", "max_tokens", "runs_per_day", "skip_bad")
OF_VOLUMES = ("tokens_per_day", "input_share", "tokens_per_call", "bytes_per_token")


@dataclass(frozen=True, slots=True)
class Planned:
    """One scenario and what it comes to."""

    scenario: "Scenario"
    expected: "Outlook | Obstacle"
    at_most: "Outlook | None"
    """With answers as long as they may be; None = they are expected to be."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    file: Annotated[
        Path | None, typer.Argument(help="A JSON Lines file as for `trivet bulk`. Without one: --tokens-per-day.")
    ] = None,
    tokens_per_day: Annotated[
        str | None, typer.Option(help="A volume instead of a file: input and output together, e.g. 10M.")
    ] = None,
    input_share: Annotated[str | None, typer.Option(help="The part of the volume that is input, e.g. 0.6.")] = None,
    tokens_per_call: Annotated[
        str | None, typer.Option(help="Tokens of one call of the volume, input and output together.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model of a volume; of a file: for the lines that name none.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="For the lines that say none.")] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            help="A scenario: bedrock-us-east-1=0.7,anthropic=0.3; may be repeated. Default: each route by itself, and all of them."
        ),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            help="A hidden cost beside those that routes declare: 'audit logging=2/100000 calls', 'nat=0.045/GB', "
            "'anthropic:gateway=21.90/month'; may be repeated.",
            metavar="[ROUTE:]NAME=USD/UNIT",
        ),
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option(help="What an answer is expected to have, if max_tokens allows it.")
    ] = None,
    output_share_of_max: Annotated[
        str | None, typer.Option(help="The same as a part of each request's max_tokens, e.g. 0.3.")
    ] = None,
    cache_read_share: Annotated[
        str, typer.Option(help="The part of input tokens read from the provider's prompt cache.")
    ] = "0",
    bytes_per_token: Annotated[
        str | None,
        typer.Option(help=f"Bytes that a token of a volume's input has in a request. Default: {BYTES_PER_TOKEN}."),
    ] = None,
    runs_per_day: Annotated[str | None, typer.Option(help="How often a day the file runs. Default: 1.")] = None,
    days_per_month: Annotated[str, typer.Option(help="Days of a month.")] = "30",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out instead of refusing the file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings, exact.")] = False,
) -> None:
    """What a day and a month would cost, by scenario, and how long a day's work would take within the limits.

    Nothing is sent anywhere, and no database is needed: routes, their limits and hidden costs are those of the configuration.
    """
    from trivet.cli import quantities
    from trivet.plan.charges import declared
    from trivet.plan.outlook import Terms
    from trivet.plan.scenarios import by_default, mixed

    given = {
        "tokens_per_day": tokens_per_day, "input_share": input_share, "tokens_per_call": tokens_per_call,
        "model": model, "max_tokens": max_tokens, "output_tokens": output_tokens, "skip_bad": skip_bad or None,
        "output_share_of_max": output_share_of_max, "bytes_per_token": bytes_per_token, "runs_per_day": runs_per_day,
    }  # fmt: skip
    _check_source(file, {name for name, value in given.items() if value is not None})
    settings = context.settings()
    routes = settings.routes
    if not routes:
        raise ConfigError(f"{settings.source}: no route is configured.", hint="`trivet config init` proposes some.")
    tariff_of, prices = _tariffs(settings)
    terms = Terms(
        routes,
        tariff_of,
        (*declared(routes), *(quantities.charge(one, routes) for one in cost or ())),
        quantities.count("--days-per-month", days_per_month),
        quantities.share("--cache-read-share", cache_read_share),
    )
    scenarios = mixed([quantities.mix(one) for one in mix], routes) if mix else by_default(routes)
    steps = _steps(settings, tariff_of)
    workload, source = (
        _of_volume(given, settings, steps, prices) if file is None else _of_file(file, given, settings, steps, prices)
    )
    planned = _planned(scenarios, workload, terms, must=bool(mix))
    _show(planned, terms, source, as_json=as_json)


def _check_source(file: Path | None, named: set[str]) -> None:
    """Either a file or a volume, each with its own options."""
    if file is None and "tokens_per_day" not in named:
        raise InvalidRequest(
            "There is nothing to plan.",
            hint="Give a JSON Lines file, or a volume: --tokens-per-day 10M --input-share 0.6 --model claude-sonnet-5-5.",
        )
    if file is not None and "tokens_per_day" in named:
        raise InvalidRequest("Give a file or --tokens-per-day, not both.", field="tokens_per_day")
    kind, others = ("volume", OF_FILES) if file is None else ("file", OF_VOLUMES)
    for name in others:
        if name in named:
            raise InvalidRequest(f"{_option(name)}: means nothing for a {kind}.", field=name)
    if file is None:
        for name, example in (("input_share", "0.6"), ("model", "claude-sonnet-5-5")):
            if name not in named:
                raise InvalidRequest(
                    f"{_option(name)}: is missing.",
                    field=name,
                    hint=f"A volume needs it, e.g. {_option(name)} {example}.",
                )
    if {"output_tokens", "output_share_of_max"} <= named:
        raise InvalidRequest("Give --output-tokens or --output-share-of-max, not both.", field="output_tokens")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _tariffs(settings: "Settings") -> "tuple[TariffOf, str]":
    """What tokens cost today on each route, and which lists say so."""
    from trivet_tasks.requests.eligibility import name_on_wire

    try:
        from trivet_tasks.prices.price_book import PriceBook, Tariff
    except ImportError:
        raise ConfigError("There is no price data here.", hint="pip install 'trivet[worker]' brings it.") from None

    book, now = PriceBook(), datetime.now(UTC)

    @cache
    def tariff_of(route: str, model: str) -> Tariff:
        of, named = settings.routes[route], name_on_wire(settings.routes[route], model)
        return (
            Tariff((), "it is not served") if named is None else book.tariff(of.provider, model, named, of.region, now)
        )

    return tariff_of, f"{now:%Y-%m-%d} ({book.version})"


def _steps(settings: "Settings", tariff_of: "TariffOf") -> "Steps":
    @cache
    def steps(model: str) -> tuple[int, ...]:
        found = {tier.above for route in settings.routes for tier in tariff_of(route, model).tiers}
        return tuple(sorted(found - {-1}))

    return steps


def _of_volume(
    given: Mapping[str, Any], settings: "Settings", steps: "Steps", prices: str
) -> "tuple[Workload, Source]":
    from trivet.cli.quantities import count, share
    from trivet.plan.assumptions import Source
    from trivet.plan.workload import volume
    from trivet_tasks.requests.reading import model_id

    model = model_id(given["model"], settings)
    part = share("--input-share", given["input_share"])
    each = given["tokens_per_call"]
    per_call = None if each is None else count("--tokens-per-call", each)
    per_token = count("--bytes-per-token", given["bytes_per_token"] or BYTES_PER_TOKEN)
    work = volume(
        model,
        count("--tokens-per-day", given["tokens_per_day"]),
        input_share=part,
        tokens_per_call=per_call,
        bytes_per_token=per_token,
        steps=steps(model),
    )
    return work, Source(prices, tokens_per_call=per_call, input_share=part, bytes_per_token=per_token)


def _of_file(
    file: Path, given: Mapping[str, Any], settings: "Settings", steps: "Steps", prices: str
) -> "tuple[Workload, Source]":
    from trivet.cli.bulk import checked
    from trivet.cli.quantities import count, share
    from trivet.plan.assumptions import Source
    from trivet.plan.scenarios import percent
    from trivet.plan.workload import Tally

    expected = None if given["output_tokens"] is None else int(count("--output-tokens", given["output_tokens"]))
    of_max = given["output_share_of_max"]
    part = None if of_max is None else share("--output-share-of-max", of_max)
    runs = count("--runs-per-day", given["runs_per_day"] or "1")
    defaults = {name: given[name] for name in ("model", "max_tokens") if given[name] is not None}
    tally = Tally(steps, expected)
    check = checked(file, settings, defaults, now=time.time(), skip_bad=bool(given["skip_bad"]), each=tally.add)
    said = f"{expected:,} tokens, or its max_tokens where that is less" if expected is not None else ""
    if part is not None:
        said = f"{percent(part)} of its max_tokens"
    source = Source(
        prices,
        file=str(file),
        requests=check.rows - check.repeated,
        repeated=check.repeated,
        left_out=check.bad,
        runs=runs,
        expected_output=said,
    )
    return tally.workload(runs, part), source


def _planned(scenarios: "Sequence[Scenario]", workload: "Workload", terms: "Terms", *, must: bool) -> list[Planned]:
    """Every scenario reckoned. InvalidRequest when one that a person asked for cannot be, or none can."""
    from trivet.plan.outlook import Obstacle, Outlook, outlook

    planned = []
    for scenario in scenarios:
        expected = outlook(scenario, workload.loads, terms)
        if isinstance(expected, Obstacle) and must:
            raise InvalidRequest(f"--mix: {scenario.text}: {expected.text}.", field="mix")
        most = None if workload.at_most is None else outlook(scenario, workload.at_most, terms)
        planned.append(Planned(scenario, expected, most if isinstance(most, Outlook) else None))
    obstacles = [f"{one.scenario.name}: {one.expected.text}." for one in planned if isinstance(one.expected, Obstacle)]
    if len(obstacles) == len(planned):
        raise InvalidRequest("\n".join(["No scenario can be reckoned.", *obstacles]))
    return planned


def _show(planned: list[Planned], terms: "Terms", source: "Source", *, as_json: bool) -> None:
    from trivet.cli.plan_json import as_object
    from trivet.cli.plan_table import print_plan
    from trivet.plan.assumptions import assumptions
    from trivet.plan.outlook import Outlook

    said = list(assumptions(source, terms, [one.expected for one in planned if isinstance(one.expected, Outlook)]))
    if as_json:
        context.print_json(as_object(planned, terms, said))
    else:
        print_plan(planned, terms, said)
