"""The owner of a request, as its key says: permissions, and what the key fixes in every request."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from trivet_tasks.catalog import known
from trivet_tasks.gateway_keys import KEY_TAG, KeyTerms
from trivet_tasks.latency import Latency
from trivet_tasks.requests.reading import unwrapped
from trivet_tasks.requests.request_messages import shown, wrong
from trivet_tasks.requests.request_terms import read_latency, read_names, read_tags


class AccessError(Exception):
    """The root of what a gateway answers where a key does not allow a request. Its text is for the caller."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unauthenticated(AccessError):
    """There is no key, or it is not valid: status 401. The same words for a wrong, a revoked and an expired key."""


class Forbidden(AccessError):
    """The key does not allow this: status 403. Names what, and what it does allow."""


class RateLimited(AccessError):
    """The key's rate or its budget is used up: status 429."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds until another try may succeed; None: only once somebody raises the budget."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The key that a request came with. Empty collections allow all.

    Example:
        job = client.submit(**principal.bind({"model": "claude-haiku-4-5", "max_tokens": 100, "messages": […]}))
    """

    key_id: str
    name: str
    tenant: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    classes: frozenset[Latency] = frozenset()
    models: tuple[str, ...] = ()
    """Patterns as of a shell."""
    residency: tuple[str, ...] = ()
    compliance: tuple[str, ...] = ()
    budget: str | None = None
    requests_per_minute: int | None = None
    admin: bool = False

    @classmethod
    def of(cls, key_id: str, terms: KeyTerms) -> "Principal":
        """Return the principal of a key."""
        return cls(
            key_id, terms.name, terms.tenant, dict(terms.tags), frozenset(terms.classes), terms.models, terms.residency,
            terms.compliance, terms.budget, terms.requests_per_minute, terms.admin,
        )  # fmt: skip

    def bind(self, request: Mapping[str, Any], *, default_class: Latency = Latency.INTERACTIVE) -> dict[str, Any]:
        """Return a request for `Client.submit`, with all that the key fixes. Call it for every request, batch lines too.

        Its tenant is the key's. The key's tags win over the request's, and the tag `trivet_key` is the key's name. The
        key's residency and compliance are added.

        Args:
            request: the body of the Messages API with Trivet's own fields, or a line of Anthropic's batches.
            default_class: the latency class where the request names none.

        Raises:
            Forbidden: it names a model, a class or a tenant that the key does not allow, or the tag `trivet_key`.
            InvalidRequest: one of these fields is wrong.
        """
        request = unwrapped(request)
        if "params" in request or "custom_id" in request:  # whoever reads the request would unwrap it once more
            raise wrong("params", "holds another params or custom_id; give the body of a request.")
        latency = read_latency(request.get("latency") or default_class.value)
        tags = read_tags(request.get("tags"))
        residency = read_names(request.get("residency"), "residency")
        compliance = read_names(request.get("compliance"), "compliance")
        tenant = request.get("tenant")
        self.check_request(model=request.get("model"), latency=latency, tenant=tenant, tags=tags)
        bound = {
            **request,
            "latency": latency.value,
            "tags": {**tags, **self.tags, KEY_TAG: self.name},
            "residency": sorted({*residency, *self.residency}),
            "compliance": sorted({*compliance, *self.compliance}),
            "tenant": tenant if self.tenant is None else self.tenant,
        }
        unset = ("residency", "compliance", "tenant")
        return {name: value for name, value in bound.items() if value or name not in unset}

    def check_request(
        self, *, model: object, latency: Latency, tenant: object = None, tags: Collection[str] = ()
    ) -> None:
        """Check what a request asks for against what the key allows. `bind` does.

        Raises:
            Forbidden: names what is not allowed, and what is.
        """
        self.check_model(model)
        if self.classes and latency not in self.classes:
            allowed = ", ".join(one.value for one in Latency if one in self.classes)
            raise Forbidden(f"latency: the key {self.name} does not allow {latency.value}. It allows {allowed}.")
        if not self._may_name(tenant):
            owner = f"of the tenant {self.tenant}" if self.tenant is not None else "without a tenant"
            raise Forbidden(f"tenant: the key {self.name} is {owner}. Leave the field out.")
        if KEY_TAG in tags:
            raise Forbidden(f"tags.{KEY_TAG}: this tag is set by the gateway to the key's name. Leave it out.")

    def check_model(self, model: object) -> None:
        """Check that the key allows a model, e.g. of `count_tokens`. A value that is no text is left to whoever reads it.

        Raises:
            Forbidden: it does not.
        """
        if isinstance(model, str) and not self.allows_model(model):
            raise Forbidden(
                f"model: the key {self.name} does not allow {shown(model)}. It allows {', '.join(self.models)}."
            )

    def allows_model(self, model: str) -> bool:
        """Return whether the key allows a model, by its id or an alias."""
        entry = known(model)
        names = (model,) if entry is None else (model, entry.id)
        return not self.models or any(fnmatchcase(name, pattern) for name in names for pattern in self.models)

    def sees(self, tenant: str | None) -> bool:
        """Return whether jobs, batches, costs of a tenant may be shown to the key; None: what has no tenant.

        A key of a tenant sees that tenant's, a key without one what has none, an admin key all. Answer as if there were
        nothing (404) where this is False.
        """
        return self.admin or tenant == self.tenant

    def require_admin(self) -> None:
        """Check that this is an admin key.

        Raises:
            Forbidden: it is not.
        """
        if not self.admin:
            raise Forbidden(
                f"The key {self.name} may not do this: it needs an admin key (`trivet keys create NAME --admin`)."
            )

    def _may_name(self, tenant: object) -> bool:
        return tenant is None or self.admin or tenant == self.tenant
