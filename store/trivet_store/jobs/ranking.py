"""The rank of a job in the one order that all waiting jobs share.

Start-time fair queueing over tenants, or batches where there is no tenant, each with the weight of its class: a job
starts when its owner's last one finished, but never in the past.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from trivet_tasks.latency import ClassSettings, Latency

_VIRTUAL_NOW = text("SELECT rank FROM virtual_clock WHERE id = 1")
_ADVANCE_SHARE = text(
    """
    INSERT INTO shares (key, finish) VALUES (:key, :now + :span)
    ON CONFLICT (key) DO UPDATE
       SET finish = CASE WHEN shares.finish > :now THEN shares.finish ELSE :now END + :span
    RETURNING finish
    """
)


def places(
    connection: Connection,
    jobs: Sequence[tuple[Latency, str | None, str | None]],
    classes: Mapping[Latency, ClassSettings],
) -> list[float]:
    """Return the rank of each of these jobs, in order, behind those of the same owner.

    The owners' rows stay locked until the commit, in one order everywhere; they come before flows, jobs and batches.

    Args:
        jobs: the latency class, the tenant and the name of the batch of each.
    """
    now = connection.execute(_VIRTUAL_NOW).scalar() or 0.0
    by_line: dict[tuple[Latency, str | None, str | None], list[int]] = {}
    for index, line in enumerate(jobs):
        by_line.setdefault(line, []).append(index)
    by_share: dict[tuple[str, Latency], list[int]] = {}
    for (latency, tenant, batch), indexes in by_line.items():
        owner = f"tenant {tenant}" if tenant else f"batch {batch}" if batch else ""
        by_share.setdefault((owner, latency), []).extend(indexes)
    ranks = [0.0] * len(jobs)
    for (owner, latency), indexes in sorted(by_share.items()):
        step = 1.0 / classes[latency].share
        span = step * len(indexes)
        finish = connection.execute(
            _ADVANCE_SHARE, {"key": f"{latency} {owner}", "now": now, "span": span}
        ).scalar_one()
        for position, index in enumerate(indexes):
            ranks[index] = finish - span + step * position
    return ranks
