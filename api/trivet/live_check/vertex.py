"""Reads a Google project on Vertex AI: Claude models in Model Garden, the project's access to them, quotas. Read only.

Models: google-cloud-aiplatform over REST. `ModelGardenService.GetPublisherModel` says whether Google serves the model at
the region's endpoint; it does not know projects. `LlmUtilityService.CountTokens` on the project's own path to the model
answers 404 where the project may not see it (not enabled in Model Garden, or not served there) and 400 or 200 where it
may. That is practice, not documented; it runs no model and costs nothing. At the endpoints global, us and eu its 404 is
told as a warning only.

Which models there are beside those of the catalogue, `ModelGardenService.ListPublisherModels` says (v1beta1).

Quotas: see `vertex_quotas`. Endpoints are Google's; gcloud's variables CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM and
CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDQUOTAS move them where no command of ours sets them aside (`trivet_tasks.config.environment`).
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from trivet.live_check.masking import Mask
from trivet.live_check.offline import project_of, region_of
from trivet.live_check.report import Finding, Level, ListedModel, ModelState, Presence, Quota, Reading
from trivet.live_check.subject import Subject
from trivet.live_check.vertex_quotas import SERVICE, prefix_of, read_quotas

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
AIPLATFORM_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
CLOUDQUOTAS_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDQUOTAS"
_AT_ONCE = 8
_PAGES_AT_MOST = 20
_QUOTA_PROJECT_HEADER = "x-goog-user-project"


def prepare() -> None:
    """Load Google's libraries (1.7 s), so that it is not counted as the account's time. ImportError without them."""
    import google.auth.transport.requests
    import google.cloud.aiplatform_v1.services.llm_utility_service
    import google.cloud.aiplatform_v1.services.model_garden_service  # noqa: F401


def read_vertex(subject: Subject, timeout_s: float, mask: Mask) -> Reading:
    """Ask Google. What goes wrong is a finding; `timeout_s` bounds each single call."""
    import google.auth.exceptions

    try:
        credentials, project = _credentials(subject, mask)
    except google.auth.exceptions.GoogleAuthError as error:
        action = "Set api_key to an access token, or GOOGLE_APPLICATION_CREDENTIALS for this process."
        what = f"No Google credentials: {mask.words(error)}"
        return Reading(findings=(Finding(Level.ERROR, what, f"{subject.table} api_key", action),))
    project = project_of(subject) or project
    if not project:
        finding = Finding(
            Level.ERROR, "No project.", f"{subject.table} project", "Set project, or GOOGLE_CLOUD_PROJECT."
        )
        return Reading(findings=(finding,))
    states, failure = _models(subject, credentials, project, timeout_s, mask)
    if failure is not None and failure.level is Level.ERROR:
        return Reading(f"Google project {project}", findings=(failure,))
    quotas, findings = _quotas(subject, credentials, project, timeout_s, mask)
    found = (*((failure,) if failure else ()), *findings)
    listed = _listed(credentials, _host(region_of(subject)), timeout_s)
    return Reading(f"Google project {project}", states, quotas, found, listed)


def _listed(credentials: Any, host: str, timeout_s: float) -> tuple[ListedModel, ...]:
    """The Claude models of Model Garden. Google names no days; empty where it does not answer.

    Over google-auth's session: the library's v1beta1 package alone would take seconds to load.
    """
    from google.auth.transport.requests import AuthorizedSession

    url = f"{host if '://' in host else f'https://{host}'}/v1beta1/publishers/anthropic/models"
    names: set[str] = set()
    page = ""
    try:
        with AuthorizedSession(credentials) as session:
            for _ in range(_PAGES_AT_MOST):
                asked = {"pageSize": "100", **({"pageToken": page} if page else {})}
                answer = session.get(url, params=asked, timeout=timeout_s)
                if answer.status_code != 200:
                    return ()
                body = answer.json()
                names |= {str(model["name"]).rpartition("/")[2] for model in body.get("publisherModels", ())}
                page = body.get("nextPageToken", "")
                if not page:
                    break
    except Exception:  # the list is in preview and no call depends on it: without it nothing is compared
        return ()
    return tuple(ListedModel(name) for name in sorted(names) if name.startswith("claude-"))


def _credentials(subject: Subject, mask: Mask) -> tuple[Any, str]:
    """Credentials with a token, and the project they name."""
    import google.auth
    import google.auth.transport.requests
    import google.oauth2.credentials
    import requests

    if subject.route.api_key:
        return google.oauth2.credentials.Credentials(subject.route.api_key.resolve()), ""
    credentials, project = google.auth.default(scopes=[SCOPE])
    with requests.Session() as session:
        credentials.refresh(google.auth.transport.requests.Request(session))
    mask.add(credentials.token)
    return credentials, project or ""


def _models(
    subject: Subject, credentials: Any, project: str, timeout_s: float, mask: Mask
) -> tuple[dict[str, ModelState], Finding | None]:
    """The state of each model; or what kept Google from answering for any of them."""
    from google.api_core.client_options import ClientOptions
    from google.cloud.aiplatform_v1.services.llm_utility_service import LlmUtilityServiceClient
    from google.cloud.aiplatform_v1.services.model_garden_service import ModelGardenServiceClient

    location = region_of(subject)
    options = ClientOptions(api_endpoint=_host(location))
    path = f"projects/{project}/locations/{location}/publishers/anthropic/models"
    with (
        ModelGardenServiceClient(credentials=credentials, transport="rest", client_options=options) as garden,
        LlmUtilityServiceClient(credentials=credentials, transport="rest", client_options=options) as tokens,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        look = partial(
            _state, garden=garden, tokens=tokens, path=path, location=location, timeout_s=timeout_s, mask=mask
        )
        answers = dict(zip(subject.wire, pool.map(look, subject.wire.values()), strict=True))
    failed = [answer for answer in answers.values() if isinstance(answer, Finding)]
    states = {model: answer for model, answer in answers.items() if isinstance(answer, ModelState)}
    if failed and len(failed) == len(answers):
        return {}, failed[0]
    for model, answer in answers.items():
        if isinstance(answer, Finding):
            states[model] = ModelState(Presence.UNKNOWN, answer.what, answer.action)
    return states, None


def _state(
    wire: str, *, garden: Any, tokens: Any, path: str, location: str, timeout_s: float, mask: Mask
) -> ModelState | Finding:
    from google.api_core import exceptions

    try:
        listed = _in_garden(garden, wire, timeout_s)
    except exceptions.PermissionDenied:
        listed = True  # the project's own path tells more
    except Exception as error:  # google-auth's, requests', api_core's: all of them mean no answer
        return _failure(error, mask)
    if not listed:
        action = "Choose another region or another route for it."
        return ModelState(Presence.MISSING, f"Model Garden has no {wire} at {location}.", action)
    try:
        tokens.count_tokens(request={"endpoint": f"{path}/{wire}"}, timeout=timeout_s, retry=None)
    except exceptions.NotFound as error:
        enable = "Enable the model in Model Garden for this project, or choose another region."
        if prefix_of(location):
            what = f"It is not certain that the project may use {wire} at {location}: {mask.words(error.message)}"
            return ModelState(Presence.UNKNOWN, what, f"{enable} A call tells for certain.")
        return ModelState(Presence.REFUSED, f"The project does not see {wire} at {location}.", enable)
    except exceptions.Unauthorized as error:
        return _failure(error, mask)
    except exceptions.Forbidden as error:
        action = "Grant roles/aiplatform.user to this identity, and enable aiplatform.googleapis.com."
        return ModelState(Presence.REFUSED, f"Google denied it: {mask.words(error.message)}", action)
    except exceptions.GoogleAPICallError as error:
        if error.code == 400 or error.code == 501:  # it sees the model, which counts no tokens this way
            return ModelState(Presence.SERVED)
        return ModelState(Presence.UNKNOWN, f"Google did not say: {mask.words(error.message)}", "Try again.")
    except Exception as error:
        return _failure(error, mask)
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


def _failure(error: Exception, mask: Mask) -> Finding:
    """No answer at all, for a person."""
    import google.auth.exceptions
    from google.api_core import exceptions

    where = "Vertex AI, Model Garden"
    if isinstance(error, exceptions.Unauthorized | google.auth.exceptions.RefreshError):
        action = "Set a good access token or service account; tokens last an hour."
        return Finding(Level.ERROR, f"Google refused the credentials: {mask.words(error)}", where, action)
    action = "Check region, network and proxy, then try again."
    return Finding(Level.ERROR, f"Google did not answer: {mask.words(error)}", where, action)


def _quotas(
    subject: Subject, credentials: Any, project: str, timeout_s: float, mask: Mask
) -> tuple[tuple[Quota, ...], tuple[Finding, ...]]:
    from google.auth.transport.requests import AuthorizedSession

    where = "Cloud Quotas API"
    action = (
        "Enable cloudquotas.googleapis.com in the project and grant roles/cloudquotas.viewer, "
        "or see IAM & Admin, Quotas in the console."
    )
    try:
        with AuthorizedSession(credentials) as session:
            infos = list(_infos(session, project, timeout_s))
    except Exception as error:  # requests', google-auth's and our own: quotas are then unknown, nothing else
        return (), (Finding(Level.WARNING, f"The quotas were not read: {mask.words(error)}", where, action),)
    quotas = read_quotas(infos, subject.wire, region_of(subject))
    missing = [model for model in subject.wire if not any(quota.model == model for quota in quotas)]
    if not missing or not quotas:
        return quotas, ()
    what = "The project has no quota under these models' names; they were not compared."
    look = "See IAM & Admin, Quotas in the console, dimension base_model."
    return quotas, (Finding(Level.NOTE, what, where, look, tuple(missing)),)


class _QuotasRefused(Exception):
    """The Cloud Quotas API said no."""


def _infos(session: Any, project: str, timeout_s: float) -> Iterator[Mapping[str, Any]]:
    host = os.environ.get(CLOUDQUOTAS_VARIABLE) or "https://cloudquotas.googleapis.com"
    url = f"{host.rstrip('/')}/v1/projects/{project}/locations/global/services/{SERVICE}/quotaInfos"
    headers: dict[str, str] = {}
    page = ""
    while True:
        asked = {"pageSize": "500", **({"pageToken": page} if page else {})}
        answer = session.get(url, params=asked, headers=headers, timeout=timeout_s)
        if answer.status_code == 403 and not headers and "quota project" in answer.text:
            headers = {_QUOTA_PROJECT_HEADER: project}  # a person's own credentials must name the project that is asked
            continue
        if answer.status_code != 200:
            raise _QuotasRefused(f"HTTP {answer.status_code} {_message(answer)}")
        body = answer.json()
        yield from body.get("quotaInfos", ())
        page = body.get("nextPageToken", "")
        if not page:
            return


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.reason)


def _host(location: str) -> str:
    """The endpoint that the anthropic SDK calls for this region."""
    override = os.environ.get(AIPLATFORM_VARIABLE)
    if override:
        return override.rstrip("/")
    if location == "global":
        return "aiplatform.googleapis.com"
    return (
        f"aiplatform.{location}.rep.googleapis.com"
        if location in ("us", "eu")
        else f"{location}-aiplatform.googleapis.com"
    )
