"""What blocks the job or batch that a command waits for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.admin.blockage import Blockage
    from trivet.client.client import Client
    from trivet.client.job import Job
    from trivet_store.jobs.batches import Progress


def job_held_up(client: "Client", job: "Job") -> "Blockage":
    """Return what blocks one job."""
    from trivet.admin.health import Health

    return Health(client._connections).blockage_of_job(job.id, job.state)


def batch_held_up(client: "Client", progress: "Progress") -> "Blockage":
    """Return what blocks a batch, or a part of it."""
    from trivet.admin.health import Health

    return Health(client._connections).blockage_of_batch(progress)
