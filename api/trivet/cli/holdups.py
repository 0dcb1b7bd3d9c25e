"""What blocks the job or batch that a command waits for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.admin import Blocked, Progress
    from trivet.client.client import Client
    from trivet.client.job import Job


def job_held_up(client: "Client", job: "Job") -> "Blocked":
    """Return what blocks one job."""
    from trivet.admin.blocked import blocked_job

    return blocked_job(client._connections, job.look())


def batch_held_up(client: "Client", progress: "Progress") -> "Blocked":
    """Return what blocks a batch, or a part of it."""
    from trivet.admin.blocked import blocked_batch

    return blocked_batch(client._connections, progress)
