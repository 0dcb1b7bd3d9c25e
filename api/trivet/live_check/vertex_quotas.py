"""The quotas of a Google project for Claude, from the Cloud Quotas API.

google-cloud-aiplatform 2.7 has no call for quotas, so this asks `cloudquotas.googleapis.com/v1` (GA; `quotaInfos.list`)
over google-auth's `AuthorizedSession`. The API must be enabled in the project; permission `cloudquotas.quotas.get`
(roles/cloudquotas.viewer).

What Google calls them (docs.cloud.google.com, "Quotas for Anthropic Claude models", and projects' listings of 2026):
metric `[PREFIX]online_prediction_{requests,input_tokens_per_minute,output_tokens_per_minute}_per_base_model`, PREFIX
`global_` for the endpoint `global`, `us_multi_region_` and `eu_multi_region_` for `us` and `eu`, none for a region
(dimension `region`). Dimension `base_model`: `anthropic-claude-haiku-4-5` for each model by itself; at `global`, `us` and
`eu`, models since 26 May 2026 (Opus 4.8, Sonnet 5, Haiku 5.5, Fable 5 and later) share `anthropic-claude-opus` and so on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trivet.live_check.report import Kind, Quota

SERVICE = "aiplatform.googleapis.com"
_METRICS = {
    Kind.REQUESTS: ("online_prediction_requests_per_base_model",),
    Kind.INPUT: ("online_prediction_input_tokens_per_minute_per_base_model",),
    Kind.OUTPUT: ("online_prediction_output_tokens_per_minute_per_base_model",),
    Kind.TOKENS: ("online_prediction_tokens_per_minute_per_base_model",),
}
_MODEL = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d+)(?:-(?P<minor>\d{1,2}))?")
_SHARED_SINCE = {"opus": (4, 8), "sonnet": (5, 0), "haiku": (5, 5), "fable": (5, 0), "mythos": (5, 0)}
"""The first version of each family that shares its quota (Google's page on quotas for Claude)."""


def prefix_of(location: str) -> str:
    """Return the prefix of the metrics of a location."""
    if location == "global":
        return "global_"
    return f"{location}_multi_region_" if location in ("us", "eu") else ""


def base_models(model: str, location: str) -> tuple[str, ...]:
    """The values of `base_model` that a model may count against at a location, the likeliest first."""
    own = f"anthropic-{model.partition('@')[0]}"
    parts = _MODEL.fullmatch(model.partition("@")[0])
    if parts is None or not prefix_of(location):
        return (own,)
    version = (int(parts["major"]), int(parts["minor"] or 0))
    if version < _SHARED_SINCE.get(parts["family"], (0, 0)):
        return (own,)
    family = f"anthropic-claude-{parts['family']}"
    return (family, f"{family}-{version[0]}", own)


def read_quotas(infos: Iterable[Mapping[str, Any]], models: Iterable[str], location: str) -> tuple[Quota, ...]:
    """Pick the quotas of models out of `QuotaInfo` entries.

    A value holds for a base model only where it is written for that base model: a default for "all others" is not
    taken, since a name that Google spells differently would then look like a quota. -1 is unlimited and left out.
    """
    by_metric: dict[str, list[Mapping[str, Any]]] = {}
    for info in infos:
        if info.get("refreshInterval") in (None, "", "minute"):
            by_metric.setdefault(str(info.get("metric", "")).rpartition("/")[2], []).append(info)
    asked = list(models)
    found: list[Quota] = []
    users: dict[str, list[str]] = {}
    for model in asked:
        for base in base_models(model, location):
            quotas = list(_quotas_of(model, base, by_metric, location))
            if quotas:
                users.setdefault(base, []).append(model)
                found += quotas
                break
    shared = {base for base, of in users.items() if not any(base == f"anthropic-{model}" for model in of)}
    return tuple(
        Quota(q.model, q.kind, q.value, q.source, q.pool if q.pool in shared else "") for q in found if q.value >= 0
    )


def _quotas_of(
    model: str, base: str, by_metric: Mapping[str, list[Mapping[str, Any]]], location: str
) -> Iterator[Quota]:
    for kind, names in _METRICS.items():
        for name in names:
            metric = prefix_of(location) + name
            values = [value for info in by_metric.get(metric, ()) for value in _values(info, base, location)]
            if values:
                _, value = max(values)
                yield Quota(model, kind, value, f"{metric}, base_model {base}", base)


def _values(info: Mapping[str, Any], base: str, location: str) -> Iterator[tuple[int, int]]:
    """The values for a base model at a location, each with how closely it is written for it."""
    for entry in info.get("dimensionsInfos", ()):
        dimensions = entry.get("dimensions", {})
        if dimensions.get("base_model") != base:
            continue
        region = dimensions.get("region") or dimensions.get("location")
        if region is not None and region != location:
            continue
        places = entry.get("applicableLocations", ())
        if region is None and not prefix_of(location) and places and location not in places and "global" not in places:
            continue
        try:
            yield len(dimensions), int(entry.get("details", {}).get("value", ""))
        except ValueError:
            continue
