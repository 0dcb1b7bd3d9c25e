"""What all tests share: a PostgreSQL server for those that ask for one."""

pytest_plugins = ["tests.postgres"]
