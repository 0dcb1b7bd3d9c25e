"""Limits that an operator set by hand: they beat every file until their time is over or they are reset."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from trivet_tasks.errors import InvalidRequest
from trivet_tasks.route_settings import NAME_CHARS, WHOLE_ROUTE, LimitGroup, RouteSettings

FIGURES = ("requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute", "max_concurrency")
"""The limits that can be overridden."""


class Override(NamedTuple):
    """One limit of a route that an operator set."""

    route: str
    models: str
    """`*`: the figures of the route itself; else the name of a group of limits, a model or a glob."""
    figure: str
    value: int
    set_by: str
    set_at: float
    """Seconds since the epoch."""
    until: float | None
    """Seconds since the epoch; None: until it is reset."""


def overridden(settings: RouteSettings, overrides: Iterable[Override]) -> RouteSettings:
    """Return the settings with these limits in place of their own.

    Models that have no group of limits get one, with the route's figures where none is set:

        >>> from trivet_tasks.route_settings import RouteSettings
        >>> plain = RouteSettings(provider="bedrock", requests_per_minute=500, max_concurrency=20)
        >>> haiku = Override("r", "claude-haiku-*", "max_concurrency", 3, "ops@here", 0.0, None)
        >>> overridden(plain, [haiku]).group_of("claude-haiku-4-5").requests_per_minute
        500
    """
    figures: dict[str, dict[str, int]] = {}
    for override in overrides:
        figures.setdefault(override.models, {})[override.figure] = override.value
    own = settings.model_copy(update=figures.pop(WHOLE_ROUTE, {}))
    groups = {group.name: group for group in own.limits}
    new = []
    for models, changed in sorted(figures.items()):
        if models in groups:
            groups[models] = groups[models].model_copy(update=changed)
        else:
            inherited = {figure: getattr(own, figure) for figure in FIGURES}
            new.append(LimitGroup.model_validate({"models": models.split("+"), **inherited, **changed}))
    return own.model_copy(update={"limits": (*new, *groups.values())}) if figures else own


def target_of(settings: RouteSettings, models: str | None) -> str:
    """Return the name under which limits of these models are overridden; None means the route's own figures.

    Raises:
        InvalidRequest: the models share their limits with others, so figures of their own would exceed the account's.
    """
    if models is None or models == WHOLE_ROUTE:
        return WHOLE_ROUTE
    for group in settings.limits:
        if models in (group.name, *group.models):
            return group.name
    if len(models) > NAME_CHARS or "+" in models:
        raise InvalidRequest(
            f"--model: {models!r} is no model, glob or group of limits.", field="model", hint=_groups(settings.limits)
        )
    for group in settings.limits:
        if any(fnmatchcase(models, pattern) or fnmatchcase(pattern, models) for pattern in group.models):
            raise InvalidRequest(
                f"--model: {models!r} shares its limits with {group.name}.",
                field="model",
                hint=f"Set them for all of these: --model '{group.name}'.",
            )
    return models


def _groups(limits: Sequence[LimitGroup]) -> str:
    names = ", ".join(group.name for group in limits)
    return f"Groups of limits there are: {names}." if names else "The route has no groups of limits."
