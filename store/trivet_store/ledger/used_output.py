"""Recent lengths of answers, relative to their `max_tokens`."""

from typing import NamedTuple

from sqlalchemy import Connection, text


class UsedOutput(NamedTuple):
    """The latest good calls of one flow. Sums are output tokens."""

    flow_id: int
    model: str
    latency: str
    calls: int
    used: int
    allowed: int


# the newest calls by the index on their start, whatever their outcome: an outage must not make this a long scan
_LATEST = text(
    """
    SELECT j.flow_id, latest.model, latest.latency, count(*) AS calls, sum(latest.output_tokens) AS used,
           sum(j.max_tokens) AS allowed
      FROM (SELECT job_id, model, latency, outcome, purpose, output_tokens FROM attempts
             WHERE started_at >= :since ORDER BY started_at DESC LIMIT :most) AS latest
      JOIN jobs j ON j.id = latest.job_id
     WHERE latest.outcome = 'succeeded' AND latest.purpose = 'job' AND latest.output_tokens IS NOT NULL
     GROUP BY j.flow_id, latest.model, latest.latency
    """
)


def used_output(connection: Connection, since: float, most: int) -> list[UsedOutput]:
    """Return the output used by the answered ones among the newest calls, at most `most` of them, by flow."""
    return [
        UsedOutput(flow_id, model, latency, calls, int(used), int(allowed))
        for flow_id, model, latency, calls, used, allowed in connection.execute(_LATEST, {"since": since, "most": most})
    ]
