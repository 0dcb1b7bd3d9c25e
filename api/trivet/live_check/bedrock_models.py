"""Models and inference profiles of Bedrock: the presence of a route's ids, and the account's access to them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trivet.live_check.bedrock_quotas import Path
from trivet.live_check.bedrock_refusals import denied, failure
from trivet.live_check.masking import Mask
from trivet.live_check.report import Finding, Level, ListedModel, ModelState, Presence
from trivet.live_check.subject import Subject

if TYPE_CHECKING:
    from botocore.client import BaseClient

_ACCOUNT = re.compile(r"arn:aws[\w-]*:(?:bedrock|servicequotas):[\w-]*:(\d{12}):")
_PROFILES = ("SYSTEM_DEFINED", "APPLICATION")


@dataclass(slots=True)
class Found:
    """Models and profiles read so far."""

    foundation: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Foundation models by id and by ARN."""
    profiles: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Inference profiles by id and by ARN."""
    profiles_known: bool = False
    account: str = ""
    findings: list[Finding] = field(default_factory=list)


def read_models(subject: Subject, bedrock: "BaseClient", found: Found, mask: Mask) -> dict[str, ModelState]:
    """Return models and profiles, then the state of each of the route's ids. Raises when AWS does not answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        for model in bedrock.list_foundation_models(byProvider="Anthropic")["modelSummaries"]:
            found.foundation[model["modelId"]] = found.foundation[model["modelArn"]] = model
    except ClientError as error:
        if not denied(error):
            raise
        where = "Bedrock, ListFoundationModels"
        found.findings.append(failure(error, where, subject, mask, Level.WARNING))
        return {}
    try:
        for kind in _PROFILES:
            for page in bedrock.get_paginator("list_inference_profiles").paginate(typeEquals=kind):
                for profile in page["inferenceProfileSummaries"]:
                    found.profiles[profile["inferenceProfileId"]] = profile
                    found.profiles[profile["inferenceProfileArn"]] = profile
                    found.account = found.account or account_in(profile["inferenceProfileArn"])
        found.profiles_known = True
    except (BotoCoreError, ClientError) as error:
        found.findings.append(failure(error, "Bedrock, ListInferenceProfiles", subject, mask, Level.WARNING))
    states = {model: _state(model, wire, found, bedrock.meta.region_name) for model, wire in subject.wire.items()}
    for model, state in states.items():
        if state.presence is Presence.SERVED:
            states[model] = _access(subject.wire[model], state, bedrock, found)
    return states


def _state(model: str, wire: str, found: Found, region: str) -> ModelState:
    """Return whether the id that workers would ask for is there."""
    if wire in found.profiles:
        state = found.profiles[wire].get("status", "ACTIVE")
        base = _base(wire, found)
        if state != "ACTIVE":
            return ModelState(Presence.UNKNOWN, f"The inference profile {wire} is {state}.", "See the Bedrock console.")
        return _life(found.foundation.get(base, {}))
    if wire in found.foundation:
        summary = found.foundation[wire]
        if "ON_DEMAND" in summary.get("inferenceTypesSupported", ("ON_DEMAND",)):
            return _life(summary)
        profiles = _profiles_of(summary["modelId"], found)
        return ModelState(
            Presence.MISSING,
            f"{wire} is served through inference profiles only.",
            f"Use one of them: {', '.join(profiles)}." if profiles else "Leave it to another region.",
        )
    if wire.startswith("arn:") and not _is_profile(wire):
        return ModelState(Presence.UNKNOWN, f"{wire} is nothing that can be looked up here.", "Try it with a job.")
    if _is_profile(wire) and not found.profiles_known:
        return ModelState(Presence.UNKNOWN, "Inference profiles could not be listed.", "See above.")
    return _missing(model, wire, found, region)


def _missing(model: str, wire: str, found: Found, region: str) -> ModelState:
    base = wire.partition("anthropic.")[2]
    others = _profiles_of(f"anthropic.{base}", found) if base else []
    if others:
        what = f"The inference profile {wire} does not exist in {region}."
        return ModelState(
            Presence.MISSING, what, f'These do: {", ".join(others)}. models = {{ "{model}" = "{others[0]}" }}'
        )
    if f"anthropic.{base}" in found.foundation:
        what = f"{region} has the model, but not the inference profile {wire}."
        return ModelState(Presence.MISSING, what, "Choose another region, or name another profile in models.")
    return ModelState(Presence.MISSING, f"{region} has no {wire}.", "Choose another region or another route for it.")


def _is_profile(wire: str) -> bool:
    if wire.startswith("arn:"):
        return "inference-profile/" in wire
    return not wire.startswith("anthropic.")


def _profiles_of(base: str, found: Found) -> list[str]:
    ids = [name for name, profile in found.profiles.items() if name == profile["inferenceProfileId"]]
    return sorted(name for name in ids if name.endswith(f".{base}"))


def _base(wire: str, found: Found) -> str:
    """The foundation model's id under a profile."""
    models = found.profiles[wire].get("models") or [{}]
    return str(models[0].get("modelArn", "")).rpartition("foundation-model/")[2]


def _life(summary: Mapping[str, Any]) -> ModelState:
    life = summary.get("modelLifecycle", {})
    if life.get("status") != "LEGACY":
        return ModelState(Presence.SERVED)
    end = life.get("endOfLifeTime")
    until = f" and ends on {end:%Y-%m-%d}" if end else ""
    return ModelState(Presence.SERVED, f"AWS calls it legacy{until}.", "Move its jobs to a newer model.")


def _access(wire: str, state: ModelState, bedrock: "BaseClient", found: Found) -> ModelState:
    """Return whether the account may use a model that is there. Where it can, AWS agrees at the first call."""
    from botocore.exceptions import BotoCoreError, ClientError

    base = _base(wire, found) if wire in found.profiles else str(found.foundation[wire]["modelId"])
    try:
        said = bedrock.get_foundation_model_availability(modelId=base)
    except (BotoCoreError, ClientError, AttributeError):  # older boto3, a permission: the listing must do
        return state
    if said.get("authorizationStatus") == "NOT_AUTHORIZED" or said.get("entitlementAvailability") == "NOT_AVAILABLE":
        return ModelState(
            Presence.REFUSED,
            f"The account has no access to {base}.",
            "Bedrock console, Model access: send Anthropic's use-case form, or ask the owner of the account.",
        )
    agreement = said.get("agreementAvailability", {})
    if agreement.get("status") not in (None, "AVAILABLE"):
        return ModelState(
            Presence.SERVED,
            f"No agreement for {base} yet ({agreement.get('status')}).",
            "The first call makes it, where the use-case form was sent and aws-marketplace:Subscribe is allowed.",
        )
    return state


def listed_models(found: Found) -> tuple[ListedModel, ...]:
    """Every Claude model of the region, with the profiles of AWS that serve it and the day its life ends."""
    profiles: dict[str, list[str]] = {}
    for name, profile in found.profiles.items():
        prefix, dot, base = name.partition(".anthropic.")
        if dot and name == profile["inferenceProfileId"] and profile.get("type") == "SYSTEM_DEFINED":
            profiles.setdefault(f"anthropic.{base}", []).append(prefix)
    models = []
    for name, summary in found.foundation.items():
        if name == summary["modelId"] and name.startswith("anthropic.claude-") and not _of_other_kind(summary):
            end = summary.get("modelLifecycle", {}).get("endOfLifeTime")
            models.append(
                ListedModel(name, retires=end.date() if end else None, profiles=tuple(sorted(profiles.get(name, ()))))
            )
    return tuple(models)


def _of_other_kind(summary: Mapping[str, Any]) -> bool:
    """Return whether it is a variant for provisioned throughput alone, such as `…-v1:0:200k`."""
    return list(summary.get("inferenceTypesSupported", ())) == ["PROVISIONED"]


def path_of(wire: str, found: Found) -> Path:
    """The way calls go: by the prefix of a system profile, or by the models that a profile of the account's own names."""
    if wire.startswith("global."):
        return Path.GLOBAL
    if wire.startswith("arn:") and wire in found.profiles:
        arns = [str(model.get("modelArn", "")) for model in found.profiles[wire].get("models", ())]
        if any(":bedrock:::" in arn for arn in arns):  # a model without a region means the global profile
            return Path.GLOBAL
        return Path.GEO if len(arns) > 1 else Path.ON_DEMAND
    return Path.ON_DEMAND if wire.startswith(("anthropic.", "arn:")) else Path.GEO


def account_in(arn: str) -> str:
    """The number of the account in an ARN of Bedrock or Service Quotas; empty where there is none."""
    found = _ACCOUNT.match(arn)
    return found[1] if found else ""
