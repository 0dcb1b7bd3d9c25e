"""Writes a reference set-up down as a commented `trivet.toml`."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trivet.config.credentials import Found, find_credentials
from trivet.config.scenarios import Leg, Scenario
from trivet.config.template import INTRODUCTION, PLACES, PROCESSES, Proposal, route_table, sentence
from trivet_tasks.catalog import MODELS, Provider, wire_model
from trivet_tasks.latency import Latency

_WIDTH = 120
_COLUMN = 40
"""Where comments beside a key begin."""
_SHOWN = ("claude-sonnet-5-5", "claude-haiku-4-5")
"""The models whose names on the wire stand in the file as examples, where they are others."""
_EXAMPLE_LIMITS: tuple[tuple[str, str], ...] = (
    ("requests_per_minute", "500"),
    ("input_tokens_per_minute", "2_000_000"),
    ("output_tokens_per_minute", "400_000"),
)
_OWNERS: Mapping[Provider, str] = {"anthropic": "Anthropic", "bedrock": "AWS", "vertex": "Google"}
_OTHER_CREDENTIALS: Mapping[Provider, tuple[str, str]] = {
    "bedrock": ('api_key = "env:AWS_BEARER_TOKEN_BEDROCK"', "a Bedrock API key; without it the AWS chain"),
    "vertex": ('project = "your-project"', "without it GOOGLE_CLOUD_PROJECT, else what the credentials say"),
}


def proposed(scenario: Scenario, environment: Mapping[str, str], home: Path) -> tuple[Proposal, ...]:
    """The scenario's routes with what was found of their credentials; all are written, found or not."""
    return tuple(_proposal(leg, find_credentials(leg.provider, environment, home)) for leg in scenario.legs)


def scenario_text(scenario: Scenario, proposals: Sequence[Proposal]) -> str:
    """The text of the file. `proposals` are those of `proposed`."""
    return "\n".join(
        [
            *_comment(f"Reference set-up {scenario.name}: {scenario.title}. `docs/scenarios.md` tells more."),
            "#",
            *_paragraphs(scenario.why),
            "#",
            INTRODUCTION,
            PLACES,
            _ROUTES,
            *(_route(leg, proposal) for leg, proposal in zip(scenario.legs, proposals, strict=True)),
            *_classes(scenario),
            PROCESSES,
        ]
    )


def _proposal(leg: Leg, found: Found) -> Proposal:
    place = {"region": leg.region} if leg.region else {}
    keys = {key.name: key.value for key in leg.keys}
    stays = {"residency": [leg.residency]} if leg.residency else {}
    settings = {"provider": leg.provider, **place, **found.settings, **keys, **stays}
    return Proposal(leg.name, found.usable, found.reason, settings)


def _route(leg: Leg, proposal: Proposal) -> str:
    settings = proposal.settings
    reasons = {key.name: key.why for key in leg.keys}
    reasons["residency"] = f"only in {leg.place}; a job that asks for {leg.residency} goes nowhere else"
    lines = [
        *_comment(leg.why),
        *_comment(sentence(proposal.reason)),
        *_comment(_models(leg)),
        route_table(leg.name),
    ]
    for key, value in settings.items():
        lines += _beside(f"{key} = {json.dumps(value)}", reasons.get(key, ""))
        if key == "region" and leg.provider in _OTHER_CREDENTIALS:
            assignment, reason = _OTHER_CREDENTIALS[leg.provider]
            if assignment.partition(" ")[0] not in settings:
                lines += _beside(f"# {assignment}", reason)
    agreed = f"what you have agreed with {_OWNERS[leg.provider]}; a job that asks for one runs nowhere else"
    lines += _beside('# compliance = ["hipaa"]', agreed)
    lines += _limits(leg)
    return "\n".join([*lines, ""])


def _models(leg: Leg) -> str:
    """What the route calls models, and which it does not serve, by the table of models."""

    def name(model: str) -> str | None:
        return wire_model(model, leg.provider, leg.region, resident=bool(leg.residency))

    renamed = [f"{model} is {name(model)} here" for model in _SHOWN if name(model) not in (model, None)]
    lacking = [model.id for model in MODELS if "anthropic" not in model.retires and name(model.id) is None]
    but = f" but {', '.join(lacking)}" if lacking else ""
    return f"By Trivet's table it serves every model{but}; {', '.join(renamed)}."


def _limits(leg: Leg) -> Iterator[str]:
    given = {key.name for key in leg.keys}
    yield from _comment(f"Limits, of each model by itself. The figures are examples; yours: {_where(leg)}.")
    for name, value in _EXAMPLE_LIMITS:
        if name not in given:
            yield f"# {name} = {value}"
    if leg.provider == "bedrock":
        reason = "AWS has one figure for tokens and counts an output token of newer models as five: split it between the two above"
        yield from _beside("# output_token_factor = 5", reason)
    if "max_concurrency" not in given:
        yield from _beside("# max_concurrency = 200", "calls in flight, over all workers")


def _where(leg: Leg) -> str:
    """Where the account's real figures are to be found."""
    match leg.provider:
        case "anthropic":
            return "Anthropic Console (platform.claude.com), Settings, Limits"
        case "bedrock":
            kind = "Cross-region" if leg.residency else "Global cross-region"
            return (
                f"AWS console, Service Quotas, Amazon Bedrock, in {leg.region}: "
                f'"{kind} model inference requests per minute", and "tokens per minute", for each model'
            )
        case "vertex":
            return (
                "Google Cloud console, IAM & Admin, Quotas & System Limits, service Vertex AI: "
                f'"online prediction … per base model" in {leg.region}'
            )


def _classes(scenario: Scenario) -> Iterator[str]:
    yield from _comment(
        "The latency classes: in which order they ask the routes that fit a job. Other keys stay as `trivet config show` "
        "prints them."
    )
    yield from _comment(scenario.orders_why)
    for latency, order in scenario.orders.items():
        yield f"[classes.{latency}]"
        yield f'order = "{order}"'
        if latency is Latency.REALTIME:
            yield from _beside("# budget_s = 3", "seconds from submit to the answer; then it fails, saying why")
            hedge = "0.05: up to 5 % of its calls ask a second route too when the first is slow"
            yield from _beside("# hedge_share = 0", hedge)
        yield ""


def _paragraphs(texts: Sequence[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if index:
            yield "#"
        yield from _comment(text)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def _beside(assignment: str, reason: str) -> list[str]:
    """A key with its reason beside it, or above it where there is no room."""
    if not reason:
        return [assignment]
    line = f"{assignment:<{_COLUMN - 1}} # {reason}"
    return [line] if len(line) <= _WIDTH else [*_comment(f"{reason}:"), assignment]


_ROUTES = "\n".join(
    [
        *_comment(
            "The routes: where a prompt may go. Secrets are named, never written. A route whose credentials are missing is "
            "out of service until they are there; its jobs go to the others."
        ),
        *_comment(
            "Limits keep calls back before a provider refuses them. Without figures Trivet goes by refusals alone, which "
            "works, but wastes some calls. `trivet routes check --live` compares all of it with what your accounts have. "
            'Models that share one figure: [[routes.NAME.limits]] with models = ["claude-haiku-*"] and the figures.'
        ),
        "",
    ]
)
