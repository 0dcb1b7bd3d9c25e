"""The exception of a job without an answer, in a form that Celery's result backends can keep."""

from trivet_tasks.errors import TrivetError
from trivet_tasks.outcomes import OutcomeName


class JobFailed(TrivetError):
    """A job that ended without an answer: it failed, expired or was cancelled; or a batch with such jobs.

    Pickle and JSON keep it whole, so that `AsyncResult.get()` raises it in another process, too.

    Attributes:
        outcome: outcome of its last call, by the words of the outcome table; None where no call was made.
        job_id: id of the job, or name of the batch.
    """

    def __init__(self, job_id: str, message: str, outcome: OutcomeName | None = None) -> None:
        super().__init__(message)
        self.args = (job_id, message, outcome)  # what pickle and Celery's JSON make the copy from
        self.job_id = job_id
        self.outcome = outcome
