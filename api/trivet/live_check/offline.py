"""Checks of a route without asking anybody: its key, region, models and limits. No network."""

import importlib.util
import os
import re
from collections.abc import Iterator
from datetime import date
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from trivet.config.credentials import ADC_FILE, AWS_FILES, AWS_VARIABLES
from trivet.live_check.report import Finding, Kind, Level, SettledBy
from trivet.live_check.subject import Subject
from trivet_tasks.catalog import known, near_matches
from trivet_tasks.errors import ConfigError
from trivet_tasks.requests.eligibility import RETIRES_SOON, retired_on, retirement_on, retirement_text, successor

# Google's names of places: `us-east5`, or an endpoint over several: `global`, `us`, `eu` (anthropic SDK, lib/vertex)
_GOOGLE_REGION = re.compile(r"global|us|eu|[a-z]+-[a-z]+\d{1,2}")
_AWS_REGION = re.compile(r"[a-z]{2,3}(-[a-z]+)+-\d")
_MINUTE_LIMITS = (Kind.REQUESTS, Kind.INPUT, Kind.OUTPUT)


def check_offline(subject: Subject, today: date) -> tuple[Finding, ...]:
    """Return all findings that need no network. `today` (UTC) decides which models retire soon."""
    return (*_key(subject), *_place(subject), *_models(subject, today), *_limits(subject))


def _key(subject: Subject) -> Iterator[Finding]:
    where = f"{subject.table} api_key"
    reference = subject.route.api_key
    if reference is None:
        yield _chain(subject, where)
        return
    try:
        reference.resolve()
    except ConfigError as error:
        action = "Set it here and for the workers, or take api_key out to use the provider's own chain."
        yield Finding(Level.ERROR, f"No key: {error.message}", where, action)
    else:
        yield Finding(Level.OK, f"The key {reference} is there.", where)


def _chain(subject: Subject, where: str) -> Finding:
    """Report the signs of the SDK's own chain, which a route without a key uses."""
    match subject.route.provider:
        case "anthropic":
            signs = [name for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN") if os.environ.get(name)]
            needs = 'api_key = "env:ANTHROPIC_API_KEY", or set ANTHROPIC_API_KEY'
        case "bedrock":
            bearer = "ANTHROPIC_AWS_API_KEY" if subject.route.endpoint == "platform" else "AWS_BEARER_TOKEN_BEDROCK"
            signs = [name for name in (bearer, *AWS_VARIABLES) if os.environ.get(name)]
            signs += [f"~/{file}" for file in AWS_FILES if (Path.home() / file).is_file()]
            needs = f"credentials of the AWS chain (AWS_PROFILE, a role), or {bearer}"
        case "vertex":
            signs = [name for name in ("GOOGLE_APPLICATION_CREDENTIALS",) if os.environ.get(name)]
            signs += [f"~/{ADC_FILE}"] if (Path.home() / ADC_FILE).is_file() else []
            needs = "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`"
    if signs:
        return Finding(Level.OK, f"No api_key; the provider's own chain has {signs[0]}.", where)
    return Finding(
        Level.WARNING,
        "No api_key, and no credentials of the provider's own chain are to be seen here.",
        where,
        f"Needed: {needs}. A role of the machine is not seen from here; --live tries it.",
        settled_by=SettledBy.ASKING,
    )


def _place(subject: Subject) -> Iterator[Finding]:
    provider, region, where = subject.route.provider, subject.region, f"{subject.table} region"
    if provider == "anthropic":
        return
    if not region:
        yield Finding(Level.ERROR, "No region.", where, "Set region.")
    elif provider == "vertex":
        if _GOOGLE_REGION.fullmatch(region):
            yield Finding(Level.OK, f"The region is {region}.", where)
        else:
            action = "Use a region as in us-east5, or global, us, eu."
            yield Finding(Level.ERROR, f"{region!r} is no region of Google Cloud.", where, action)
    else:
        yield _aws_region(region, where, listed=subject.route.endpoint != "platform")
    if provider == "vertex" and not subject.project:
        what = "No project is set; the one that the credentials name is used, where they name one."
        level = Level.ERROR if subject.route.api_key else Level.NOTE
        action = "Set project, or GOOGLE_CLOUD_PROJECT."
        yield Finding(level, what, f"{subject.table} project", action, settled_by=SettledBy.ASKING)


def _aws_region(region: str, where: str, *, listed: bool) -> Finding:
    """Check the form of a region and, where `listed` says that boto3 knows the endpoint's regions, its name."""
    if not _AWS_REGION.fullmatch(region):
        return Finding(Level.ERROR, f"{region!r} is no AWS region.", where, "Use a region as in us-east-1.")
    if not listed or importlib.util.find_spec("botocore") is None:
        return Finding(Level.OK, f"The region is {region}.", where)
    import botocore.session  # 0.15 s; its list of regions comes with it, without a request

    # without a profile: one that does not exist would be an error
    session = botocore.session.Session({"profile": (None, None, None, None)})
    names = [
        name
        for partition in session.get_available_partitions()
        for name in session.get_available_regions("bedrock", partition)
    ]
    if region in names:
        return Finding(Level.OK, f"The region is {region}.", where)
    near = get_close_matches(region, names, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}? " if near else ""
    return Finding(
        Level.WARNING,
        f"boto3 knows no Bedrock in {region!r}.",
        where,
        f"{hint}If AWS opened it lately, update boto3; --live tries it.",
        settled_by=SettledBy.ASKING,
    )


def _models(subject: Subject, today: date) -> Iterator[Finding]:
    route, where = subject.route, f"{subject.table} models"
    for model in subject.unmapped:
        near = ", ".join(near_matches(model)) if known(model) is None else ""
        action = f"Did you mean {near}? " if near else ""
        yield Finding(
            Level.ERROR,
            f"The route has no id for {model}{' that stays in its region' if route.residency else ''}.",
            where,
            f'{action}Name this wire\'s id: models = {{ "{model}" = "…" }}, or use another route for it.',
            (model,),
        )
    for model in route.models:
        if known(model) is None:
            near = ", ".join(near_matches(model, 1))
            yield Finding(
                Level.WARNING,
                f"{model} is not in the catalogue; it is taken as you wrote it{f' (near: {near})' if near else ''}.",
                where,
                "Jobs must ask for it under that very name; its calls may have no price.",
                (model,),
            )
    for group in route.limits:
        for glob in group.models:
            if not any(fnmatchcase(model, glob) for model in subject.wire) and glob not in subject.unmapped:
                what = f"No model of the route fits {glob!r}; its figures have no effect."
                yield Finding(Level.WARNING, what, f"[[routes.{subject.name}.limits]] models", "Correct the pattern.")
    for model in sorted(subject.named & set(subject.wire)):
        yield from _retirement(subject, model, today)
    yield from _retiring(subject, today)
    if subject.wire:
        count = len(subject.wire)
        yield Finding(Level.OK, f"The route has ids for {count} model{'' if count == 1 else 's'}.", where)
    elif not subject.unmapped:
        yield Finding(Level.ERROR, "The route can serve no model at all.", where, "Set models, region or residency.")


def _retirement(subject: Subject, model: str, today: date) -> Iterator[Finding]:
    """Report the day on which a named model retires, where it is near or over."""
    retirement = retirement_on(model, subject.route)
    text = retirement and retirement_text(model, retirement, today)
    if not retirement or not text:
        return
    newer = successor(model)
    action = f"Move its jobs to {newer}." if newer else "Move its jobs to a newer model."
    level = Level.WARNING if retirement.announced else Level.NOTE
    if retired_on(model, subject.route, today):
        level = Level.ERROR
        action = f"{action} No job is sent here for it, unless the route's models name its id."
    yield Finding(level, text, f"the catalogue, {subject.route.provider}", action, (model,))


def _retiring(subject: Subject, today: date) -> Iterator[Finding]:
    """Report the other models that retire soon, in one line."""
    days = {model: retirement_on(model, subject.route) for model in sorted(subject.wire.keys() - subject.named)}
    soon = {
        model: retirement.day
        for model, retirement in days.items()
        if retirement and retirement.announced and today <= retirement.day <= today + RETIRES_SOON
    }
    if soon:
        listed = ", ".join(f"{model} on {day.isoformat()}" for model, day in soon.items())
        yield Finding(
            Level.OK, f"Retiring soon: {listed}.", f"the catalogue, {subject.route.provider}", models=tuple(soon)
        )


def _limits(subject: Subject) -> Iterator[Finding]:
    route = subject.route
    bare = [model for model in subject.wire if not any(subject.figure(model, kind) for kind in _MINUTE_LIMITS)]
    if bare and len(bare) == len(subject.wire):
        yield Finding(
            Level.NOTE,
            "No limits are set: only the provider's rate limit errors slow the route down.",
            subject.table,
            "Set requests_per_minute and the tokens; --live prints the account's.",
            settled_by=SettledBy.QUOTAS,
        )
    elif bare:
        what = "No limits are set for some models."
        action = "Set them; --live prints the account's."
        yield Finding(Level.NOTE, what, subject.table, action, tuple(bare), SettledBy.QUOTAS)
    else:
        yield Finding(Level.OK, "Limits are set.", subject.table)
    outputs = any(subject.figure(model, Kind.OUTPUT) for model in subject.wire)
    if route.endpoint == "messages":
        yield Finding(
            Level.NOTE,
            "AWS counts a model's calls through InvokeModel and through this endpoint against the same quotas.",
            f"{subject.table} endpoint",
            "Two routes of one account and region share them: divide the figures between the routes.",
        )
    if route.answers_as == "bedrock" and outputs and route.output_token_factor == 1:
        yield Finding(
            Level.WARNING,
            "AWS takes five tokens of quota for an output token of Claude 3.7 and later; output_token_factor is 1.",
            f"{subject.table} output_token_factor",
            "Set output_token_factor = 5, unless AWS says otherwise for your models (Bedrock user guide, token burndown).",
        )
