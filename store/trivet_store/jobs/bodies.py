"""Reading a job's request back."""

from sqlalchemy import Connection, text

_BODY = text("SELECT body FROM job_requests WHERE job_id = :id")


def request_body(connection: Connection, job_id: str) -> bytes | None:
    """Return the Messages API body of a job as JSON, without `model`; None when it is no longer kept."""
    body = connection.execute(_BODY, {"id": job_id}).scalar_one_or_none()
    return None if body is None else bytes(body)
