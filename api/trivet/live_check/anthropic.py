"""Reading of an account of the Anthropic API: its models and their limits.

The models come from `models.list`, with the days on which they retire. Limits come from the Admin API where the route
names a key of it (`admin_api_key`). Each of its entries is a group of models that share limits, with every model's
names; those of a workspace may be lower and are not read (platform.claude.com, "Rate Limits API"). Versions of the API
before 2026-10-21 put the group's kind into `group_type` instead of `group`.

Without such a key, every answer names the limits of its own model in
`anthropic-ratelimit-{requests,input-tokens,output-tokens}-limit` (per minute; platform.claude.com, "Rate limits"), so
one message of `max_tokens=1` is sent, on the cheapest model, or on each model that was named: a fraction of a cent. It
is no attempt of a job, and not in the table `attempts`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from trivet.live_check.report import Finding, Kind, Level, ListedModel, ModelState, Presence, Quota, Reading
from trivet.live_check.subject import Subject, first_party_id
from trivet_tasks.config.addresses import api_address
from trivet_tasks.errors import ConfigError
from trivet_tasks.outcomes import Usage

if TYPE_CHECKING:
    import anthropic
    from anthropic.types import ModelInfo

    from trivet_tasks.prices.price_book import PriceBook

CALLS_AT_MOST = 5
_HEADERS = {
    Kind.REQUESTS: "anthropic-ratelimit-requests-limit",
    Kind.INPUT: "anthropic-ratelimit-input-tokens-limit",
    Kind.OUTPUT: "anthropic-ratelimit-output-tokens-limit",
}
_LIMIT_TYPES = {
    "requests_per_minute": Kind.REQUESTS,
    "input_tokens_per_minute": Kind.INPUT,
    "input_tokens_per_minute_cache_aware": Kind.INPUT,
    "output_tokens_per_minute": Kind.OUTPUT,
}
_PAGES_AT_MOST = 100
_MODELS_LIST = "Anthropic API, models.list"
_MESSAGE = "Anthropic API, a message of one token"


def prepare() -> None:
    """Load the SDK (1 s), so that it is not counted as the account's time. ImportError where it is not installed."""
    import anthropic
    import anthropic.types

    _ = anthropic.Anthropic, anthropic.types.Message


def read_anthropic(subject: Subject, timeout_s: float) -> Reading:
    """Ask the API. Errors become findings; `timeout_s` bounds each single call."""
    import anthropic

    key = subject.route.api_key.resolve() if subject.route.api_key else None
    try:
        made = _client(subject, key, timeout_s)
    except anthropic.AnthropicError as error:
        return Reading(findings=(_failure(error, subject, _MODELS_LIST),))
    with made as client:
        if key:
            client.api_key = key
        subject.mask.add(client.api_key, client.auth_token)
        try:
            models = [_listed(model) for model in client.models.list(limit=1000)]
        except anthropic.NotFoundError:
            what = "There is no list of models at this address."
            finding = Finding(Level.WARNING, what, f"{subject.table} base_url", "A gateway may lack it.")
            return Reading(findings=(finding,))
        except (anthropic.AnthropicError, TypeError) as error:  # TypeError: the SDK found no way to authenticate
            return Reading(findings=(_failure(error, subject, _MODELS_LIST),))
        listed = {model.id for model in models if not model.retired}
        states = {model: _state(model, wire, listed) for model, wire in subject.wire.items()}
        served = [model for model, state in states.items() if state.presence is Presence.SERVED]
        reading = Reading()
        if subject.route.admin_api_key:
            reading = _from_admin_api(subject, states, served, timeout_s)
        if not reading.quotas:
            paid = _with_limits(subject, client, states, served)
            reading = replace(paid, findings=(*reading.findings, *paid.findings))
        return replace(reading, listed=tuple(models))


def _listed(model: "ModelInfo") -> ListedModel:
    """Return what the list says of a model. `lifecycle` is the sign of retirement: a day that is past may be overdue."""
    retires, lifecycle = getattr(model, "retires_at", None), getattr(model, "lifecycle", None)
    return ListedModel(
        model.id,
        retires=retires.astimezone(UTC).date() if isinstance(retires, datetime) else None,
        retired=lifecycle == "retired",
        max_output_tokens=getattr(model, "max_tokens", None) or None,
        context_window=getattr(model, "max_input_tokens", None) or None,
    )


def _from_admin_api(subject: Subject, states: Mapping[str, ModelState], served: list[str], timeout_s: float) -> Reading:
    """Return the limits by the Admin API, free of charge; where it does not tell them, a finding with the reason."""
    import anthropic

    where, mask = "Anthropic API, /v1/organizations/rate_limits", subject.mask
    assert subject.route.admin_api_key is not None
    try:
        key = subject.route.admin_api_key.resolve()
    except ConfigError as error:
        action = "Set it here, or take admin_api_key out; limits are then read from the headers of a message."
        return Reading(findings=(Finding(Level.WARNING, f"No admin key: {error.message}", where, action),))
    mask.add(key)
    base_url = subject.route.base_url or None
    try:
        with anthropic.Anthropic(api_key="", base_url=base_url, max_retries=0, timeout=timeout_s) as admin:
            admin.api_key = key
            listed = admin.organization.rate_limits.list(group_type="model_group")
            pages = islice(listed.iter_pages(), _PAGES_AT_MOST)
            found = (entry for page in pages for entry in page.data or ())
            entries = [entry.to_dict() for entry in found if isinstance(entry, anthropic.BaseModel)]
    except anthropic.AnthropicError as error:
        what = f"The Admin API did not return the limits: {mask.words(_message(error))}"
        action = "Use a key that begins with sk-ant-admin; a message was sent for the limits instead."
        return Reading(findings=(Finding(Level.WARNING, what, where, action),))
    except (AttributeError, ValueError):  # the SDK's, for an answer in another form: a gateway's page
        entries = []
    quotas = tuple(_quotas_of(entries, served))
    missing = [model for model in served if not any(quota.model == model for quota in quotas)]
    findings = (
        [Finding(Level.OK, "The limits were read from the Admin API; no message was sent.", where)] if quotas else []
    )
    if missing:
        what = "The Admin API names no limits for these models."
        findings.append(Finding(Level.NOTE, what, where, "See the Limits page of the Claude Console.", tuple(missing)))
    return Reading("", states, quotas, tuple(findings))


def _quotas_of(entries: Iterable[Mapping[str, Any]], models: Iterable[str]) -> Iterator[Quota]:
    """Yield the limits of each of these models (first-party ids), with the group as their pool."""
    wanted = list(models)
    for entry in entries:
        group = entry.get("group")
        kind = group.get("type") if isinstance(group, dict) else entry.get("group_type")
        if kind != "model_group":
            continue
        named = {first_party_id(name) for name in entry.get("models") or () if isinstance(name, str)}
        inside = [model for model in wanted if model in named]
        shown = group.get("display_name") if isinstance(group, dict) else None
        pool = str(shown) if shown else "+".join(sorted(named))[:80]
        values: dict[Kind, int] = {}
        for limit in entry.get("limits") or ():
            what, value = (limit.get("type"), limit.get("value")) if isinstance(limit, dict) else (None, None)
            if what in _LIMIT_TYPES and isinstance(value, int) and not isinstance(value, bool):
                values[_LIMIT_TYPES[what]] = min(value, values.get(_LIMIT_TYPES[what], value))
        yield from (
            Quota(model, limit, value, "Admin API, rate_limits", pool if len(named) > 1 else "")
            for model in inside
            for limit, value in values.items()
        )


def _client(subject: Subject, key: str | None, timeout_s: float) -> "anthropic.Anthropic":
    """Return the SDK's client of the API, or of Claude Platform on AWS, with the route's address and version."""
    import anthropic

    route, region = subject.route, subject.region
    address = api_address(route)
    version = {"anthropic-version": route.version_of("")}
    if route.endpoint == "platform":
        return anthropic.AnthropicAWS(
            api_key=key,
            aws_region=region or None,
            workspace_id=route.workspace_id,
            base_url=address,
            max_retries=0,
            timeout=timeout_s,
            default_headers=version,
        )
    # an empty key keeps the SDK from taking another account's out of the environment, as in the worker
    return anthropic.Anthropic(
        api_key="" if key else None, base_url=address, max_retries=0, timeout=timeout_s, default_headers=version
    )


def _state(model: str, wire: str, listed: set[str]) -> ModelState:
    if wire in listed or model in listed:
        return ModelState(Presence.SERVED)
    action = "Use another model, or ask for access in the Claude Console."
    return ModelState(Presence.MISSING, f"The account's list of models has no {wire}.", action)


def _with_limits(
    subject: Subject, client: "anthropic.Anthropic", states: Mapping[str, ModelState], served: list[str]
) -> Reading:
    """Make one call for each named model, or on the cheapest, for the limits in its headers."""
    import anthropic

    from trivet_tasks.prices.price_book import PriceBook

    book = PriceBook()
    by_price = sorted(served, key=lambda model: _price(book, model, Usage(1_000_000, 1_000_000)) or Decimal("inf"))
    named = [model for model in by_price if model in subject.named]
    asked = (named or by_price[:1])[:CALLS_AT_MOST]
    quotas: list[Quota] = []
    findings: list[Finding] = []
    account, spent = "", Decimal(0)
    for model in asked:
        try:
            answer = client.messages.with_raw_response.create(
                model=subject.wire[model], max_tokens=1, messages=[{"role": "user", "content": "."}]
            )
        except anthropic.APIStatusError as error:
            findings.append(_failure(error, subject, _MESSAGE, model))
            headers: Mapping[str, str] = error.response.headers
        except anthropic.AnthropicError as error:
            findings.append(_failure(error, subject, _MESSAGE, model))
            continue
        else:
            headers = answer.headers
            usage = answer.parse().usage
            spent += _price(book, model, Usage(usage.input_tokens, usage.output_tokens)) or Decimal(0)
        organization = headers.get("anthropic-organization-id")
        account = account or (f"Anthropic organization {organization}" if organization else "")
        quotas += _limits(model, headers)
    if asked:
        findings.append(_calls_finding(subject, asked, served, spent))
    if asked and not quotas:
        what = "No limit headers came with the answer."
        findings.append(
            Finding(
                Level.NOTE, what, "anthropic-ratelimit-*", "A gateway may drop them; see the Console.", tuple(asked)
            )
        )
    return Reading(account, states, tuple(quotas), tuple(findings))


def _calls_finding(subject: Subject, asked: list[str], served: list[str], spent: Decimal) -> Finding:
    calls = "One message of one token was" if len(asked) == 1 else f"{len(asked)} messages of one token were"
    rest = len(served) - len(asked)
    more = f" The limits of the other {rest} models were not read; --model names more." if rest else ""
    return Finding(
        Level.NOTE if rest else Level.OK,
        f"{calls} sent for the limit headers, for ${spent.normalize():f}; no job, so not in `trivet costs`.{more}",
        "anthropic-ratelimit-*",
        f"Anthropic pools the limits of a family's models: one [[routes.{subject.name}.limits]] group for each holds them."
        if rest
        else "",
        tuple(asked),
    )


def _limits(model: str, headers: Mapping[str, str]) -> Iterator[Quota]:
    for kind, name in _HEADERS.items():
        value = headers.get(name, "")
        if value.isdecimal():
            yield Quota(model, kind, int(value), f"header {name}")


def _price(book: "PriceBook", model: str, usage: Usage) -> Decimal | None:
    return book.price("anthropic", model, model, None, datetime.now(UTC), usage).cost_usd


def _failure(error: Exception, subject: Subject, where: str, model: str = "") -> Finding:
    """Describe a call that failed."""
    import anthropic

    models = (model,) if model else ()
    said = subject.mask.words(_message(error))
    key = "Set api_key of the route, or ANTHROPIC_API_KEY."
    match error:
        case anthropic.AuthenticationError():
            return Finding(Level.ERROR, f"The key was refused: {said}", where, "Set a key that is good.", models)
        case anthropic.PermissionDeniedError():
            what = f"The key may not do this: {said}"
            return Finding(Level.ERROR, what, where, "Use a key of a workspace that may.", models)
        case anthropic.RateLimitError() if error.error_code and "spend" in error.error_code:
            action = "Raise the spend limit in the Claude Console."
            return Finding(Level.ERROR, f"The account has reached a spend limit: {said}", where, action, models)
        case anthropic.RateLimitError() | anthropic.InternalServerError():
            what = f"The API is limited or overloaded now: {said}"
            return Finding(Level.WARNING, what, where, "Try again later.", models)
        case anthropic.APIStatusError():
            what = f"The API said {error.status_code}: {said}"
            return Finding(Level.ERROR, what, where, "See what it says: credit, workspace or model.", models)
        case anthropic.APIConnectionError():
            what = f"The API did not answer: {subject.mask.words(error.__cause__ or error)}"
            return Finding(Level.ERROR, what, where, "Check base_url, network and proxy.", models)
        case _:
            return Finding(Level.ERROR, f"No credentials: {said}", f"{subject.table} api_key", key, models)


def _message(error: Exception) -> str:
    """Return the provider's own words, out of the SDK's text around them."""
    body = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, dict) else None
    words = inner.get("message") if isinstance(inner, dict) else None
    return words if isinstance(words, str) and words else str(error)
