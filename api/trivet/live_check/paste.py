"""Lines for `trivet.toml` that say what the account allows."""

import json
import re
from collections import Counter
from collections.abc import Mapping

from trivet.live_check.report import ABSENT, Kind, Level, LimitRow, Quota, Reading
from trivet.live_check.subject import Subject

INPUT_PART = 0.75
"""Share of input in a quota that counts input and output together: a start, to be changed to what the jobs are like."""
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SETTINGS = (Kind.REQUESTS, Kind.INPUT, Kind.OUTPUT)

Figures = tuple[tuple[Kind, int], ...]


def paste_lines(subject: Subject, reading: Reading, rows: tuple[LimitRow, ...]) -> str:
    """TOML with the account's figures; empty where the configuration needs no change.

    Where the quotas of all its models are known, the route's own table gets what most of them have (its figures hold for
    each model by itself), every other model a group. Where only some are known each of those gets a group, so that no
    model is given the figures of another. Models that share a quota share a group.
    """
    if not any(row.account and (row.configured is None or row.level is Level.ERROR) for row in rows):
        return ""
    shown = {model for row in rows for model in row.models}
    quotas = [quota for quota in reading.quotas if quota.value and quota.model in shown]
    units = _units(quotas)
    common: Figures = ()
    if subject.whole and shown >= {model for model, state in reading.models.items() if state.presence not in ABSENT}:
        single = Counter(figures for models, figures in units.items() if len(models) == 1)
        common = single.most_common(1)[0][0] if single else ()
    key = subject.name if _PLAIN_KEY.fullmatch(subject.name) else json.dumps(subject.name)
    lines: list[str] = []
    if any(quota.kind is Kind.TOKENS for quota in quotas):
        lines.append("# AWS counts input and output together; the split below is a start, change it to fit your jobs")
    if common:
        lines += [f"[routes.{key}]", *_figures(common), ""]
    for models, figures in units.items():
        if len(models) > 1 or figures != common:
            lines += [f"[[routes.{key}.limits]]", f"models = {json.dumps(list(models))}", *_figures(figures), ""]
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
