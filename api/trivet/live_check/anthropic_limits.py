"""Limits of an Anthropic organisation, from the Admin API: `GET /v1/organizations/rate_limits`.

Each entry is a group of models that share its limits, with every model's names (platform.claude.com, "Rate Limits API"; SDK
2.12, `types/organization`). Versions of the API before 2026-10-21 put the group's kind into `group_type` instead of
`group`. Limits of a workspace may be lower; they are not read.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trivet.live_check.report import Kind, Quota
from trivet_tasks.catalog import known

if TYPE_CHECKING:
    import anthropic

SOURCE = "Admin API, rate_limits"
PATH = "/v1/organizations/rate_limits"
PAGES_AT_MOST = 100
_KINDS = {
    "requests_per_minute": Kind.REQUESTS,
    "input_tokens_per_minute": Kind.INPUT,
    "input_tokens_per_minute_cache_aware": Kind.INPUT,
    "output_tokens_per_minute": Kind.OUTPUT,
}


def list_entries(client: "anthropic.Anthropic") -> list[Mapping[str, Any]]:
    """Every entry of the list, page by page. AnthropicError where the API does not answer."""
    entries: list[Mapping[str, Any]] = []
    page: str | None = None
    for _ in range(PAGES_AT_MOST):
        params = {"group_type": "model_group", **({"page": page} if page else {})}
        body: Any = client.get(PATH, cast_to=object, options={"params": params})
        if not isinstance(body, dict):
            break
        entries += [entry for entry in body.get("data") or () if isinstance(entry, dict)]
        page = body.get("next_page")
        if not page:
            break
    return entries


def quotas_of(entries: Iterable[Mapping[str, Any]], models: Iterable[str]) -> Iterator[Quota]:
    """The limits of each of these models (first-party ids), with the group as their pool."""
    wanted = list(models)
    for entry in entries:
        group = entry.get("group")
        kind = group.get("type") if isinstance(group, dict) else entry.get("group_type")
        if kind != "model_group":
            continue
        named = {_plain(name) for name in entry.get("models") or () if isinstance(name, str)}
        inside = [model for model in wanted if model in named]
        shown = group.get("display_name") if isinstance(group, dict) else None
        pool = str(shown) if shown else "+".join(sorted(named))[:80]
        values: dict[Kind, int] = {}
        for limit in entry.get("limits") or ():
            what, value = (limit.get("type"), limit.get("value")) if isinstance(limit, dict) else (None, None)
            if what in _KINDS and isinstance(value, int) and not isinstance(value, bool):
                values[_KINDS[what]] = min(value, values.get(_KINDS[what], value))
        yield from (
            Quota(model, limit, value, SOURCE, pool if len(named) > 1 else "")
            for model in inside
            for limit, value in values.items()
        )


def _plain(name: str) -> str:
    model = known(name)
    return model.id if model else name
