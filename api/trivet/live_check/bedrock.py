"""Reading of an AWS account on Bedrock: models, inference profiles, access, service quotas. Through boto3, read only.

Endpoints are boto3's own. Its variables AWS_ENDPOINT_URL_* are ignored (`trivet_tasks.config.environment`).
Permissions: `bedrock:ListFoundationModels`, `bedrock:ListInferenceProfiles`, `bedrock:GetFoundationModelAvailability`,
`servicequotas:ListServiceQuotas` and `servicequotas:ListAWSDefaultServiceQuotas`. A Bedrock API key opens Bedrock alone
(Bedrock user guide, "API keys reference"): quotas are then read with the AWS chain, if that belongs to the same account.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trivet.live_check.bedrock_quotas import Path, read_quotas
from trivet.live_check.report import Finding, Kind, Level, ListedModel, ModelState, Presence, Quota, Reading
from trivet.live_check.subject import Mask, Subject

if TYPE_CHECKING:
    from botocore.client import BaseClient

_ACCOUNT = re.compile(r"arn:aws[\w-]*:(?:bedrock|servicequotas):[\w-]*:(\d{12}):")
_PROFILES = ("SYSTEM_DEFINED", "APPLICATION")
_REFUSED = frozenset({"UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException",
                      "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"})  # fmt: skip
_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedException"})


@dataclass(slots=True)
class _Found:
    """Models and profiles read so far."""

    foundation: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Foundation models by id and by ARN."""
    profiles: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Inference profiles by id and by ARN."""
    profiles_known: bool = False
    account: str = ""
    findings: list[Finding] = field(default_factory=list)


def prepare() -> None:
    """Load boto3, so that its loading is not counted as the account's time. ImportError where it is not installed."""
    import boto3  # noqa: F401


def read_bedrock(subject: Subject, timeout_s: float) -> Reading:
    """Ask AWS. Errors become findings; `timeout_s` bounds each single call."""
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    options = {
        "connect_timeout": min(5.0, timeout_s),
        "read_timeout": timeout_s,
        "retries": {"total_max_attempts": 3, "mode": "standard"},
    }
    found = _Found()
    with contextlib.ExitStack() as clients:
        try:
            chain = boto3.Session(region_name=subject.region)
            bedrock = clients.enter_context(closing(_bedrock(subject, chain, Config(**options))))
            bearer = bedrock.meta.config.signature_version == "bearer"
            _know_secrets(chain, subject.mask)
            states = _read_models(subject, bedrock, found)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            return Reading(findings=(_failure(error, "Bedrock, ListFoundationModels", subject),))
        quotas: tuple[Quota, ...] = ()
        try:
            client = clients.enter_context(closing(chain.client("service-quotas", config=Config(**options))))
            quotas = _quotas(subject, client, found, bearer=bearer)
        except botocore.exceptions.NoCredentialsError:
            found.findings.append(_no_quotas("A Bedrock API key cannot read them; the AWS chain has no credentials."))
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            found.findings.append(_no_quotas(_words(error, subject.mask)))
    account = f"AWS account {found.account}" if found.account else ""
    return Reading(account, states, quotas, tuple(found.findings), _listed_models(found))


def _bedrock(subject: Subject, chain: Any, config: Any) -> Any:
    """Return the client of the control plane, with the route's own key where it has one."""
    import boto3
    import botocore.session
    from botocore.config import Config

    if subject.route.api_key is None:
        return chain.client("bedrock", config=config)  # AWS_BEARER_TOKEN_BEDROCK, then the chain, as in the worker
    core = botocore.session.Session()
    core.register_component("token_provider", _FixedToken(subject.route.api_key.resolve()))
    session = boto3.Session(botocore_session=core, region_name=chain.region_name)
    return session.client("bedrock", config=config.merge(Config(signature_version="bearer")))


class _FixedToken:
    """botocore's token provider for the route's own key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def load_token(self, **_kwargs: object) -> object:
        """Return the key, as botocore wants it."""
        from botocore.tokens import FrozenAuthToken

        return FrozenAuthToken(self._key)


def _know_secrets(session: Any, mask: Mask) -> None:
    credentials = session.get_credentials()
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        mask.add(frozen.secret_key, frozen.token)


def _read_models(subject: Subject, bedrock: "BaseClient", found: _Found) -> dict[str, ModelState]:
    """Return models and profiles, then the state of each of the route's ids. Raises when AWS does not answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        for model in bedrock.list_foundation_models(byProvider="Anthropic")["modelSummaries"]:
            found.foundation[model["modelId"]] = found.foundation[model["modelArn"]] = model
    except ClientError as error:
        if _code(error) not in _DENIED:
            raise
        where = "Bedrock, ListFoundationModels"
        found.findings.append(_failure(error, where, subject, Level.WARNING))
        return {}
    try:
        for kind in _PROFILES:
            for page in bedrock.get_paginator("list_inference_profiles").paginate(typeEquals=kind):
                for profile in page["inferenceProfileSummaries"]:
                    found.profiles[profile["inferenceProfileId"]] = profile
                    found.profiles[profile["inferenceProfileArn"]] = profile
                    found.account = found.account or _account_in(profile["inferenceProfileArn"])
        found.profiles_known = True
    except (BotoCoreError, ClientError) as error:
        found.findings.append(_failure(error, "Bedrock, ListInferenceProfiles", subject, Level.WARNING))
    states = {model: _state(model, wire, found, bedrock.meta.region_name) for model, wire in subject.wire.items()}
    for model, state in states.items():
        if state.presence is Presence.SERVED:
            states[model] = _access(subject.wire[model], state, bedrock, found)
    return states


def _state(model: str, wire: str, found: _Found, region: str) -> ModelState:
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
        return ModelState(Presence.UNKNOWN, f"{wire} cannot be looked up here.", "Try it with a job.")
    if _is_profile(wire) and not found.profiles_known:
        return ModelState(Presence.UNKNOWN, "Inference profiles could not be listed.", "See above.")
    return _missing(model, wire, found, region)


def _missing(model: str, wire: str, found: _Found, region: str) -> ModelState:
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


def _profiles_of(base: str, found: _Found) -> list[str]:
    ids = [name for name, profile in found.profiles.items() if name == profile["inferenceProfileId"]]
    return sorted(name for name in ids if name.endswith(f".{base}"))


def _base(wire: str, found: _Found) -> str:
    """Return the id of the foundation model under a profile."""
    models = found.profiles[wire].get("models") or [{}]
    return str(models[0].get("modelArn", "")).rpartition("foundation-model/")[2]


def _life(summary: Mapping[str, Any]) -> ModelState:
    life = summary.get("modelLifecycle", {})
    if life.get("status") != "LEGACY":
        return ModelState(Presence.SERVED)
    end = life.get("endOfLifeTime")
    until = f" and ends on {end:%Y-%m-%d}" if end else ""
    return ModelState(Presence.SERVED, f"AWS calls it legacy{until}.", "Move its jobs to a newer model.")


def _access(wire: str, state: ModelState, bedrock: "BaseClient", found: _Found) -> ModelState:
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


def _listed_models(found: _Found) -> tuple[ListedModel, ...]:
    """Return every Claude model of the region, with the profiles of AWS that serve it and the day its life ends."""
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


def _path_of(wire: str, found: _Found) -> Path:
    """Return the path of calls: by the prefix of a system profile, or by the models that the account's own profile names."""
    if wire.startswith("global."):
        return Path.GLOBAL
    if wire.startswith("arn:") and wire in found.profiles:
        arns = [str(model.get("modelArn", "")) for model in found.profiles[wire].get("models", ())]
        if any(":bedrock:::" in arn for arn in arns):  # a model without a region means the global profile
            return Path.GLOBAL
        return Path.GEO if len(arns) > 1 else Path.ON_DEMAND
    return Path.ON_DEMAND if wire.startswith(("anthropic.", "arn:")) else Path.GEO


def _account_in(arn: str) -> str:
    """Return the number of the account in an ARN of Bedrock or Service Quotas; empty where there is none."""
    found = _ACCOUNT.match(arn)
    return found[1] if found else ""


def _quotas(subject: Subject, client: "BaseClient", found: _Found, *, bearer: bool) -> tuple[Quota, ...]:
    """Return per-minute and per-day quotas: the account's own values, and AWS's defaults where it has none."""
    paths = {model: _path_of(wire, found) for model, wire in subject.wire.items()}
    own = list(_listed(client, "list_service_quotas"))
    account = next((number for entry in own if (number := _account_in(entry.get("QuotaArn", "")))), "")
    if bearer and account and found.account and account != found.account:
        what = f"The key belongs to AWS account {found.account}, the AWS chain here to {account}."
        found.findings.append(_no_quotas(what))
        return ()
    if bearer and not (account and found.account):
        found.findings.append(_no_quotas("It is not known whether the key and the AWS chain here are of one account."))
        return ()
    found.account = found.account or account
    quotas, not_recognised = read_quotas(own, paths)
    have = {(quota.model, quota.kind) for quota in quotas}
    if not have >= {(model, kind) for model in paths for kind in (Kind.REQUESTS, Kind.TOKENS)}:
        defaults, _ = read_quotas(_listed(client, "list_aws_default_service_quotas"), paths)
        quotas += [
            replace(quota, source=f"{quota.source} (AWS's default)")
            for quota in defaults
            if (quota.model, quota.kind) not in have
        ]
    if not_recognised:
        found.findings.append(
            Finding(
                Level.NOTE,
                f"{len(not_recognised)} quotas for Claude were not recognised by their names.",
                "Service Quotas, bedrock",
                f"Not compared, e.g. {not_recognised[0]!r}.",
            )
        )
    return tuple(quotas)


def _listed(client: "BaseClient", operation: str) -> Iterator[Mapping[str, Any]]:
    for page in client.get_paginator(operation).paginate(ServiceCode="bedrock", PaginationConfig={"PageSize": 100}):
        yield from page["Quotas"]


def _no_quotas(why: str) -> Finding:
    return Finding(
        Level.WARNING,
        f"The account's quotas were not read. {why}",
        "Service Quotas, bedrock",
        "Run this with AWS credentials of the account that may call servicequotas:ListServiceQuotas.",
    )


def _failure(error: Exception, where: str, subject: Subject, level: Level = Level.ERROR) -> Finding:
    """Describe a call to AWS that failed."""
    from botocore.exceptions import NoCredentialsError

    code = _code(error)
    words = _words(error, subject.mask)
    if isinstance(error, NoCredentialsError):
        action = "Set api_key of the route, or give this process credentials of the AWS chain."
        return Finding(level, "No AWS credentials were found.", f"{subject.table} api_key", action)
    if code in _REFUSED:
        action = "Set a good key; temporary credentials run out."
        return Finding(level, f"AWS refused the credentials: {words}", where, action)
    if code in _DENIED:
        hint = (
            "A Bedrock API key may lack the right to list (bedrock:List*, bedrock:Get*) though it may call models. "
            if subject.route.api_key
            else ""
        )
        return Finding(level, f"AWS denied it: {words}", where, f"{hint}Allow the action to this identity.")
    return Finding(level, f"AWS did not answer: {words}", where, "Check region, network and proxy, then try again.")


def _code(error: Exception) -> str:
    from botocore.exceptions import ClientError

    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _words(error: Exception, mask: Mask) -> str:
    """Return AWS's code and words, masked; for an error of the network botocore's words."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        body = error.response.get("Error", {})
        return f"{body.get('Code', '')}: {mask.words(body.get('Message', '') or error)}".lstrip(": ")
    return mask.words(error)
