"""An operation of the HTTP interface: its address, parameters, body and answers, declared once.

The declaration serves requests (unknown and wrong parameters are refused) and describes them (`trivet.gateway.openapi`).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError
from trivet.gateway.principal import Principal
from trivet.gateway.requests import read_json
from trivet.json_objects import as_json
from trivet_tasks.tenant_scope import TenantScope

MAX_SMALL_BODY = 64 * 1024
"""Maximum size of a body that is not a request of the Messages API, in bytes."""
Model = TypeVar("Model", bound=BaseModel)

Text = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A short text without control characters."""
BatchName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
JobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class Parameters(BaseModel):
    """Base of the parameters of an operation, and of its small bodies. An unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class NoParameters(Parameters):
    """No parameters."""


class JobPath(Parameters):
    """The address of a job."""

    id: JobId
    """The job's id."""


class BatchPath(Parameters):
    """The address of a batch."""

    name: BatchName
    """The batch's name; other characters than letters, digits, `-`, `_` and `.` are percent-encoded."""


class RoutePath(Parameters):
    """The address of a route."""

    name: Text
    """The route's name."""


class BudgetPath(Parameters):
    """The address of a budget."""

    name: Text
    """The budget's name."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request."""

    schema: str | type[Parameters]
    """Name of a component of the document, or a model that is read before the handler runs."""
    required: bool = True
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an operation."""

    description: str
    schema: str | None = None
    """Name of a component of the document; None: no body is described."""
    media_type: str = "application/json"
    many: bool = False
    """True: a list of these."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers and their descriptions."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request for an operation, checked."""

    request: Request
    gateway: Gateway
    principal: Principal
    path: Any
    """The operation's `path` model."""
    query: Any
    """The operation's `query` model."""
    body: Any
    """The operation's `body` model, where it is one."""

    @property
    def scope(self) -> TenantScope | None:
        """Return the work that the key may see; None: all."""
        return None if self.principal.admin else TenantScope(self.principal.tenant)

    @property
    def by(self) -> str:
        """Return the author of a change, for events."""
        return f"the key {self.principal.name}"

    @property
    def owner(self) -> bool:
        """Return whether changes are those of the work's owner, who undoes none of an operator's."""
        return not self.principal.admin

    async def run(self, work: Callable[[], "Result"]) -> "Result":
        """Run a blocking call in a thread of the gateway."""
        return await self.gateway.run(work)


Result = TypeVar("Result")
Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address."""

    method: str
    path: str
    handler: Handler
    """Its docstring is the operation's summary and description, its name the operation's id."""
    tag: str
    answers: Mapping[int, Answer]
    address: type[Parameters] = NoParameters
    """Parameters within the path."""
    query: type[Parameters] = NoParameters
    headers: Mapping[str, str] = field(default_factory=dict)
    """Optional request headers and their descriptions."""
    body: Body | None = None
    admin: bool = False
    """True: for admin keys alone."""
    errors: tuple[int, ...] = ()
    """Statuses beside those that every operation may answer with."""

    def route(self) -> Route:
        """Return the route that serves it."""
        return Route(self.path, self.serve, methods=[self.method], name=self.handler.__name__)

    async def serve(self, request: Request) -> Response:
        """Check a request and have it handled.

        Raises:
            ApiError: a parameter or the body is refused.
            AccessError: the key does not allow it.
            TrivetError: as the operation does.
        """
        gateway: Gateway = request.app.state.gateway
        principal = await gateway.access.admit(request.headers)
        if self.admin:
            principal.require_admin()
        path = read(self.address, request.path_params, missing=404)
        query = read(self.query, _single(request))
        body = None
        if self.body is not None and not isinstance(self.body.schema, str):
            body = await _small_body(request, self.body.schema)
        return await self.handler(Call(request, gateway, principal, path, query, body))


def read(model: type[Model], given: Mapping[str, Any], *, missing: int = 400) -> Model:
    """Return checked parameters.

    Raises:
        ApiError: one is wrong or not known; with the status `missing`.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"][:3])[:100]
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields) or "none"
            raise ApiError(missing, f"{name}: there is no such parameter here. Known: {known}.") from None
        raise ApiError(missing, f"{name}: {first['msg'][:1].lower()}{first['msg'][1:].rstrip('.')}.") from None


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of JSON, in the form that `--json` has."""
    return Response(as_json(value), status, headers, media_type="application/json")


def _single(request: Request) -> dict[str, str]:
    """Return the query parameters.

    Raises:
        ApiError: one is given twice.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise ApiError(400, f"{name[:100]}: is given twice.")
        found[name] = value
    return found


async def _small_body(request: Request, model: type[Parameters]) -> Parameters:
    """Return a small body; an empty one counts as `{}`."""
    if request.headers.get("content-length") == "0" or not (
        "content-length" in request.headers or "transfer-encoding" in request.headers
    ):
        return read(model, {})
    return read(model, await read_json(request, MAX_SMALL_BODY))
