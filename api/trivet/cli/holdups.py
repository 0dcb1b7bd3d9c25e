"""Why the jobs that a command is about do not move, for a person."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from trivet.client import Client
    from trivet.holdup import Holdup
    from trivet_tasks.store.backlog import Line


def held_up(
    client: "Client", lines_of: "Callable[[Connection], Sequence[Line]]"
) -> "tuple[list[str], Sequence[Holdup]]":
    """The sentences, and what they come from; nothing where a route takes the jobs.

    Args:
        lines_of: reads what the jobs need of a route.
    """
    from trivet.holdup import holdups

    connections = client._connections
    with connections.store.read() as connection:
        lines = lines_of(connection)
    try:
        found = holdups(connections, lines)
    except redis.RedisError as error:
        return [str(connections.unavailable(error))], ()
    sentences = [holdup.sentence(named=len(found) > 1) for holdup in found]
    return (sentences or _idle_schedulers(client) if lines else sentences), found


def _idle_schedulers(client: "Client") -> list[str]:
    """What schedulers say that cannot dispatch: routes would take the jobs, and nobody sends them."""
    from trivet.cli.routes_words import idle_words
    from trivet_tasks.troubles import announced

    try:
        said = announced(client._connections.redis)
    except redis.RedisError:
        return []
    return [idle_words(one, time.time()) for one in said if one.part == "scheduler"]
