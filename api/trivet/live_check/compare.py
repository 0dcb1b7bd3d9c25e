"""Comparison of an account with the configuration and with the catalogue, and lines for `trivet.toml` with its figures."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date

from trivet.config.effective import toml_key
from trivet.live_check.report import (
    ABSENT,
    Finding,
    Kind,
    Level,
    LimitRow,
    ListedModel,
    ModelState,
    Presence,
    Quota,
    Reading,
)
from trivet.live_check.subject import Subject
from trivet_tasks.catalog import MODELS, Model, Provider, known, wire_model
from trivet_tasks.requests.eligibility import RETIRES_SOON, retirement_on, successor

FAR_BELOW = 0.5
"""Share of a quota below which a figure leaves capacity unused."""
MINUTES_A_DAY = 1440
INPUT_PART = 0.75
"""Share of input in a quota that counts input and output together: a start, to be changed to what the jobs are like."""
_UNKNOWN_SHOWN = 8
"""Maximum number of models shown that the catalogue does not know."""
_ORDER = tuple(Kind)
_SETTINGS = (Kind.REQUESTS, Kind.INPUT, Kind.OUTPUT)
_UNITS = {
    Kind.REQUESTS: "requests a minute",
    Kind.INPUT: "input tokens a minute",
    Kind.OUTPUT: "output tokens a minute",
    Kind.TOKENS: "tokens a minute",
    Kind.TOKENS_PER_DAY: "tokens a day",
}

Figures = tuple[tuple[Kind, int], ...]
"""Settings of limits with their values."""


def compare(subject: Subject, reading: Reading) -> tuple[tuple[Finding, ...], tuple[LimitRow, ...]]:
    """Return the findings and figures of a route whose account was read; none where nothing was: its findings say why."""
    if not reading.models and not reading.quotas:
        return (), ()
    usable = [model for model in subject.wire if _state(reading, model).presence not in ABSENT]
    quotas = [quota for quota in reading.quotas if quota.model in usable]
    rows = tuple(_rows(subject, quotas))
    return (*_presence(subject, reading), *_limits(subject, rows, quotas), *_pools(subject, quotas)), rows


def _state(reading: Reading, model: str) -> ModelState:
    return reading.models.get(model, ModelState(Presence.UNKNOWN))


def _presence(subject: Subject, reading: Reading) -> Iterator[Finding]:
    """Report models: named ones with a line for each reason, those of the catalogue in one."""
    grouped: dict[tuple[bool, ModelState], list[str]] = {}
    for model in subject.wire:
        if model in reading.models:
            state = reading.models[model]
            named = model in subject.named
            shown = state if named or state.presence not in ABSENT else ModelState(state.presence)
            grouped.setdefault((named, shown), []).append(model)
    served = [m for (_, state), models in grouped.items() if state.presence is Presence.SERVED for m in models]
    where = f"{subject.table} models"
    for (named, state), models in grouped.items():
        one = len(models) == 1
        match state.presence:
            case Presence.SERVED:
                if state.reason:
                    yield Finding(Level.WARNING, state.reason, where, state.action, tuple(models))
            case Presence.UNKNOWN:
                yield Finding(Level.WARNING, state.reason or "Not checked.", where, state.action, tuple(models))
            case Presence.MISSING | Presence.REFUSED if named:
                yield Finding(Level.ERROR, state.reason, where, state.action, tuple(models))
            case Presence.MISSING:
                what = f"{'This model is' if one else f'{len(models)} models of the catalogue are'} not served there."
                action = "Nothing, if no job asks for them here; such a job goes to another route. --model names yours."
                yield Finding(Level.NOTE if served else Level.ERROR, what, where, action, tuple(models))
            case Presence.REFUSED:
                what = (
                    f"The account has no access to {'this model' if one else f'{len(models)} models of the catalogue'}."
                )
                action = "Ask for access if jobs need them here. --model names the models you use."
                yield Finding(Level.WARNING if served else Level.ERROR, what, where, action, tuple(models))
    if served:
        what = f"The account has {len(served)} of {len(subject.wire)} models."
        yield Finding(Level.OK, what, where, models=tuple(served))


def _rows(subject: Subject, quotas: list[Quota]) -> Iterator[LimitRow]:
    """Yield figures side by side; models for which they are the same share a row."""
    shared: dict[tuple[Kind, int | None, int, Level, str], list[str]] = {}
    sources: dict[tuple[Kind, int | None, int, Level, str], str] = {}
    for quota in sorted(quotas, key=lambda quota: (_ORDER.index(quota.kind), quota.value)):
        configured = subject.figure(quota.model, quota.kind)
        level = _level_of(subject, quota, configured)
        key = (quota.kind, configured, quota.value, level, quota.pool or subject.holder(quota.model))
        shared.setdefault(key, []).append(quota.model)
        sources.setdefault(key, quota.source)
    for key, models in shared.items():
        kind, configured, value, level, _ = key
        yield LimitRow(tuple(dict.fromkeys(models)), kind, configured, value, level, sources[key])


def _level_of(subject: Subject, quota: Quota, configured: int | None) -> Level:
    if quota.value == 0:
        return Level.ERROR if quota.model in subject.named else Level.WARNING
    if quota.kind is Kind.TOKENS_PER_DAY:
        rate = subject.figure(quota.model, Kind.TOKENS)
        return Level.WARNING if rate and rate * MINUTES_A_DAY > quota.value else Level.OK
    if configured is None:
        return Level.NOTE
    if configured > quota.value:
        return Level.ERROR
    return Level.NOTE if configured < FAR_BELOW * quota.value else Level.OK


def _limits(subject: Subject, rows: tuple[LimitRow, ...], quotas: list[Quota]) -> Iterator[Finding]:
    for row in rows:
        finding = _limit_finding(subject, row)
        if finding:
            yield finding
    yield from _half_bounded(subject, rows)
    fine = [row for row in rows if row.level is Level.OK]
    if fine:
        what = f"{len(fine)} of {len(rows)} figures agree with the account."
        yield Finding(Level.OK, what, subject.table)
    if not quotas and subject.wire:
        what = "No quota of the account could be set against the configuration."
        yield Finding(Level.NOTE, what, subject.table, "See what the provider's console says, or the lines above.")


def _half_bounded(subject: Subject, rows: tuple[LimitRow, ...]) -> Iterator[Finding]:
    """Yield findings where the provider counts input and output together and only one of them is bounded."""
    models = [model for row in rows if row.limit is Kind.TOKENS and row.account for model in row.models]
    for kind, other in ((Kind.INPUT, Kind.OUTPUT), (Kind.OUTPUT, Kind.INPUT)):
        bare = [m for m in models if subject.figure(m, kind) is None and subject.figure(m, other) is not None]
        if bare:
            what = f"The account counts input and output together, and {kind.value} is not set."
            yield Finding(Level.WARNING, what, f"{subject.holder(bare[0])} {kind.value}", "Set both.", tuple(bare))


def _limit_finding(subject: Subject, row: LimitRow) -> Finding | None:
    where = f"{subject.holder(row.models[0])} {_setting(row.limit)}"
    account = f"{row.account:,}"
    if row.account == 0:
        what = f"The account's quota is 0 ({row.source}): every call is refused."
        return Finding(
            row.level, what, where, "Ask the provider for a quota, or send these models elsewhere.", row.models
        )
    if row.limit is Kind.TOKENS_PER_DAY:
        rate = subject.figure(row.models[0], Kind.TOKENS)
        if row.level is not Level.WARNING or not rate:
            return None
        what = f"At the configured {rate:,} tokens a minute the day's quota of {account} lasts {_span(row.account / rate)}."
        return Finding(row.level, what, where, "Ask AWS for more a day, or set lower figures.", row.models)
    together = " (input and output together)" if row.limit is Kind.TOKENS else ""
    if row.configured is None:
        what = f"The account allows {account} {_UNITS[row.limit]}{together}; nothing is configured."
        return Finding(row.level, what, where, "Paste the lines below.", row.models)
    if row.level is Level.ERROR:
        what = f"{row.configured:,} {_UNITS[row.limit]} are configured{together}, the account allows {account}: it would throttle."
        it = "their sum" if row.limit is Kind.TOKENS else "it"
        return Finding(row.level, what, where, f"Lower {it} to {account}, or ask the provider for more.", row.models)
    if row.level is Level.NOTE:
        what = f"{row.configured:,} {_UNITS[row.limit]} are configured{together}, the account allows {account}: the rest is left unused."
        return Finding(row.level, what, where, "Raise it, unless others share the account.", row.models)
    return None


def _pools(subject: Subject, quotas: list[Quota]) -> Iterator[Finding]:
    """Report models that share a quota while their figures are held for each by itself."""
    pools: dict[str, list[str]] = {}
    for quota in quotas:
        if quota.pool and quota.model not in pools.setdefault(quota.pool, []):
            pools[quota.pool].append(quota.model)
    for pool, models in pools.items():
        groups = {subject.route.group_of(model) for model in models}
        figures = any(subject.figure(model, kind) for model in models for kind in _SETTINGS)
        if len(models) < 2 or not figures or (len(groups) == 1 and None not in groups):
            continue
        level = Level.WARNING if len(subject.named & set(models)) > 1 else Level.NOTE
        yield Finding(
            level,
            f"These models share one quota ({pool}), and the route's figures hold for each by itself.",
            subject.table,
            f"Put them into one [[routes.{subject.name}.limits]] group.",
            tuple(models),
        )


def _setting(kind: Kind) -> str:
    return kind.value if kind in _SETTINGS else f"{Kind.INPUT}, {Kind.OUTPUT}"


def _span(minutes: float) -> str:
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def paste_lines(subject: Subject, reading: Reading, rows: tuple[LimitRow, ...]) -> str:
    """Return TOML with the account's figures; empty where the configuration needs no change.

    Where the quotas of all its models are known, the route's own table gets what most of them have (its figures hold for
    each model by itself), every other model a group. Where only some are known each of those gets a group, so that no
    model is given the figures of another. Models that share a quota share a group.
    """
    if not any(row.account and (row.configured is None or row.level is Level.ERROR) for row in rows):
        return ""
    shown = {model for row in rows for model in row.models}
    quotas = [quota for quota in reading.quotas if quota.value and quota.model in shown]
    units = _by_models(quotas)
    common: Figures = ()
    if subject.whole and shown >= {model for model, state in reading.models.items() if state.presence not in ABSENT}:
        single = Counter(figures for models, figures in units.items() if len(models) == 1)
        common = single.most_common(1)[0][0] if single else ()
    key = toml_key(subject.name)
    lines: list[str] = []
    if any(quota.kind is Kind.TOKENS for quota in quotas):
        lines.append("# AWS counts input and output together; the split below is a start, change it to fit your jobs")
    if common:
        lines += [f"[routes.{key}]", *_figures(common), ""]
    for models, figures in units.items():
        if len(models) > 1 or figures != common:
            lines += [f"[[routes.{key}.limits]]", f"models = {json.dumps(list(models))}", *_figures(figures), ""]
    return "\n".join(lines).strip()


def _by_models(quotas: list[Quota]) -> dict[tuple[str, ...], Figures]:
    """Return the figures of models, by the models that share them."""
    pools: dict[str, dict[str, None]] = {}
    figures: dict[str, dict[Kind, int]] = {}
    for quota in quotas:
        unit = quota.pool or quota.model
        pools.setdefault(unit, {})[quota.model] = None
        figures.setdefault(unit, {})[quota.kind] = quota.value
    return {tuple(models): _settings(figures[unit]) for unit, models in pools.items() if _settings(figures[unit])}


def _settings(found: Mapping[Kind, int]) -> Figures:
    given = dict(found)
    if Kind.TOKENS in given:
        both = given.pop(Kind.TOKENS)
        given.setdefault(Kind.INPUT, int(both * INPUT_PART))
        given.setdefault(Kind.OUTPUT, both - given[Kind.INPUT])
    return tuple((kind, given[kind]) for kind in _SETTINGS if given.get(kind))


def _figures(figures: Figures) -> list[str]:
    return [f"{kind.value} = {value:_}" for kind, value in figures]


def compare_catalogue(subject: Subject, reading: Reading, today: date) -> Iterator[Finding]:
    """Yield findings about models, by the list of the account's provider. None where it listed nothing."""
    provider = subject.route.provider
    where = f"the catalogue, {provider}"
    overridden = frozenset(subject.route.models.values())
    unknown = []
    for listed in reading.listed:
        model = _catalogue_model(provider, listed.id)
        if model is None:
            if listed.id not in overridden and not listed.retired:
                unknown.append(listed.id)
            continue
        yield from _days(subject, model, listed, today, where)
        yield from _sizes(model, listed, where)
        yield from _profiles(subject, model, listed, where)
    if unknown:
        more = f" and {len(unknown) - _UNKNOWN_SHOWN} more" if len(unknown) > _UNKNOWN_SHOWN else ""
        yield Finding(
            Level.NOTE,
            f"The account has models that the catalogue does not know: {', '.join(sorted(unknown)[:_UNKNOWN_SHOWN])}{more}.",
            where,
            f'To use one, name it: [routes.{subject.name}] models = {{ "claude-…" = "{min(unknown)}" }}.',
        )


def _catalogue_model(provider: Provider, wire_id: str) -> Model | None:
    """Return the model of a provider's id: without the prefix of a Bedrock profile, or with another version on Vertex."""
    match provider:
        case "anthropic":
            return known(wire_id)
        case "bedrock":
            base = f"anthropic.{wire_id.rpartition('anthropic.')[2]}"
            return next((model for model in MODELS if model.bedrock == base), None)
        case "vertex":
            name = wire_id.rpartition("/")[2].partition("@")[0]
            return next((model for model in MODELS if model.vertex and model.vertex.partition("@")[0] == name), None)


def _days(subject: Subject, model: Model, listed: ListedModel, today: date, where: str) -> Iterator[Finding]:
    named, about = model.id in subject.named, (model.id,)
    newer = successor(model.id)
    move = f"Move its jobs to {newer}." if newer else "Move its jobs to a newer model."
    if listed.retired:
        level = Level.ERROR if named else Level.NOTE
        yield Finding(level, f"The provider has retired {listed.id}.", where, move, about)
        return
    ours = retirement_on(model.id, subject.route)
    if listed.retires is None:
        if ours and ours.announced and ours.day < today:
            yield Finding(
                Level.WARNING,
                f"{listed.id} is still served; by the catalogue it retired on {ours.day.isoformat()}, so no job is sent here.",
                where,
                f'To use it on: [routes.{subject.name}] models = {{ "{model.id}" = "{listed.id}" }}.',
                about,
            )
        return
    said = listed.retires.isoformat()
    if ours is None or ours.day != listed.retires:
        known_day = f"the catalogue says {ours.day.isoformat()}" if ours else "the catalogue has no day"
        soon = named and listed.retires - today <= RETIRES_SOON
        yield Finding(
            Level.WARNING if soon or ours else Level.NOTE,
            f"{listed.id} retires on {said}; {known_day}.",
            where,
            f"{move} The provider's day counts.",
            about,
        )


def _sizes(model: Model, listed: ListedModel, where: str) -> Iterator[Finding]:
    for what, ours, theirs in (
        ("max_tokens", model.max_output_tokens, listed.max_output_tokens),
        ("context window", model.context_window, listed.context_window),
    ):
        if theirs is not None and theirs != ours:
            text = f"{listed.id}: the provider allows a {what} of {theirs:,}, the catalogue says {ours:,}."
            smaller = theirs < ours
            yield Finding(
                Level.WARNING if smaller else Level.NOTE,
                text,
                where,
                "Requests above it are refused by the provider."
                if smaller
                else "Newer versions of Trivet may know it.",
                (model.id,),
            )


def _profiles(subject: Subject, model: Model, listed: ListedModel, where: str) -> Iterator[Finding]:
    """Report profiles that the region has and the catalogue lacks."""
    more = sorted(set(listed.profiles) - set(model.bedrock_profiles))
    if not more:
        return
    route = subject.route
    served = wire_model(model.id, route.provider, route.region, route.models, resident=bool(route.residency))
    base = f"anthropic.{listed.id.rpartition('anthropic.')[2]}"
    yield Finding(
        Level.NOTE if served else Level.WARNING,
        f"The catalogue does not know these inference profiles of {model.id}: {', '.join(f'{name}.{base}' for name in more)}.",
        where,
        f'To use one: [routes.{subject.name}] models = {{ "{model.id}" = "{more[0]}.{base}" }}.',
        (model.id,),
    )
