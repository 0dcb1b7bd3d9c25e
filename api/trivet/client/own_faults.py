"""Faults of Trivet's own in work that many wait for: they are logged, and keep nobody waiting for nothing."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from trivet_tasks.errors import TrivetError, place_of

T = TypeVar("T")

log = logging.getLogger("trivet")

AGAIN_S = 0.5
"""Seconds until work that ended by a fault begins anew."""


async def kept_up(work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
    """Run work for ever. After a fault of Trivet's own it begins anew.

    Args:
        work: makes the coroutine.
        what: what is late then, for the log, e.g. "streamed answers are".
    """
    while True:
        try:
            await work()
        except Exception as error:
            log.error("%s late by a fault of Trivet's own: %s", what, place_of(error))
        await asyncio.sleep(AGAIN_S)


def read_apart(read: Callable[[Sequence[str]], Mapping[str, T]], ids: Sequence[str]) -> dict[str, T | TrivetError]:
    """Read jobs together; one by one after a fault of Trivet's own, so that a job that cannot be read is the only one.

    Returns:
        What was read, or the error, by job.

    Raises:
        TrivetError: as `read` does; nothing was read.
    """
    found: dict[str, T | TrivetError] = {}
    try:
        found.update(read(ids))
    except TrivetError:
        raise
    except Exception as fault:
        log.error("%d jobs cannot be read together by a fault of Trivet's own: %s", len(ids), place_of(fault))
        for job_id in ids:
            try:
                found.update(read([job_id]))
            except TrivetError:
                raise
            except Exception as error:
                log.error("the job %s cannot be read by a fault of Trivet's own: %s", job_id, place_of(error))
                found[job_id] = TrivetError(f"The job {job_id} cannot be read by a fault of Trivet's own; see the log.")
    return found
