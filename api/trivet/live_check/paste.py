"""Lines for `trivet.toml` that say what the account allows."""

import json
import re
from collections import Counter
from collections.abc import Mapping

from trivet.live_check.report import Kind, Level, LimitRow, Quota
from trivet.live_check.subject import Subject

INPUT_PART = 0.75
"""Of a quota that counts input and output together: a start, to be changed to what the jobs are like."""
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SETTINGS = (Kind.REQUESTS, Kind.INPUT, Kind.OUTPUT)

Figures = tuple[tuple[Kind, int], ...]


def paste_lines(subject: Subject, quotas: tuple[Quota, ...], rows: tuple[LimitRow, ...]) -> str:
    """TOML with the account's figures; empty where the configuration needs no change.

    The route's own table gets what most of its models have (its figures hold for each by itself), every other model a
    group, and models that share a quota a group together. Where models are named, only those are written.
    """
    if not any(row.account and (row.configured is None or row.level is Level.ERROR) for row in rows):
        return ""
    wanted = [quota for quota in quotas if quota.value and (quota.model in subject.named or not subject.named)]
    units = _units(wanted)
    if not units:
        return ""
    alone = Counter(figures for models, figures in units.items() if len(models) == 1)
    common = alone.most_common(1)[0][0] if alone else ()
    key = subject.name if _PLAIN_KEY.fullmatch(subject.name) else json.dumps(subject.name)
    lines: list[str] = []
    if common:
        lines += [f"[routes.{key}]", *_figures(common)]
    for models, figures in units.items():
        if len(models) > 1 or figures != common:
            lines += ["", f"[[routes.{key}.limits]]", f"models = {json.dumps(list(models))}", *_figures(figures)]
    together = {quota.value for quota in wanted if quota.kind is Kind.TOKENS}
    if together:
        lines.insert(
            0, "# AWS counts input and output together; the split below is a start, change it to fit your jobs"
        )
    return "\n".join(lines).strip()


def _units(quotas: list[Quota]) -> dict[tuple[str, ...], Figures]:
    """The models that share figures, each with them."""
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
