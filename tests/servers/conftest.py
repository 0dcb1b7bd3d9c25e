"""Real servers as people run them: what Debian packages give, before and beside those of the other tests."""

from tests.servers.databases import pgbouncer

__all__ = ["pgbouncer"]
