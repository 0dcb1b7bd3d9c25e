"""Limits that an operator set by hand: they beat every file until their time is over or they are reset."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from trivet_tasks.config.route_settings import NAME_CHARS, WHOLE_ROUTE, LimitGroup, RouteSettings
from trivet_tasks.errors import InvalidRequest

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
    clashes_with: str = ""
    """The group of limits in force that its models share, though it is not that group's own: it does not apply then."""


def with_clashes(settings: RouteSettings, overrides: Iterable[Override]) -> tuple[Override, ...]:
    """Return the overrides, each with the group of limits that keeps it from applying.

    A file may bring a group later than an operator set a limit. A group of its own for some of the same models would
    exceed what the account allows all of them together.
    """
    names = {WHOLE_ROUTE, *(group.name for group in settings.limits)}
    return tuple(
        override
        if override.models in names
        else override._replace(clashes_with=_sharing(settings.limits, override.models.split("+")))
        for override in overrides
    )


def overridden(settings: RouteSettings, overrides: Iterable[Override]) -> RouteSettings:
    """Return the settings with these limits in place of their own. Those that clash with a group do not count.

    Models that have no group of limits get one, with the route's figures where none is set:

        >>> from trivet_tasks.config.route_settings import RouteSettings
        >>> plain = RouteSettings(provider="bedrock", requests_per_minute=500, max_concurrency=20)
        >>> haiku = Override("r", "claude-haiku-*", "max_concurrency", 3, "ops@here", 0.0, None)
        >>> overridden(plain, [haiku]).group_of("claude-haiku-4-5").requests_per_minute
        500
    """
    figures: dict[str, dict[str, int]] = {}
    for override in with_clashes(settings, overrides):
        if override.clashes_with:
            continue
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
    if group_name := _sharing(settings.limits, [models]):
        raise InvalidRequest(
            f"--model: {models!r} shares its limits with {group_name}.",
            field="model",
            hint=f"Set them for all of these: --model '{group_name}'.",
        )
    return models


def _sharing(groups: Sequence[LimitGroup], models: Sequence[str]) -> str:
    """Return the name of the first group that has a model in common with these; empty where none has."""
    for group in groups:
        if any(_overlap(one, pattern) for one in models for pattern in group.models):
            return group.name
    return ""


@lru_cache(10_000)
def _overlap(one: str, other: str) -> bool:
    """Return whether a text may fit both globs; a set of characters (`[ab]`) counts as any one character."""
    if not one or not other:
        return not (one or other).strip("*")
    if one[0] == "*":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "*":
        return _overlap(other, one)
    (head, rest), (other_head, other_rest) = _split(one), _split(other)
    return ("?" in (head, other_head) or head == other_head) and _overlap(rest, other_rest)


def _split(glob: str) -> tuple[str, str]:
    end = glob.find("]", 2)
    return ("?", glob[end + 1 :]) if glob[0] == "[" and end > 0 else (glob[0], glob[1:])


def _groups(limits: Sequence[LimitGroup]) -> str:
    names = ", ".join(group.name for group in limits)
    return f"Groups of limits there are: {names}." if names else "The route has no groups of limits."
