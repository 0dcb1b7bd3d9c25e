"""Reading of a submitted request into a validated job.

A request is the Messages API body (`trivet_tasks.requests.request_body` has its fields) plus Trivet's own fields:

    model        first-party id, e.g. claude-sonnet-5-5
    prompt       a text, short for messages with this one message of the user
    key          of a single job: idempotency within its tenant; in a batch: the name of the request, unique there
    latency      realtime, interactive, batch (the default), async or deferred
    deadline     after this the result is worthless: a span from now ("90s", "5m", "24h"), seconds from now, or a moment
                 (datetime with time zone, ISO 8601)
    not_before   do not start earlier: the same forms
    tags         up to 20 names with a text each
    residency    one place or several, each of which the route must declare
    compliance   one regime or several, likewise
    metadata     an object that comes back with the result; of it only `user_id` is sent, as in the Messages API
    tenant       whom the work is done for
    prompt_cache what requests of one batch begin with is to be read from the provider's prompt cache: true, 5m or 1h
    cache        whether an earlier answer to an equal request may be used; default: `[cache] enabled`
    extra_headers, extra_body
                 headers and fields of the body that Trivet does not know, sent as they are (`trivet_tasks.requests.request_extras`)

A line of Anthropic's batches, `{"custom_id": …, "params": …}`, is such a request: the custom_id is the key, and params are
the body. Trivet's own fields may stand beside them.

A field that is None counts as not given. Errors name the field and what is allowed, never a text of the request.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

from cachetools import LRUCache

from trivet_tasks.call_times import short_deadline_text, too_short_text
from trivet_tasks.catalog import RETIRED, Model, known, near_matches
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import InvalidRequest, UnknownModel
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.requests.eligibility import (
    check_extras,
    check_retirement,
    check_versions,
    day_of,
    retirement_warning,
    serving_routes,
    successor,
)
from trivet_tasks.requests.features import BETA, FIELD, VERSIONED, features_of
from trivet_tasks.requests.prompt_cache import prefixes_of, read_prompt_cache
from trivet_tasks.requests.request_body import (
    BETA_FIELDS,
    BODY_FIELDS,
    REFUSED_FIELDS,
    check_max_tokens,
    check_thinking_budget,
)
from trivet_tasks.requests.request_extras import read_extra_body, read_extra_headers
from trivet_tasks.requests.request_json import estimate_input, write_body, write_metadata
from trivet_tasks.requests.request_messages import (
    check_messages,
    check_text,
    content_blocks,
    kind,
    quoted,
    shown,
    wrong,
)
from trivet_tasks.requests.request_objects import plain_request
from trivet_tasks.requests.request_terms import (
    MAX_KEY_CHARS,
    MAX_TENANT_CHARS,
    cache_key_of,
    cache_terms,
    read_latency,
    read_name,
    read_names,
    read_tags,
    read_times,
    unkept_text,
)

KnownRoutes: TypeAlias = Callable[[], Mapping[str, RouteSettings]]
"""Gives the routes there are, by name."""

OWN_FIELDS = frozenset({
    "model", "prompt", "key", "latency", "deadline", "not_before",
    "tags", "residency", "compliance", "tenant", "cache", "prompt_cache", "extra_headers", "extra_body",
})  # fmt: skip
"""Trivet's own fields; the rest of a request is the Messages API body."""

_BATCH_LINE = frozenset({"custom_id", "params"})
"""Fields of a line of Anthropic's batches (platform.claude.com/docs/en/build-with-claude/batch-processing)."""
_ALL_FIELDS = OWN_FIELDS | BODY_FIELDS.keys()
_KNOWN_IN_BODY = frozenset(BODY_FIELDS)
_MERGED = ("tags", "metadata", "extra_headers", "extra_body")
"""Fields of which the defaults are merged into a request's own, the request's winning."""
_TERMS_KEPT = 64


def parse_request(
    request: Mapping[str, object],
    *,
    settings: Settings,
    defaults: Mapping[str, object] = {},
    now: float,
    routes: KnownRoutes | None = None,
) -> JobSpec:
    """Validate one request.

    Args:
        request: see the head of this module. It is not changed.
        settings: for the classes' deadlines and timeouts, and for model names that only a route knows.
        defaults: fields to take where the request does not give them; `tags`, `metadata`, `extra_headers` and
            `extra_body` are merged, the request's winning.
        now: the moment of the submit, seconds since the epoch; `deadline` and `not_before` in seconds count from it.
        routes: gives the routes there are, asked only about fields and betas that not every route takes; else those of
            the settings.

    Raises:
        InvalidRequest: with `field` and a message such as `messages: must not be empty.`
    """
    return RequestReader(settings, defaults, routes).read(request, now)


def parse_requests(
    requests: Iterable[Mapping[str, object]],
    *,
    settings: Settings,
    defaults: Mapping[str, object] = {},
    now: Callable[[], float],
    routes: KnownRoutes | None = None,
) -> Iterator[JobSpec]:
    """Validate requests one by one as they are asked for, holding none of them.

    What the iterable itself raises passes through.

    Args:
        now: tells the time, seconds since the epoch; each request counts its times from the moment it is read.

    Raises:
        InvalidRequest: at the first bad one; its message begins with `request 17`, counted from 0 as in Python.
    """
    if isinstance(requests, Mapping | str | bytes) or not isinstance(requests, Iterable):
        raise wrong("requests", f"must be an iterable of requests (objects), is {kind(requests)}.")
    reader = RequestReader(settings, defaults, routes)
    for index, request in enumerate(requests):
        try:
            yield reader.read(request, now())
        except InvalidRequest as error:
            raise InvalidRequest(f"request {index}: {error.message}", field=error.field, hint=error.hint) from None


def model_id(name: str, settings: Settings) -> str:
    """The first-party id of a model by any name that a request may have for it.

    Raises:
        InvalidRequest: neither the table of models nor a route knows it.
    """
    return _model(name, settings)[0]


class _Terms(NamedTuple):
    """Terms that most requests submitted together have in common."""

    model_id: str
    model: Model | None
    latency: Latency
    max_tokens: int
    tenant: str | None
    residency: tuple[str, ...]
    compliance: tuple[str, ...]
    cache: bool | None
    cache_terms: bytes | None
    prompt_cache: str | None
    warnings: tuple[str, ...]
    """Warnings for every request with these terms."""


_TERMS = ("model", "latency", "max_tokens", "tenant", "residency", "compliance", "cache", "prompt_cache")
_TERM_NAMES = frozenset(_TERMS)
_PLAIN = frozenset({str, int, bool, Latency, type(None)})


class RequestReader:
    """Reads requests that are submitted together. Their common terms are checked once, not for each of them."""

    def __init__(
        self, settings: Settings, defaults: Mapping[str, object] = {}, routes: KnownRoutes | None = None
    ) -> None:
        """Take what `parse_request` takes."""
        self._settings = settings
        self._known_routes = routes
        self._defaults = _as_mapping(plain_request(defaults), defaults)
        self._terms: LRUCache[tuple[object, ...], _Terms] = LRUCache(_TERMS_KEPT)
        self._fitting: LRUCache[tuple[str, tuple[str, ...]], bool] = LRUCache(_TERMS_KEPT)
        """Models and features that some route takes."""
        self._spoken: LRUCache[tuple[object, ...], bool] = LRUCache(_TERMS_KEPT)
        """Combinations that some route's version of the API takes: model, residency, compliance and features."""
        self._of_defaults: _Terms | None = None

    def read(self, request: Mapping[str, object], now: float) -> JobSpec:
        """Validate one request (`parse_request`)."""
        try:
            return self._read(request, now)
        except InvalidRequest:
            # most requests are plain JSON and nothing is spent on those; an object of Python is refused, and then replaced
            plain = plain_request(request)
            if plain is request:
                raise
        return self._read(_as_mapping(plain, request), now)

    def _read(self, request: Mapping[str, object], now: float) -> JobSpec:
        if isinstance(request, dict) and not _BATCH_LINE.isdisjoint(request):
            request = unwrapped(request)
        given = _merged(request, self._defaults)
        if _TERM_NAMES.isdisjoint(request):
            terms = self._of_defaults
            if terms is None:
                terms = self._of_defaults = self._terms_of(given, now)
        else:
            terms = self._terms_of(given, now)
        body = _body(given, terms.model)
        check_thinking_budget(given.get("thinking"), given, terms.max_tokens)
        not_before, deadline = read_times(given, terms.latency, self._settings, now)
        key = read_name(given.get("key"), "key", MAX_KEY_CHARS)
        tags = read_tags(given.get("tags"))
        raw = write_body(body)
        blocks = list(content_blocks(body))
        fingerprint = blake2b(b"%b\n%b" % (terms.model_id.encode(), raw), digest_size=16).hexdigest()
        left_s = None if deadline is None or given.get("deadline") is None else deadline - (not_before or now)
        spec = JobSpec(
            model=terms.model_id,
            latency=terms.latency,
            body=raw,
            fingerprint=fingerprint,
            input_estimate=estimate_input(body, len(raw), blocks),
            max_tokens=terms.max_tokens,
            key=key,
            deadline_at=deadline,
            not_before=not_before,
            tenant=terms.tenant,
            tags=tags,
            metadata=write_metadata(metadata) if isinstance(metadata := given.get("metadata"), Mapping) else None,
            residency=terms.residency,
            compliance=terms.compliance,
            features=self._features(body, len(raw), blocks, terms.model_id),
            cache=terms.cache,
            prompt_cache=terms.prompt_cache,
            prefixes=prefixes_of(terms.model_id, body, raw) if terms.prompt_cache else (),
            cache_key=None if terms.cache_terms is None else cache_key_of(fingerprint, terms.cache_terms),
            warnings=_warnings(body, terms, self._settings, left_s),
        )
        if spec.features and not VERSIONED.isdisjoint(spec.features):
            self._check_versions(spec, body)
        return spec

    def _check_versions(self, spec: JobSpec, body: Mapping[str, object]) -> None:
        asked = spec.model, spec.residency, spec.compliance, spec.features
        if asked not in self._spoken:
            check_versions(spec, body, self._routes)
            self._spoken[asked] = True

    @cached_property
    def _routes(self) -> Mapping[str, RouteSettings]:
        return self._settings.routes if self._known_routes is None else self._known_routes()

    def _features(
        self, body: Mapping[str, object], size: int, blocks: list[dict[str, object]], model: str
    ) -> tuple[str, ...]:
        features = features_of(body, size, blocks)
        if features and (model, features) not in self._fitting:
            if any(name.startswith((BETA, FIELD)) for name in features):
                check_extras(model, features, self._routes)
            self._fitting[model, features] = True
        return features

    def _terms_of(self, given: Mapping[str, object], now: float) -> _Terms:
        said = _said(given)
        if said is None:
            return self._read_terms(given, now)
        terms = self._terms.get(said)
        if terms is None:
            terms = self._terms[said] = self._read_terms(given, now)
        return terms

    def _read_terms(self, given: Mapping[str, object], now: float) -> _Terms:
        settings, today = self._settings, day_of(now)
        model_id, model = _model(given.get("model"), settings)
        check_retirement(model_id, settings.routes, today)
        latency = read_latency(given.get("latency"))
        max_tokens = check_max_tokens(given.get("max_tokens"), model.max_output_tokens if model else None)
        tenant = read_name(given.get("tenant"), "tenant", MAX_TENANT_CHARS)
        residency = read_names(given.get("residency"), "residency")
        compliance = read_names(given.get("compliance"), "compliance")
        asked = given.get("cache")
        if "cache" in given and not isinstance(asked, bool):
            raise wrong("cache", f"must be true or false, is {quoted(asked)}.")
        own = asked if isinstance(asked, bool) else None
        cache = settings.cache.enabled if own is None else own
        return _Terms(
            model_id=model_id,
            model=model,
            latency=latency,
            max_tokens=max_tokens,
            tenant=tenant,
            residency=residency,
            compliance=compliance,
            cache=own,
            cache_terms=cache_terms(settings, latency, residency, compliance, tenant) if cache else None,
            prompt_cache=read_prompt_cache(given.get("prompt_cache")),
            warnings=tuple(
                filter(
                    None,
                    (
                        too_short_text(model, latency, max_tokens, settings.classes),
                        unkept_text(latency, settings) if given.get("cache") else "",
                        retirement_warning(model, serving_routes(model_id, settings.routes), today) if model else "",
                    ),
                )
            ),
        )


def unwrapped(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the request of a line of Anthropic's batches, with its custom_id as the key; any other is returned as it is.

        unwrapped({"custom_id": "a-1", "params": {"model": "claude-haiku-4-5"}})
        # {"model": "claude-haiku-4-5", "key": "a-1"}

    Raises:
        InvalidRequest: `params` is no object, or something is given both there and beside it.
    """
    custom_id, params = request.get("custom_id"), request.get("params")
    if params is None:
        return request
    if not isinstance(params, Mapping):
        raise wrong("params", f"must be an object, the body of a request, is {kind(params)}.")
    beside = {name: value for name, value in request.items() if name not in _BATCH_LINE}
    for name in beside:
        if name in params:
            raise wrong(shown(name), "is given beside params and in it.")
        if name not in OWN_FIELDS:
            raise wrong(shown(name), "stands beside params; a field of the request belongs in it.")
    if custom_id is None:
        return {**params, **beside}
    if "key" in beside or "key" in params:
        raise wrong("custom_id", "is the key of the request; give only one of the two.")
    return {**params, **beside, "key": read_name(custom_id, "custom_id", MAX_KEY_CHARS)}


def _as_mapping(value: object, given: Mapping[str, object]) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else given


def _said(given: Mapping[str, object]) -> tuple[object, ...] | None:
    """The fields of `_TERMS`, equal only where they are read alike, and so with their types: 1 is True to Python. None: there
    is something odd among them."""
    said: list[object] = []
    for name in _TERMS:
        value = given.get(name)
        form = type(value)
        if form is list or form is tuple:
            if not all(type(one) is str for one in value):  # type: ignore[attr-defined]
                return None
            value = tuple(value)  # type: ignore[arg-type]
        elif form not in _PLAIN:
            return None
        said += (form, value)
    return tuple(said)


def _merged(request: object, defaults: Mapping[str, object]) -> dict[str, object]:
    """The fields that are given, the request's over the defaults."""
    if not isinstance(request, dict) and not isinstance(request, Mapping):  # the second is slow
        raise wrong("request", f"must be an object with messages, model and max_tokens, is {kind(request)}.")
    _check_names(request)
    merged: dict[str, object] = dict(request)
    if defaults:
        merged = _laid_under(defaults, merged)
    merged = {name: value for name, value in merged.items() if value is not None and name != "stream"}
    if "extra_body" in merged or "extra_headers" in merged:
        merged = _with_extras(merged)
    if "prompt" in merged:
        if "messages" in merged:
            raise wrong("prompt", "is short for messages; give only one of the two.")
    elif "messages" not in merged:
        raise wrong("messages", "is missing; give messages, or one text as prompt.")
    return merged


def _laid_under(defaults: Mapping[str, object], request: dict[str, object]) -> dict[str, object]:
    _check_names(defaults)
    merged = {**defaults, **request}
    for one, other in (("prompt", "messages"), ("messages", "prompt")):
        if one in request and other not in request:
            merged.pop(other, None)
    for name in _MERGED:
        below, above = defaults.get(name), request.get(name)
        if below is not None and isinstance(below, Mapping) and isinstance(above, Mapping):
            merged[name] = {**below, **above}
    return merged


def _with_extras(given: dict[str, object]) -> dict[str, object]:
    """The fields with `extra_headers` and `extra_body` read: what of them Trivet knows stands where it would otherwise."""
    merged = dict(given)
    if "extra_body" in merged:
        value = merged.pop("extra_body")
        ours, theirs = read_extra_body(value, merged, _KNOWN_IN_BODY, OWN_FIELDS, REFUSED_FIELDS)
        merged = {**merged, **ours, **({"extra_body": theirs} if theirs else {})}
    if "extra_headers" in merged:
        headers, betas = read_extra_headers(merged.pop("extra_headers"))
        if headers:
            merged["extra_headers"] = headers
        if betas:
            named = merged.get("betas", ())
            merged["betas"] = [*(named if isinstance(named, list | tuple) else [named]), *betas]
    return merged


def _check_names(fields: Mapping[str, object]) -> None:
    for name in fields:
        if name not in _ALL_FIELDS and not _says_nothing(name, fields[name]):
            raise _unknown(name)


def _says_nothing(name: str, value: object) -> bool:
    return (value is None and name in REFUSED_FIELDS) or (name == "stream" and value is False)


def _unknown(name: object) -> InvalidRequest:
    if not isinstance(name, str):
        return wrong("request", f"holds a key that is not a string: {kind(name)}.")
    if name in REFUSED_FIELDS:
        return wrong(name, REFUSED_FIELDS[name])
    field = shown(name)
    near = get_close_matches(name, _ALL_FIELDS, n=1, cutoff=0.6) if field == name else []
    return wrong(field, "unknown key." + (f" Did you mean {near[0]}?" if near else ""))


def _model(value: object, settings: Settings) -> tuple[str, Model | None]:
    """The model's first-party id, and what is known of it: None where only a route names it."""
    if not isinstance(value, str):
        given = "is missing" if value is None else f"must be a string, is {kind(value)}"
        raise wrong("model", f"{given}; give a first-party id such as claude-sonnet-5-5.")
    model = known(value)
    if model is not None:
        return model.id, model
    if any(value in route.models for route in settings.routes.values()):
        return value, None
    if value in RETIRED:
        gone, newer = RETIRED[value].isoformat(), successor(value)
        instead = f"Use {newer}" if newer else "Use a newer model"
        raise _unknown_model(f"{value} was retired on {gone}. {instead}, or name its id in a route's models.")
    what = shown(value)
    near = near_matches(value) if what == value else []
    more = f"Did you mean {' or '.join(near)}?" if near else "Give a first-party id such as claude-sonnet-5-5."
    raise _unknown_model(f"no such model: {what}. {more}")


def _unknown_model(what: str) -> UnknownModel:
    return UnknownModel(f"model: {what}", field="model")


def _body(given: dict[str, object], model: Model | None) -> dict[str, object]:
    """The Messages API body, checked but for `max_tokens`."""
    body: dict[str, object] = {}
    if "prompt" in given:
        body["messages"] = [{"role": "user", "content": check_text(given["prompt"], "prompt")}]
    else:
        check_messages(given["messages"], prefill=model.prefill if model else None)
    for name, value in given.items():
        if name in OWN_FIELDS:
            continue
        check = BODY_FIELDS[name]
        if check is not None:
            check(value)
        body[name] = value
    if "metadata" in body:
        body |= _sent_metadata(body.pop("metadata"))
    if betas := body.pop("betas", None):
        body["anthropic_beta"] = list(dict.fromkeys(betas))  # type: ignore[call-overload]  # checked to be a list of names
    if "extra_headers" in given:
        body["extra_headers"] = given["extra_headers"]  # the worker takes it out
    if "extra_body" in given:
        body.update(given["extra_body"])  # type: ignore[call-overload]  # checked to be an object
    if "tool_choice" in body and not body.get("tools"):
        raise wrong("tool_choice", "needs tools.")
    return body


def _sent_metadata(metadata: object) -> dict[str, object]:
    """The field of the body with what a provider takes of the metadata; none where that is nothing."""
    sent = (
        {name: value for name, value in metadata.items() if name == "user_id"} if isinstance(metadata, Mapping) else {}
    )
    return {"metadata": sent} if sent else {}


def _warnings(body: Mapping[str, object], terms: _Terms, settings: Settings, left_s: float | None) -> tuple[str, ...]:
    """Return the warnings of a request, given the seconds before a deadline of its own."""
    found = terms.warnings
    if left_s is not None:
        pace = settings.of_class(terms.latency).pace
        short = short_deadline_text(terms.model, terms.max_tokens, left_s, pace)
        found = (*found, short) if short else found
    in_beta = () if "anthropic_beta" in body or BETA_FIELDS.isdisjoint(body) else BETA_FIELDS.intersection(body)
    if not in_beta:
        return found
    named = ", ".join(sorted(in_beta))
    warning = f"{named}: in beta; the API takes it only with the name of its beta in betas."
    return (*found, warning)
