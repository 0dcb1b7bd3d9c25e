"""Fixtures of all tests: the same surroundings on every machine, and a PostgreSQL server for those that ask for one."""

from tests import surroundings

surroundings.settle()  # before any other module of the suite or of the product is imported

from hypothesis import HealthCheck, settings  # noqa: E402 - see above

# how fast a machine draws examples says nothing of the product
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = ["tests.postgres", "tests.databases", "tests.unchanged"]
