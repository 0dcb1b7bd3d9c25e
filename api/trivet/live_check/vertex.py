"""Reading of a Google project on Vertex AI: Claude models in Model Garden, access to them, quotas. Read only.

Models: google-cloud-aiplatform over REST. `ModelGardenService.GetPublisherModel` says whether Google serves the model at
the region's endpoint; it does not know projects. `LlmUtilityService.CountTokens` on the project's own path to the model
answers 404 where the project may not see it (not enabled in Model Garden, or not served there) and 400 or 200 where it
may. That is practice, not documented; it runs no model and costs nothing. At the endpoints global, us and eu its 404 is
reported as a warning only.

The models beside those of the catalogue come from `ModelGardenService.ListPublisherModels` (v1beta1).

Quotas: google-cloud-aiplatform 2.7 has no call for them, so this asks `cloudquotas.googleapis.com/v1` (GA;
`quotaInfos.list`) over google-auth's `AuthorizedSession`. The API must be enabled in the project; permission
`cloudquotas.quotas.get` (roles/cloudquotas.viewer). Google's names of them (docs.cloud.google.com, "Quotas for Anthropic
Claude models", and projects' listings of 2026): metric
`[PREFIX]online_prediction_{requests,input_tokens_per_minute,output_tokens_per_minute}_per_base_model`, PREFIX `global_`
for the endpoint `global`, `us_multi_region_` and `eu_multi_region_` for `us` and `eu`, none for a region (dimension
`region`). Dimension `base_model`: `anthropic-claude-haiku-4-5` for each model by itself; at `global`, `us` and `eu`,
models since 26 May 2026 (Opus 4.8, Sonnet 5, Haiku 5.5, Fable 5 and later) share `anthropic-claude-opus` and so on.

Endpoints are Google's; gcloud's variables CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM and
CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDQUOTAS move them where no command of ours sets them aside (`trivet_tasks.config.environment`).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from trivet.live_check.report import Finding, Kind, Level, ListedModel, ModelState, Presence, Quota, Reading
from trivet.live_check.subject import Subject
from trivet_tasks.config.addresses import vertex_address

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
AIPLATFORM_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
CLOUDQUOTAS_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDQUOTAS"
_AT_ONCE = 8
_PAGES_AT_MOST = 100
_QUOTA_PROJECT_HEADER = "x-goog-user-project"
_SERVICE = "aiplatform.googleapis.com"
_METRICS = {
    Kind.REQUESTS: "online_prediction_requests_per_base_model",
    Kind.INPUT: "online_prediction_input_tokens_per_minute_per_base_model",
    Kind.OUTPUT: "online_prediction_output_tokens_per_minute_per_base_model",
    Kind.TOKENS: "online_prediction_tokens_per_minute_per_base_model",
}
_MODEL = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d+)(?:-(?P<minor>\d{1,2}))?")
_SHARED_SINCE = {"opus": (4, 8), "sonnet": (5, 0), "haiku": (5, 5), "fable": (5, 0), "mythos": (5, 0)}
"""The first version of each family that shares its quota (Google's page on quotas for Claude)."""


@dataclass(frozen=True, slots=True, repr=False)
class _Account:
    """The project that is read, with the credentials for it."""

    subject: Subject
    credentials: Any
    project: str
    timeout_s: float

    @property
    def location(self) -> str:
        """The region, or an endpoint over several."""
        return self.subject.region

    def words(self, error: object) -> str:
        """Return an error's words without secrets."""
        return self.subject.mask.words(error)


def prepare() -> None:
    """Load Google's libraries (1.7 s), so that it is not counted as the account's time. ImportError without them."""
    import google.auth.transport.requests
    import google.cloud.aiplatform_v1.services.llm_utility_service
    import google.cloud.aiplatform_v1.services.model_garden_service  # noqa: F401


def read_vertex(subject: Subject, timeout_s: float) -> Reading:
    """Ask Google. Errors become findings; `timeout_s` bounds each single call."""
    import google.auth.exceptions

    try:
        credentials, project = _credentials(subject)
    except google.auth.exceptions.GoogleAuthError as error:
        action = "Set api_key to an access token, or GOOGLE_APPLICATION_CREDENTIALS for this process."
        what = f"No Google credentials: {subject.mask.words(error)}"
        return Reading(findings=(Finding(Level.ERROR, what, f"{subject.table} api_key", action),))
    named = subject.project or project
    if not named:
        finding = Finding(
            Level.ERROR, "No project.", f"{subject.table} project", "Set project, or GOOGLE_CLOUD_PROJECT."
        )
        return Reading(findings=(finding,))
    account = _Account(subject, credentials, named, timeout_s)
    models = _models(account)
    if isinstance(models, Finding):
        return Reading(f"Google project {named}", findings=(models,))
    quotas, findings = _quotas(account)
    return Reading(f"Google project {named}", models, quotas, findings, _listed(account))


def _listed(account: _Account) -> tuple[ListedModel, ...]:
    """Return the Claude models of Model Garden. Google names no days; empty where it does not answer.

    Over google-auth's session: the library's v1beta1 package alone would take seconds to load.
    """
    host = _host(account.location)
    url = f"{host if '://' in host else f'https://{host}'}/v1beta1/publishers/anthropic/models"
    try:
        names = {str(model["name"]).rpartition("/")[2] for model in _pages(account, url, "publisherModels", 100)}
    except Exception:  # the list is in preview and no call depends on it: without it nothing is compared
        return ()
    return tuple(ListedModel(name) for name in sorted(names) if name.startswith("claude-"))


def _credentials(subject: Subject) -> tuple[Any, str]:
    """Return credentials with a token, and the project they name."""
    import google.auth
    import google.auth.transport.requests
    import google.oauth2.credentials
    import requests

    if subject.route.api_key:
        return google.oauth2.credentials.Credentials(subject.route.api_key.resolve()), ""
    credentials, project = google.auth.default(scopes=[SCOPE])
    with requests.Session() as session:
        credentials.refresh(google.auth.transport.requests.Request(session))
    subject.mask.add(credentials.token)
    return credentials, project or ""


def _models(account: _Account) -> dict[str, ModelState] | Finding:
    """Return the state of each model; or the reason why Google answered for none of them."""
    from google.api_core.client_options import ClientOptions
    from google.cloud.aiplatform_v1.services.llm_utility_service import LlmUtilityServiceClient
    from google.cloud.aiplatform_v1.services.model_garden_service import ModelGardenServiceClient

    options = ClientOptions(api_endpoint=_host(account.location))
    with (
        ModelGardenServiceClient(credentials=account.credentials, transport="rest", client_options=options) as garden,
        LlmUtilityServiceClient(credentials=account.credentials, transport="rest", client_options=options) as tokens,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        wire = account.subject.wire
        answers = dict(zip(wire, pool.map(partial(_state, account, garden, tokens), wire.values()), strict=True))
    failed = [answer for answer in answers.values() if isinstance(answer, Finding)]
    if failed and len(failed) == len(answers):
        return failed[0]
    return {
        model: ModelState(Presence.UNKNOWN, answer.what, answer.action) if isinstance(answer, Finding) else answer
        for model, answer in answers.items()
    }


def _state(account: _Account, garden: Any, tokens: Any, wire: str) -> ModelState | Finding:
    from google.api_core import exceptions

    location, words = account.location, account.words
    endpoint = f"projects/{account.project}/locations/{location}/publishers/anthropic/models/{wire}"
    try:
        listed = _in_garden(garden, wire, account.timeout_s)
    except exceptions.PermissionDenied:
        listed = True  # the project's own path tells more
    except Exception as error:  # google-auth's, requests', api_core's: all of them mean no answer
        return _failure(error, words)
    if not listed:
        action = "Choose another region or another route for it."
        return ModelState(Presence.MISSING, f"Model Garden has no {wire} at {location}.", action)
    try:
        tokens.count_tokens(request={"endpoint": endpoint}, timeout=account.timeout_s, retry=None)
    except exceptions.NotFound as error:
        enable = "Enable the model in Model Garden for this project, or choose another region."
        if _prefix_of(location):
            what = f"It is not certain that the project may use {wire} at {location}: {words(error.message)}"
            return ModelState(Presence.UNKNOWN, what, f"{enable} Only a call can tell.")
        return ModelState(Presence.REFUSED, f"The project does not see {wire} at {location}.", enable)
    except exceptions.Unauthorized as error:
        return _failure(error, words)
    except exceptions.Forbidden as error:
        action = "Grant roles/aiplatform.user to this identity, and enable aiplatform.googleapis.com."
        return ModelState(Presence.REFUSED, f"Google denied it: {words(error.message)}", action)
    except exceptions.GoogleAPICallError as error:
        if error.code == 400 or error.code == 501:  # it sees the model, which counts no tokens this way
            return ModelState(Presence.SERVED)
        return ModelState(Presence.UNKNOWN, f"Google did not answer for it: {words(error.message)}", "Try again.")
    except Exception as error:
        return _failure(error, words)
    return ModelState(Presence.SERVED)


def _in_garden(garden: Any, wire: str, timeout_s: float) -> bool:
    """Return whether Model Garden knows the model: with its version, else without."""
    from google.api_core import exceptions

    for name in dict.fromkeys((wire, wire.partition("@")[0])):
        try:
            garden.get_publisher_model(name=f"publishers/anthropic/models/{name}", timeout=timeout_s, retry=None)
        except (exceptions.NotFound, exceptions.InvalidArgument):
            continue
        return True
    return False


def _failure(error: Exception, words: Callable[[object], str]) -> Finding:
    """Describe a call without an answer."""
    import google.auth.exceptions
    from google.api_core import exceptions

    where = "Vertex AI, Model Garden"
    if isinstance(error, exceptions.Unauthorized | google.auth.exceptions.RefreshError):
        action = "Set a good access token or service account; tokens last an hour."
        return Finding(Level.ERROR, f"Google refused the credentials: {words(error)}", where, action)
    action = "Check region, network and proxy, then try again."
    return Finding(Level.ERROR, f"Google did not answer: {words(error)}", where, action)


def _quotas(account: _Account) -> tuple[tuple[Quota, ...], tuple[Finding, ...]]:
    where = "Cloud Quotas API"
    action = (
        "Enable cloudquotas.googleapis.com in the project and grant roles/cloudquotas.viewer, "
        "or see IAM & Admin, Quotas in the console."
    )
    host = os.environ.get(CLOUDQUOTAS_VARIABLE) or "https://cloudquotas.googleapis.com"
    url = f"{host.rstrip('/')}/v1/projects/{account.project}/locations/global/services/{_SERVICE}/quotaInfos"
    try:
        infos = list(_pages(account, url, "quotaInfos", 500))
    except Exception as error:  # requests', google-auth's and our own: quotas are then unknown, nothing else
        return (), (Finding(Level.WARNING, f"The quotas were not read: {account.words(error)}", where, action),)
    wire = account.subject.wire
    quotas = _read_quotas(infos, wire, account.location)
    missing = [model for model in wire if not any(quota.model == model for quota in quotas)]
    if not missing or not quotas:
        return quotas, ()
    what = "The project has no quota under these models' names; they were not compared."
    look = "See IAM & Admin, Quotas in the console, dimension base_model."
    return quotas, (Finding(Level.NOTE, what, where, look, tuple(missing)),)


class _ListFailed(Exception):
    """Google answered with an error instead of a list. The text is for a person."""


def _pages(account: _Account, url: str, field: str, size: int) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of a list that Google gives out in pages of `size`."""
    from google.auth.transport.requests import AuthorizedSession

    headers: dict[str, str] = {}
    page = ""
    with AuthorizedSession(account.credentials) as session:
        for _ in range(_PAGES_AT_MOST):
            asked = {"pageSize": str(size), **({"pageToken": page} if page else {})}
            answer = session.get(url, params=asked, headers=headers, timeout=account.timeout_s)
            if answer.status_code == 403 and not headers and "quota project" in answer.text:
                headers = {_QUOTA_PROJECT_HEADER: account.project}  # which a person's own credentials must name
                continue
            if answer.status_code != 200:
                raise _ListFailed(f"HTTP {answer.status_code} {_message(answer)}")
            body = answer.json()
            yield from body.get(field, ())
            page = body.get("nextPageToken", "")
            if not page:
                return


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.reason)


def _host(location: str) -> str:
    """Return the endpoint that workers call in this region."""
    return os.environ.get(AIPLATFORM_VARIABLE, "").rstrip("/") or urlsplit(vertex_address(location)).netloc


def _prefix_of(location: str) -> str:
    """Return the prefix of the metrics of a location."""
    if location == "global":
        return "global_"
    return f"{location}_multi_region_" if location in ("us", "eu") else ""


def base_models(model: str, location: str) -> tuple[str, ...]:
    """Return the values of `base_model` that a model may count against at a location, the likeliest first."""
    own = f"anthropic-{model.partition('@')[0]}"
    parts = _MODEL.fullmatch(model.partition("@")[0])
    if parts is None or not _prefix_of(location):
        return (own,)
    version = (int(parts["major"]), int(parts["minor"] or 0))
    if version < _SHARED_SINCE.get(parts["family"], (0, 0)):
        return (own,)
    family = f"anthropic-claude-{parts['family']}"
    return (family, f"{family}-{version[0]}", own)


def _read_quotas(infos: Iterable[Mapping[str, Any]], models: Iterable[str], location: str) -> tuple[Quota, ...]:
    """Pick the quotas of models out of `QuotaInfo` entries.

    A value holds for a base model only where it is written for that base model: a default for "all others" is not
    taken, since a name that Google spells differently would then look like a quota. -1 is unlimited and left out.
    """
    by_metric: dict[str, list[Mapping[str, Any]]] = {}
    for info in infos:
        if info.get("refreshInterval") in (None, "", "minute"):
            by_metric.setdefault(str(info.get("metric", "")).rpartition("/")[2], []).append(info)
    found: list[Quota] = []
    users: dict[str, list[str]] = {}
    for model in models:
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
    for kind, name in _METRICS.items():
        metric = _prefix_of(location) + name
        values = [value for info in by_metric.get(metric, ()) for value in _values(info, base, location)]
        if values:
            _, value = max(values)
            yield Quota(model, kind, value, f"{metric}, base_model {base}", base)


def _values(info: Mapping[str, Any], base: str, location: str) -> Iterator[tuple[int, int]]:
    """Yield the values for a base model at a location, each with its number of dimensions: more are closer to it."""
    for entry in info.get("dimensionsInfos", ()):
        dimensions = entry.get("dimensions", {})
        if dimensions.get("base_model") != base:
            continue
        region = dimensions.get("region") or dimensions.get("location")
        if region is not None and region != location:
            continue
        places = entry.get("applicableLocations", ())
        if region is None and not _prefix_of(location) and places and location not in places and "global" not in places:
            continue
        try:
            yield len(dimensions), int(entry.get("details", {}).get("value", ""))
        except ValueError:
            continue
