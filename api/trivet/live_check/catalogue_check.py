"""Sets the catalogue against what a provider lists: models it does not know, ids, retirement days and limits that differ."""

from collections.abc import Iterator
from datetime import date

from trivet.live_check.report import Finding, Level, ListedModel, Reading
from trivet.live_check.subject import Subject
from trivet_tasks.catalog import MODELS, Model, Provider, known, wire_model
from trivet_tasks.requests.eligibility import RETIRES_SOON, retirement_on, successor

_SHOWN = 8


def compare_catalogue(subject: Subject, reading: Reading, today: date) -> Iterator[Finding]:
    """Findings about models, by what the account's provider lists. Nothing where it listed nothing."""
    provider = subject.route.provider
    where = f"the catalogue, {provider}"
    overridden = frozenset(subject.route.models.values())
    unknown = []
    for listed in reading.listed:
        model = catalogue_model(provider, listed.id)
        if model is None:
            if listed.id not in overridden and not listed.retired:
                unknown.append(listed.id)
            continue
        yield from _days(subject, model, listed, today, where)
        yield from _sizes(model, listed, where)
        yield from _profiles(subject, model, listed, where)
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        yield Finding(
            Level.NOTE,
            f"The account has models that the catalogue does not know: {', '.join(sorted(unknown)[:_SHOWN])}{more}.",
            where,
            f'To use one, name it: [routes.{subject.name}] models = {{ "claude-…" = "{min(unknown)}" }}.',
        )


def catalogue_model(provider: Provider, wire_id: str) -> Model | None:
    """The model of a provider's id: without the prefix of a Bedrock profile, or with another version on Vertex."""
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
    """Profiles that the region has and the catalogue lacks, where they would serve a model that is not served now."""
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
