"""Titles of processes: `trivet worker bedrock-us-east-1 bulk` in `ps` and `top`, whatever started or forked them."""

import os
from collections.abc import Sequence

LONGEST_ROUTES = 80
"""Maximum number of characters of the routes' names."""
_KEEP_ENVIRONMENT = "SPT_NOENV"
"""Has setproctitle write into the space of the command line alone: `/proc/PID/environ` stays as it is."""


def set_title(*words: str) -> None:
    """Give this process the title `trivet WORD …`. No secret may be in it: every user of the machine can read it."""
    before = os.environ.get(_KEEP_ENVIRONMENT)
    os.environ[_KEEP_ENVIRONMENT] = "1"
    try:
        from setproctitle import setproctitle  # it looks at the variable

        setproctitle(" ".join(("trivet", *words)))
    finally:
        if before is None:
            del os.environ[_KEEP_ENVIRONMENT]


def served(routes: Sequence[str], configured: int) -> str:
    """Return the routes of a worker in one word.

    Args:
        configured: how many routes there are; several that are all are `all`.
    """
    return "all" if len(routes) == configured and configured > 1 else "+".join(routes)[:LONGEST_ROUTES]
