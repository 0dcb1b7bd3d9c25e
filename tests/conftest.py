"""What all tests share: the same surroundings on every machine, and a PostgreSQL server for those that ask for one."""

from tests import surroundings

surroundings.settle()  # before any other module of the suite or of the product is imported

pytest_plugins = ["tests.postgres", "tests.unchanged"]
