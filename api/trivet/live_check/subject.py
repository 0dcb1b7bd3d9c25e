"""The subject of a check: the models of a route, their names on its wire, and the figures set for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trivet.live_check.report import Kind
from trivet_tasks.catalog import MODELS, known
from trivet_tasks.config.route_settings import LimitGroup, RouteSettings
from trivet_tasks.requests.eligibility import name_on_wire

_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Subject:
    """One route and the models to look at."""

    name: str
    route: RouteSettings
    wire: Mapping[str, str]
    """First-party id to the id on the wire, as workers would ask for it."""
    named: frozenset[str]
    """Models that the configuration or the person names: that one of them is missing is an error, not a remark."""
    unmapped: tuple[str, ...]
    """Named models that this route has no id for."""
    whole: bool
    """True if these are all models that the route may serve."""

    @property
    def table(self) -> str:
        """The route's table in `trivet.toml`."""
        return f"[routes.{self.name}]"

    def figure(self, model: str, kind: Kind) -> int | None:
        """Return the figure set for a model, `None` where none is. For `TOKENS`: the sum of input and output."""
        if kind is Kind.TOKENS:
            given = [self.figure(model, Kind.INPUT), self.figure(model, Kind.OUTPUT)]
            return sum(figure for figure in given if figure) or None
        if kind is Kind.TOKENS_PER_DAY:
            return None
        holder: LimitGroup | RouteSettings = self.route.group_of(model) or self.route
        value: int | None = getattr(holder, kind.value)
        return value

    def holder(self, model: str) -> str:
        """Return the table of `trivet.toml` that has a model's figures."""
        group = self.route.group_of(model)
        return self.table if group is None else f"[[routes.{self.name}.limits]] models = {list(group.models)}"


def subject_of(name: str, route: RouteSettings, only: Sequence[str]) -> Subject:
    """The models of a route.

    `only`: first-party ids or aliases that the person named; else every model of the catalogue that the route has an id
    for, and those of the configuration.
    """
    asked = [_plain(model) for model in only]
    configured = [_plain(model) for model in route.models]
    configured += [_plain(glob) for group in route.limits for glob in group.models if not _GLOB & set(glob)]
    candidates = asked or [*configured, *(model.id for model in MODELS)]
    wire: dict[str, str] = {}
    for model in dict.fromkeys(candidates):
        found = name_on_wire(route, model)
        if found is not None:
            wire[model] = found
    named = dict.fromkeys(asked or configured)
    return Subject(name, route, wire, frozenset(named), tuple(model for model in named if model not in wire), not asked)


def _plain(model: str) -> str:
    """An alias becomes its model's id; what the catalogue does not know stays."""
    entry = known(model)
    return entry.id if entry else model
