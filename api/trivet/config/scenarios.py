"""The four reference set-ups of `trivet config init --scenario`: their routes, their classes, and why each is as it is.

Data only; `config_scenario_file` writes it down. `docs/scenarios.md` tells them at length. Sources (November 2026):
- prices: `trivet_tasks.prices.price_book`; geographic profiles of Bedrock and regional endpoints of Vertex AI are 10 % dearer
- where the Anthropic API computes: platform.claude.com/docs/en/manage-claude/data-residency ("global" or "us")
- what a profile of Bedrock covers: docs.aws.amazon.com/bedrock/latest/userguide/cross-region-inference.html
- endpoints of Vertex AI: docs.cloud.google.com, Anthropic Claude models: global, us and eu, and single regions
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from trivet_tasks.catalog import Provider
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import Latency, Order


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a route that the scenario sets, and why."""

    name: str
    value: object
    """JSON-ready."""
    why: str


@dataclass(frozen=True, slots=True)
class Leg:
    """One route of a scenario."""

    name: str
    provider: Provider
    region: str | None
    why: str
    """What this route is in the set-up for."""
    keys: tuple[Key, ...]
    residency: str = ""
    """The geography it declares to stay in; empty = none."""
    place: str = ""
    """That geography, for a person."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One reference set-up."""

    name: str
    title: str
    why: tuple[str, ...]
    """Paragraphs: whom it is for, how it behaves, what to know before it is used."""
    legs: tuple[Leg, ...]
    orders: Mapping[Latency, Order]
    """By class, the order in which it asks the routes."""
    orders_why: str


_DIRECT = "The Anthropic API: neither AWS nor Google is in the way, so it stands when they do not. "
_ANYWHERE = "It declares no residency, because it computes wherever there is room. So a job that names a residency never comes here."
_REGIONAL = (
    "Google serves Claude in some regions only, each model in regions of its own, and Trivet's table of models does not "
    "know them: Model Garden's card of a model lists them, `trivet routes check --live` looks. A model that is not served "
    "here answers 404; Trivet then leaves out that model on this route alone. "
)
_BY_PRIORITY: Mapping[Latency, Order] = dict.fromkeys(Latency, "priority")


AWS_NATIVE = Scenario(
    "aws-native",
    "Bedrock in two regions, the Anthropic API behind them",
    (
        "For teams whose contracts, roles and bill are AWS's. All work goes to Bedrock; the Anthropic API gets what "
        "neither region can take.",
        'Work that has to stay says so itself: residency=["eu"] in a job leads to Ireland alone, ["us"] to Virginia '
        "alone. A job that says nothing may run on every route of this file. Each residency has one leg: while that is "
        "down its jobs wait (realtime ones fail). A second region of the same geography, as one more route, is the remedy.",
        "A short-term Bedrock API key works in the region it was made in only. For two regions use the AWS chain (a role, "
        "AWS_PROFILE), or a key for each under a variable of its own.",
    ),
    (
        Leg(
            "bedrock-us-east-1", "bedrock", "us-east-1", "Bedrock in Northern Virginia, the first leg.",
            (Key("priority", 1, "asked first. Does Europe come first? Swap it with the 2 below"),),
            "us", "the United States",
        ),
        Leg(
            "bedrock-eu-west-1", "bedrock", "eu-west-1",
            "Bedrock in Ireland: quotas and outages of its own, the same credentials and bill.",
            (Key("priority", 2, "asked when Virginia cannot take a job"),),
            "eu", "the EU",
        ),
        Leg(
            "anthropic", "anthropic", None,
            f"{_DIRECT}{_ANYWHERE} Take this route out if no prompt may ever leave AWS.",
            (Key("priority", 3, "asked when neither region of Bedrock can take a job"),),
        ),
    ),
    _BY_PRIORITY,
    'By priority, so that a prompt leaves AWS only while neither region takes it. "cost", the default of batch, async '
    "and deferred, would ask the Anthropic API first, as the geographic profiles that residency asks for cost 10 % "
    'more than list price; "latency", the default of realtime, whichever route has been fastest.',
)  # fmt: skip

MULTI_CLOUD = Scenario(
    "multi-cloud",
    "Bedrock, Vertex AI and the Anthropic API side by side",
    (
        "For work that may not stop when one cloud does. All three carry work every day, so that each is known to work, "
        "and the limits of three accounts add up; when one fails, the others take over its share.",
        'Bedrock and Vertex AI keep what they get in the United States: a job with residency=["us"] has two legs, of two '
        "clouds. On Bedrock that costs 10 % more than list price; without `residency` in its route it uses its global "
        "profile, which does not. A job that names no residency may run on every route of this file.",
    ),
    (
        Leg(
            "bedrock-us-east-1", "bedrock", "us-east-1", "Bedrock in Northern Virginia.",
            (Key("weight", 1.0, "a third of the shared work; better: in proportion to what each account allows"),),
            "us", "the United States",
        ),
        Leg(
            "vertex-us-central1", "vertex", "us-central1",
            f"Vertex AI in Iowa. {_REGIONAL}"
            'region = "us", Google\'s multi-region endpoint, costs the same, stays in the United States too, and does not '
            "depend on one region.",
            (Key("weight", 1.0, "a third of the shared work"),),
            "us", "the United States",
        ),
        Leg(
            "anthropic", "anthropic", None, f"{_DIRECT}{_ANYWHERE}",
            (Key("weight", 1.0, "a third of the shared work"),),
        ),
    ),
    {
        Latency.REALTIME: "latency",
        Latency.BATCH: "weight",
        Latency.ASYNC: "weight",
        Latency.DEFERRED: "cost",
    },
    "Realtime by latency: somebody waits, so whichever route has been fastest lately. Batch and async by weight: work "
    "is shared out, so that no leg is first used on the day another one fails. Deferred by cost: nobody waits, so the "
    "cheapest first, the others when it is at its limits.",
)  # fmt: skip

STARTUP = Scenario(
    "startup",
    "the Anthropic API first, two clouds for the day it fails",
    (
        "For small accounts that watch the bill. One provider does the work at list price; the others cost nothing until "
        "they are needed. The limits are small on purpose: they also slow down a loop that runs away. Raise them to what "
        "your accounts allow.",
        "The model decides most of the bill. List prices, USD per million tokens of input and output, November 2026: "
        "claude-haiku-5-5 0.10 and 0.50 (five times that for prompts above 100,000 tokens), claude-sonnet-5-5 2 and 10, "
        "claude-opus-5-5 4 and 20. Begin with Haiku, go up where its answers do not do, and look at "
        "`trivet costs --by model`. A small max_tokens leaves more room under limits of output tokens.",
        'No route declares a residency, so a job that asks for one has nowhere to go. residency = ["us"] in the routes of '
        "the two clouds gives it; Bedrock then costs 10 % more.",
    ),
    (
        Leg(
            "anthropic", "anthropic", None,
            "The Anthropic API: list price, and its answers tell Trivet how much of the limits is left.",
            (
                Key("priority", 1, "asked first"),
                Key("requests_per_minute", 50, "for each model; a small figure to begin with"),
                Key("max_concurrency", 20, "calls in flight, over all workers"),
            ),
        ),
        Leg(
            "bedrock-us-east-1", "bedrock", "us-east-1",
            "Bedrock: list price too, as no residency is declared (it then uses its global profile).",
            (
                Key("priority", 2, "asked when the Anthropic API cannot take a job"),
                Key("requests_per_minute", 50, "for each model; new accounts often begin with small quotas"),
                Key("max_concurrency", 10, "calls in flight, over all workers"),
            ),
        ),
        Leg(
            "vertex-us-central1", "vertex", "us-central1",
            f"Vertex AI in Iowa: a regional endpoint, 10 % dearer, so it comes last. {_REGIONAL}"
            'region = "global" costs list price and does not depend on one region.',
            (
                Key("priority", 3, "asked when neither of the others can take a job"),
                Key("requests_per_minute", 50, "for each model"),
                Key("max_concurrency", 10, "calls in flight, over all workers"),
            ),
        ),
    ),
    _BY_PRIORITY,
    'By priority, which here follows the price. "cost" would share work between the first two, as their prices are '
    "the same: two bills, but both accounts' limits from the start.",
)  # fmt: skip

SYDNEY = Scenario(
    "sydney",
    "Bedrock and Vertex AI in Sydney, Australia first",
    (
        'For work that has to stay in Australia, or is fastest there. A job with residency=["au"] runs in Australia or '
        "not at all: with both Australian legs down it waits (a realtime one fails), it does not leave.",
        "There is no Anthropic API in Australia: it computes anywhere, or in the United States where a request asks for "
        "that. It is here for jobs that may leave, and takes them when neither Australian leg can. A JOB THAT NAMES NO "
        'RESIDENCY MAY LEAVE. Put residency=["au"] into every job that may not, or take the route "anthropic" out.',
    ),
    (
        Leg(
            "bedrock-ap-southeast-2", "bedrock", "ap-southeast-2",
            "Bedrock in Sydney. Its Australian profile (au.) computes in Sydney and Melbourne. It has fewer models than "
            "the American one.",
            (Key("priority", 1, "asked first"),),
            "au", "Australia",
        ),
        Leg(
            "vertex-australia-southeast1", "vertex", "australia-southeast1",
            f"Vertex AI in Sydney. {_REGIONAL}Look before you rely on it: without it, Bedrock is the only Australian leg. "
            "Google's multi-region endpoints are in the United States and the EU, none is in Australia.",
            (Key("priority", 2, "asked when Bedrock in Sydney cannot take a job"),),
            "au", "Australia",
        ),
        Leg(
            "anthropic", "anthropic", None,
            f"The Anthropic API, outside Australia. {_ANYWHERE} Calls from Sydney go abroad and back: they take longer.",
            (Key("priority", 3, "asked when neither Australian leg can take a job that may leave"),),
        ),
    ),
    _BY_PRIORITY,
    'By priority, so that a job that may leave still stays while it can. "cost", the default of batch, async and '
    "deferred, would send it abroad first, as the Australian routes cost 10 % more than list price; "
    '"latency", the default of realtime, to whichever route has been fastest.',
)  # fmt: skip

SCENARIOS = (AWS_NATIVE, MULTI_CLOUD, STARTUP, SYDNEY)
"""All of them."""


def find_scenario(name: str) -> Scenario:
    """A scenario by its name. ConfigError, naming all, where there is none."""
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    if name in by_name:
        return by_name[name]
    near = get_close_matches(name.lower(), by_name, n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(f"--scenario: {name!r} is none.{meant}", hint=f"There are {', '.join(by_name)}.")
