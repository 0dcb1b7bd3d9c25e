"""`trivet plan`: the expected cost and duration of a run, before it."""

import re
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import options, output
from trivet.cli.options import JsonExact, count, share, wrong
from trivet.cli.submit import check_with_bar
from trivet_tasks.errors import InvalidRequest

if TYPE_CHECKING:
    from trivet.plan.planner import Plan, Planner, Work
    from trivet.plan.terms import Charge

OUTPUTS = ("output_tokens", "output_share_of_max", "output_observed")
OF_FILES = (*OUTPUTS, "max_tokens", "runs_per_day", "skip_bad")
OF_VOLUMES = ("tokens_per_day", "input_share", "tokens_per_call", "bytes_per_token")
_CHARGE = re.compile(
    r"(?:(?P<route>[^:=]+):)?(?P<name>[^:=]+)=\s*\$?(?P<usd>\d*\.?\d+)\s*/\s*"
    r"(?P<units>\d[\d_,.]*[kmb]?)?\s*(?P<per>calls?|requests?|gb|months?)",
    re.IGNORECASE,
)


def plan(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A JSON Lines file as for `trivet bulk`; - reads standard input. Without one: --tokens-per-day."
        ),
    ] = None,
    tokens_per_day: Annotated[
        str | None, typer.Option(help="A volume instead of a file: input and output together, e.g. 10M.")
    ] = None,
    input_share: Annotated[str | None, typer.Option(help="The part of the volume that is input, e.g. 0.6.")] = None,
    tokens_per_call: Annotated[
        str | None, typer.Option(help="Tokens of one call of the volume, input and output together.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of a volume, or of the lines that name none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum tokens of the lines that do not set it.")] = None,
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
        str | None, typer.Option(help="Expected tokens of an answer, if max_tokens allows them.")
    ] = None,
    output_share_of_max: Annotated[
        str | None, typer.Option(help="The same as a part of each request's max_tokens, e.g. 0.3.")
    ] = None,
    output_observed: Annotated[
        bool,
        typer.Option("--output-observed", help="The same as the latest answers of the model had. Reads the database."),
    ] = False,
    cache_read_share: Annotated[
        str, typer.Option(help="The part of input tokens read from the provider's prompt cache.")
    ] = "0",
    bytes_per_token: Annotated[
        str | None,
        typer.Option(help="Bytes of a request for each input token of a volume. Default: 3.5."),
    ] = None,
    runs_per_day: Annotated[str | None, typer.Option(help="Runs of the file a day. Default: 1.")] = None,
    days_per_month: Annotated[str, typer.Option(help="Days of a month.")] = "30",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out instead of refusing the file.")
    ] = False,
    without_each: Annotated[
        bool,
        typer.Option("--without-each", help="Show the same work without each route, each provider and each region."),
    ] = False,
    as_json: JsonExact = False,
) -> None:
    """Estimate the cost and the duration of a workload. Gives the cost of a day and a month by scenario, the duration of
    a day's work within the limits, and advice on how to pay less.

    It sends nothing and needs no database but for --output-observed: routes, limits and hidden costs are those of the
    configuration.
    """
    from trivet.cli import plan_view
    from trivet.plan.planner import Planner

    given = {
        "tokens_per_day": tokens_per_day, "input_share": input_share, "tokens_per_call": tokens_per_call,
        "model": model, "max_tokens": max_tokens, "output_tokens": output_tokens, "skip_bad": skip_bad or None,
        "output_share_of_max": output_share_of_max, "output_observed": output_observed or None, "bytes_per_token": bytes_per_token, "runs_per_day": runs_per_day,
    }  # fmt: skip
    _check_source(file, {name for name, value in given.items() if value is not None})
    settings = options.settings()
    planner = Planner(settings)
    charges = [read_charge(one, settings.routes) for one in cost or ()]
    days = count("--days-per-month", days_per_month)
    cached = share("--cache-read-share", cache_read_share)
    scenarios = planner.scenarios([read_mix(one) for one in mix or ()])
    work = _volume(planner, given) if file is None else _file(planner, file, given)
    found = planner.plan(
        scenarios, work, charges=charges, days_per_month=days, cache_read_share=cached, without_each=without_each
    )
    _check_possible(found, must=bool(mix))
    if as_json:
        output.print_json(plan_view.as_object(found))
    else:
        plan_view.print_plan(found)


def read_mix(given: str) -> dict[str, Decimal]:
    """Return the shares of routes: `bedrock-us-east-1=0.7,anthropic=0.3`.

    Raises:
        InvalidRequest: it does not read so, or names a route twice.
    """
    shares: dict[str, Decimal] = {}
    for pair in given.split(","):
        name, equals, part = (word.strip() for word in pair.partition("="))
        if not equals or not name:
            raise wrong(
                "--mix", f"{pair.strip()!r} must read ROUTE=SHARE.", "As in bedrock-us-east-1=0.7,anthropic=0.3."
            )
        if name in shares:
            raise wrong("--mix", f"{name} is named twice.", "")
        shares[name] = share(f"--mix: {name}", part)
    return shares


def read_charge(given: str, routes: Mapping[str, object]) -> "Charge":
    """Return a hidden cost: `[ROUTE:]NAME=USD/UNIT`, e.g. `audit logging=2/100000 calls`, `endpoint=21.90/month`, `nat=0.045/GB`.

    Raises:
        InvalidRequest: it does not read so, or names a route that is not configured.
    """
    from trivet.plan.terms import Charge, Per

    found = _CHARGE.fullmatch(given.strip())
    if not found:
        raise wrong(
            "--cost",
            f"{given!r} must read NAME=USD/UNIT, the unit being calls, GB or month.",
            "As in 'audit logging=2/100000 calls', 'nat=0.045/GB' or 'anthropic:gateway=21.90/month'.",
        )
    route = found["route"].strip() if found["route"] else None
    if route is not None and route not in routes:
        raise wrong("--cost", f"no route is called {route!r}.", f"Configured are {', '.join(routes)}.")
    unit = found["per"][0].lower()
    return Charge(
        name=found["name"].strip(),
        per=Per.GB_OUT if unit == "g" else Per.MONTH if unit == "m" else Per.CALL,
        usd=Decimal(found["usd"]),
        units=count("--cost", found["units"]) if found["units"] else Decimal(1),
        route=route,
    )


def _check_source(file: Path | None, named: set[str]) -> None:
    """Make sure that there is either a file or a volume, each with its own options."""
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
    expected = [name for name in OUTPUTS if name in named]
    if len(expected) > 1:
        raise InvalidRequest(f"Give {' or '.join(map(_option, expected))}, not both.", field=expected[0])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _volume(planner: "Planner", given: Mapping[str, Any]) -> "Work":
    from trivet.plan.planner import BYTES_PER_TOKEN

    each, size = given["tokens_per_call"], given["bytes_per_token"]
    part = share("--input-share", given["input_share"])
    per_call = None if each is None else count("--tokens-per-call", each)
    per_token = BYTES_PER_TOKEN if size is None else count("--bytes-per-token", size)
    return planner.volume(
        given["model"],
        count("--tokens-per-day", given["tokens_per_day"]),
        input_share=part,
        tokens_per_call=per_call,
        bytes_per_token=per_token,
    )


def _file(planner: "Planner", file: Path, given: Mapping[str, Any]) -> "Work":
    from trivet_tasks.requests.sources import readable_twice

    expected = None if given["output_tokens"] is None else int(count("--output-tokens", given["output_tokens"]))
    of_max = given["output_share_of_max"]
    part = None if of_max is None else share("--output-share-of-max", of_max)
    observed = _observed() if given["output_observed"] else None
    runs = count("--runs-per-day", given["runs_per_day"] or "1")
    defaults = {name: given[name] for name in ("model", "max_tokens") if given[name] is not None}
    skip_bad = bool(given["skip_bad"])
    with readable_twice(file) as (path, name):
        return planner.file(
            lambda each: check_with_bar(
                path, planner.settings, defaults, now=time.time(), skip_bad=skip_bad, each=each, name=name
            ),
            runs_per_day=runs,
            output_tokens=expected,
            output_share_of_max=observed or part,
        )


def _observed() -> dict[str, Decimal]:
    """Return the part of `max_tokens` that the latest answers used, by model."""
    with options.admin() as admin:
        found = admin.costs.answer_lengths()
    if not found:
        raise wrong(
            "--output-observed",
            "the database has too few answers of the last 30 days.",
            "Give --output-tokens or --output-share-of-max.",
        )
    return {model: length.share.quantize(Decimal("0.0001")) for model, length in found.items()}


def _check_possible(found: "Plan", *, must: bool) -> None:
    """Make sure that every scenario that a person asked for can be, or else that any can."""
    obstacles = found.obstacles
    if obstacles and must:
        scenario, obstacle = obstacles[0]
        raise InvalidRequest(f"--mix: {scenario.text}: {obstacle.text}.", field="mix")
    if len(obstacles) == len(found.scenarios):
        reasons = [f"{scenario.name}: {obstacle.text}." for scenario, obstacle in obstacles]
        raise InvalidRequest("\n".join(["No scenario can be reckoned.", *reasons]))
