"""SQL and shared state together, as a test of restoring drives them."""

import redis
from tests.store.world import World as StoreWorld
from tests.unit.breakers_world import HEALTH, MODEL, ROUTE, Breaker, World

from trivet_routing.limits import Limits
from trivet_routing.permits import Quota
from trivet_routing.route_directory import RouteDirectory
from trivet_scheduler.restoring import Restorer
from trivet_store.cluster import health, registry
from trivet_store.database.engine import Store
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.states import RouteState

GROUP = "claude-haiku-*+claude-opus-5"
SETTINGS = Settings(
    routes={
        ROUTE: RouteSettings.model_validate(
            {
                "provider": "bedrock",
                "requests_per_minute": 600,
                "input_tokens_per_minute": 60_000,
                "max_concurrency": 10,
                "limits": [{"models": GROUP.split("+"), "requests_per_minute": 600, "max_concurrency": 5}],
            }
        )
    },
    health=HEALTH,
)


class Backends:
    """SQL and shared state of one Trivet."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.sql = StoreWorld(store)
        self.store = store
        with store.write() as connection:
            registry.register(store, connection, SETTINGS.routes)

    def breaker(self, model: str = MODEL) -> Breaker:
        return self.world.breaker(model, Quota.of(SETTINGS.routes[ROUTE], model))

    def restorer(self, client: redis.Redis | None = None) -> Restorer:
        client = client or self.world.client
        return Restorer(self.store, client, RouteDirectory(self.store, Limits(client, SETTINGS.health)), SETTINGS)

    def note(self, model: str, state: str, cause: str, seconds: float = 0.0, *, ago_s: float = 0.0) -> None:
        """Write down a change of a breaker, as the recorder does."""
        with self.store.write() as connection:
            health.note(connection, ROUTE, model, RouteState(state), cause, self.store.now(connection) - ago_s, seconds)
