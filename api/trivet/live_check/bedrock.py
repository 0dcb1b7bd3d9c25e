"""Reads an AWS account on Bedrock: models, inference profiles, access, service quotas. Through boto3, read only.

Endpoints are boto3's own. Its variables AWS_ENDPOINT_URL_* are ignored (`trivet_tasks.config.environment`).
Permissions: `bedrock:ListFoundationModels`, `bedrock:ListInferenceProfiles`, `bedrock:GetFoundationModelAvailability`,
`servicequotas:ListServiceQuotas` and `servicequotas:ListAWSDefaultServiceQuotas`. A Bedrock API key opens Bedrock alone
(Bedrock user guide, "API keys reference"): quotas are then read with the AWS chain, if that belongs to the same account.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trivet.live_check.bedrock_models import Found, account_in, listed_models, path_of, read_models
from trivet.live_check.bedrock_quotas import read_quotas
from trivet.live_check.bedrock_refusals import failure, said
from trivet.live_check.masking import Mask
from trivet.live_check.offline import region_of
from trivet.live_check.report import Finding, Kind, Level, Quota, Reading
from trivet.live_check.subject import Subject

if TYPE_CHECKING:
    from botocore.client import BaseClient


def prepare() -> None:
    """Load boto3, so that its loading is not counted as the account's time. ImportError where it is not installed."""
    import boto3  # noqa: F401


def read_bedrock(subject: Subject, timeout_s: float, mask: Mask) -> Reading:
    """Ask AWS. What goes wrong is a finding; `timeout_s` bounds each single call."""
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    region = region_of(subject)
    options = {
        "connect_timeout": min(5.0, timeout_s),
        "read_timeout": timeout_s,
        "retries": {"total_max_attempts": 3, "mode": "standard"},
    }
    found = Found()
    with contextlib.ExitStack() as clients:
        try:
            chain = boto3.Session(region_name=region)
            bedrock = clients.enter_context(closing(_bedrock(subject, chain, Config(**options))))
            bearer = bedrock.meta.config.signature_version == "bearer"
            _know_secrets(chain, mask)
            states = read_models(subject, bedrock, found, mask)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            return Reading(findings=(failure(error, "Bedrock, ListFoundationModels", subject, mask),))
        quotas: tuple[Quota, ...] = ()
        try:
            client = clients.enter_context(closing(chain.client("service-quotas", config=Config(**options))))
            quotas = _quotas(subject, client, found, bearer=bearer)
        except botocore.exceptions.NoCredentialsError:
            found.findings.append(_no_quotas("A Bedrock API key cannot read them; the AWS chain has no credentials."))
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            found.findings.append(_no_quotas(said(error, mask)))
    account = f"AWS account {found.account}" if found.account else ""
    return Reading(account, states, quotas, tuple(found.findings), listed_models(found))


def _bedrock(subject: Subject, chain: Any, config: Any) -> Any:
    """The client of the control plane, with the route's own key where it has one."""
    import boto3
    import botocore.session
    from botocore.config import Config

    if subject.route.api_key is None:
        return chain.client(
            "bedrock", config=config
        )  # AWS_BEARER_TOKEN_BEDROCK first, then the chain, as in the worker
    core = botocore.session.Session()
    core.register_component("token_provider", _FixedToken(subject.route.api_key.resolve()))
    session = boto3.Session(botocore_session=core, region_name=chain.region_name)
    return session.client("bedrock", config=config.merge(Config(signature_version="bearer")))


class _FixedToken:
    """botocore's token provider for the route's own key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def load_token(self, **_kwargs: object) -> object:
        """The key, as botocore wants it."""
        from botocore.tokens import FrozenAuthToken

        return FrozenAuthToken(self._key)


def _know_secrets(session: Any, mask: Mask) -> None:
    credentials = session.get_credentials()
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        mask.add(frozen.secret_key, frozen.token)


def _quotas(subject: Subject, client: "BaseClient", found: Found, *, bearer: bool) -> tuple[Quota, ...]:
    """Per-minute and per-day quotas, of the account's own values first, then AWS's defaults where it has none."""
    paths = {model: path_of(wire, found) for model, wire in subject.wire.items()}
    own = list(_listed(client, "list_service_quotas"))
    account = next((number for entry in own if (number := account_in(entry.get("QuotaArn", "")))), "")
    if bearer and account and found.account and account != found.account:
        what = f"The key belongs to AWS account {found.account}, the AWS chain here to {account}."
        found.findings.append(_no_quotas(what))
        return ()
    if bearer and not (account and found.account):
        found.findings.append(_no_quotas("It is not known whether the key and the AWS chain here are of one account."))
        return ()
    found.account = found.account or account
    read = read_quotas(own, paths)
    wanted = {(model, kind) for model in paths for kind in (Kind.REQUESTS, Kind.TOKENS)}
    if wanted - {(quota.model, quota.kind) for quota in read.quotas}:
        defaults = read_quotas(_listed(client, "list_aws_default_service_quotas"), paths).quotas
        have = {(quota.model, quota.kind) for quota in read.quotas}
        more = [quota for quota in defaults if (quota.model, quota.kind) not in have]
        more = [replace(quota, source=f"{quota.source} (AWS's default)") for quota in more]
        read = replace(read, quotas=(*read.quotas, *more))
    if read.not_recognised:
        found.findings.append(
            Finding(
                Level.NOTE,
                f"{len(read.not_recognised)} quotas for Claude were not recognised by their names.",
                "Service Quotas, bedrock",
                f"Not compared, e.g. {read.not_recognised[0]!r}.",
            )
        )
    return read.quotas


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
