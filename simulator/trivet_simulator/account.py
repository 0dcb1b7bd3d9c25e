"""Lists that the providers give of an account: models, inference profiles, limits. For `trivet routes check --live`.

Shapes: `anthropic` 2.12 (`types/model_info.py`, `types/organization/organization_rate_limit.py`), botocore's bedrock model,
Google's v1beta1 ListPublisherModels. The figures are the simulator's own.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import orjson

from trivet_simulator.http import Request

MODELS: dict[str, dict[str, Any]] = {
    "claude-opus-5-5": {},
    "claude-sonnet-5-5": {},
    "claude-haiku-5-5": {},
    "claude-opus-4-5-20251101": {
        "lifecycle": "deprecated", "deprecated_at": "2026-11-23T00:00:00Z", "retires_at": "2027-01-22T00:00:00Z",
        "max_tokens": 64_000, "max_input_tokens": 200_000,
    },
    "claude-sonnet-4-5": {
        "lifecycle": "deprecated", "retires_at": "2026-11-30T00:00:00Z", "max_tokens": 64_000, "max_input_tokens": 200_000,
    },
    "claude-haiku-4-5": {"max_tokens": 64_000, "max_input_tokens": 200_000},
}  # fmt: skip
"""Models that the Anthropic API lists, with their differences from a current model."""

_USUAL = {
    "type": "model", "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active", "deprecated_at": None, "retires_at": None,
    "max_tokens": 128_000, "max_input_tokens": 1_000_000,
}  # fmt: skip
_GROUPS: dict[str, tuple[list[str], dict[str, int]]] = {
    "Claude Opus 5.x": (["claude-opus-5-5"], {"requests": 2_000, "input": 1_000_000, "output": 200_000}),
    "Claude Sonnet 5.x": (["claude-sonnet-5-5"], {"requests": 4_000, "input": 2_000_000, "output": 400_000}),
    "Claude Haiku": (
        ["claude-haiku-5-5", "claude-haiku-4-5", "claude-haiku-4-5-20251001"],
        {"requests": 4_000, "input": 4_000_000, "output": 800_000},
    ),
}
_BEDROCK = {
    "anthropic.claude-opus-5-5": ("global", "us", "eu"),
    "anthropic.claude-sonnet-5-5": ("global", "us", "eu"),
    "anthropic.claude-haiku-5-5": ("global", "us", "eu"),
    "anthropic.claude-haiku-4-5-20251001-v1:0": ("global", "us", "eu"),
}
_ACCOUNT = "123456789012"


def anthropic_models() -> bytes:
    """GET /v1/models, in one page."""
    data = [{**_USUAL, "id": name, "display_name": name, **more} for name, more in MODELS.items()]
    return orjson.dumps({"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})


def anthropic_rate_limits(request: Request) -> bytes:
    """GET /v1/organizations/rate_limits, in one page; `group_type` and `model` are heeded."""
    query = parse_qs(request.query)
    kind, model = query.get("group_type", [""])[0], query.get("model", [""])[0]
    entries = [
        _entry({"type": "model_group", "display_name": name}, models, {
            "requests_per_minute": limits["requests"],
            "input_tokens_per_minute_cache_aware": limits["input"],
            "output_tokens_per_minute": limits["output"],
        })
        for name, (models, limits) in _GROUPS.items()
    ]  # fmt: skip
    entries.append(_entry({"type": "batch"}, None, {"requests_per_minute": 4_000, "enqueued_batch_requests": 500_000}))
    shown = [
        entry
        for entry in entries
        if (not kind or entry["group"]["type"] == kind) and (not model or model in (entry["models"] or ()))
    ]
    return orjson.dumps({"data": shown, "next_page": None})


def _entry(group: dict[str, str], models: list[str] | None, limits: dict[str, int]) -> dict[str, Any]:
    name = group.get("display_name", group["type"]).replace(" ", "")
    return {
        "id": f"rl_01{name}", "type": "rate_limit", "group": {"id": f"rlg_01{name}", **group}, "models": models,
        "limits": [{"type": kind, "value": value} for kind, value in limits.items()],
    }  # fmt: skip


def bedrock_page(request: Request) -> bytes | None:
    """ListFoundationModels, ListInferenceProfiles, GetFoundationModelAvailability; None for other paths."""
    if request.path == "/foundation-models":
        return orjson.dumps({"modelSummaries": [_summary(name) for name in _BEDROCK]})
    if request.path == "/inference-profiles":
        own = parse_qs(request.query).get("type", [""])[0] == "APPLICATION"
        found = [] if own else [_profile(prefix, name) for name, prefixes in _BEDROCK.items() for prefix in prefixes]
        return orjson.dumps({"inferenceProfileSummaries": found})
    if request.path.startswith("/foundation-model-availability/"):
        said = {
            "authorizationStatus": "AUTHORIZED",
            "entitlementAvailability": "AVAILABLE",
            "regionAvailability": "AVAILABLE",
        }
        model = request.path.rpartition("/")[2]
        return orjson.dumps({"modelId": model, "agreementAvailability": {"status": "AVAILABLE"}, **said})
    return None


def _summary(name: str) -> dict[str, Any]:
    return {
        "modelId": name, "modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{name}", "providerName": "Anthropic",
        "inferenceTypesSupported": ["INFERENCE_PROFILE"], "modelLifecycle": {"status": "ACTIVE"},
    }  # fmt: skip


def _profile(prefix: str, name: str) -> dict[str, Any]:
    full = f"{prefix}.{name}"
    return {
        "inferenceProfileId": full, "inferenceProfileName": full, "status": "ACTIVE", "type": "SYSTEM_DEFINED",
        "inferenceProfileArn": f"arn:aws:bedrock:us-east-1:{_ACCOUNT}:inference-profile/{full}",
        "models": [{"modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{name}"}],
    }  # fmt: skip


def vertex_page(request: Request) -> bytes | None:
    """Publisher models, one or all (v1, v1beta1); None for other paths."""
    version, _, rest = request.path.lstrip("/").partition("/")
    if version not in ("v1", "v1beta1") or not rest.startswith("publishers/anthropic/models"):
        return None
    names = [f"publishers/anthropic/models/{model.partition('-2025')[0]}" for model in MODELS]
    name = rest.partition("@")[0]
    if name in names:
        return orjson.dumps({"name": name})
    return orjson.dumps({"publisherModels": [{"name": one} for one in names]}) if rest.endswith("/models") else None
