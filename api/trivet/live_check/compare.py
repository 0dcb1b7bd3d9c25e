"""Compares an account with the configuration. Knows no provider."""

from collections.abc import Iterator
from dataclasses import dataclass

from trivet.live_check.report import ABSENT, Finding, Kind, Level, LimitRow, ModelState, Presence, Quota, Reading
from trivet.live_check.subject import Subject

FAR_BELOW = 0.5
"""A figure under this part of the quota leaves capacity unused."""
MINUTES_A_DAY = 1440
_ORDER = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison."""

    findings: tuple[Finding, ...]
    rows: tuple[LimitRow, ...]


def compare(subject: Subject, reading: Reading) -> Comparison:
    """Findings and figures of a route whose account was read."""
    usable = [model for model in subject.wire if _state(reading, model).presence not in ABSENT]
    quotas = [quota for quota in reading.quotas if quota.model in usable]
    rows = tuple(_rows(subject, quotas))
    return Comparison((*_presence(subject, reading), *_limits(subject, rows, quotas), *_pools(subject, quotas)), rows)


def _state(reading: Reading, model: str) -> ModelState:
    return reading.models.get(model, ModelState(Presence.UNKNOWN))


def _presence(subject: Subject, reading: Reading) -> Iterator[Finding]:
    """Models: those named get a line for each reason, those of the catalogue one for all."""
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
    """Figures side by side; models for which they are the same share a row."""
    shared: dict[tuple[Kind, int | None, int, Level, str], list[str]] = {}
    sources: dict[tuple[Kind, int | None, int, Level, str], str] = {}
    for quota in sorted(quotas, key=lambda quota: (_ORDER.index(quota.kind), quota.value)):
        configured = subject.figure(quota.model, quota.kind)
        level = _judged(subject, quota, configured)
        key = (quota.kind, configured, quota.value, level, quota.pool or subject.holder(quota.model))
        shared.setdefault(key, []).append(quota.model)
        sources.setdefault(key, quota.source)
    for key, models in shared.items():
        kind, configured, value, level, _ = key
        yield LimitRow(tuple(dict.fromkeys(models)), kind, configured, value, level, sources[key])


def _judged(subject: Subject, quota: Quota, configured: int | None) -> Level:
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
        finding = _told(subject, row)
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


def _told(subject: Subject, row: LimitRow) -> Finding | None:
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
        what = f"The account allows {account} {_unit(row.limit)}{together}; nothing is configured."
        return Finding(row.level, what, where, "Paste the lines below.", row.models)
    if row.level is Level.ERROR:
        what = f"{row.configured:,} {_unit(row.limit)} are configured{together}, the account allows {account}: it would throttle."
        it = "their sum" if row.limit is Kind.TOKENS else "it"
        return Finding(row.level, what, where, f"Lower {it} to {account}, or ask the provider for more.", row.models)
    if row.level is Level.NOTE:
        what = f"{row.configured:,} {_unit(row.limit)} are configured{together}, the account allows {account}: the rest is left unused."
        return Finding(row.level, what, where, "Raise it, unless others share the account.", row.models)
    return None


def _pools(subject: Subject, quotas: list[Quota]) -> Iterator[Finding]:
    """Models that share a quota while their figures are held for each by itself."""
    pools: dict[str, list[str]] = {}
    for quota in quotas:
        if quota.pool and quota.model not in pools.setdefault(quota.pool, []):
            pools[quota.pool].append(quota.model)
    for pool, models in pools.items():
        groups = {subject.route.group_of(model) for model in models}
        figures = any(subject.figure(model, kind) for model in models for kind in _ORDER[:3])
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
    match kind:
        case Kind.TOKENS | Kind.TOKENS_PER_DAY:
            return f"{Kind.INPUT}, {Kind.OUTPUT}"
        case _:
            return kind.value


def _unit(kind: Kind) -> str:
    return {
        Kind.REQUESTS: "requests a minute",
        Kind.INPUT: "input tokens a minute",
        Kind.OUTPUT: "output tokens a minute",
        Kind.TOKENS: "tokens a minute",
        Kind.TOKENS_PER_DAY: "tokens a day",
    }[kind]


def _span(minutes: float) -> str:
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
