"""The class of the `generate` tasks: hidden arguments, batches by `map`, and the confirmation of a finished run."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import islice
from typing import Any

from celery import Task, group
from celery.canvas import Signature
from celery.signals import task_revoked
from celery.utils.log import get_task_logger

from trivet.celery.failures import JobFailed
from trivet.celery.hidden_arguments import hidden
from trivet.celery.process_client import process_client
from trivet.celery.prompt_template import check_values
from trivet.celery.resumption import delivery_of
from trivet.client.delivery import Delivery
from trivet_tasks.errors import ConfigError, InvalidRequest, TrivetError

log = get_task_logger("trivet.celery")

MANY = "trivet.generate_many"
"""Name of the task behind `map` and `starmap`."""


class GenerateTask(Task):  # type: ignore[misc] # Celery has no types
    """A task that hands its work to Trivet and takes no slot of its worker until the answer is there."""

    Request = "trivet.celery.hidden_arguments:HiddenRequest"
    acks_late = True
    """True: a message that is delivered again finds the job of the first one."""
    reject_on_worker_lost = True
    track_started = False
    """False, since a message that comes late would overwrite a failure: the first run writes STARTED itself."""
    max_retries = None
    """None: it waits for Trivet's database as long as that is away. Retries of a job are counted apart."""
    throws = (JobFailed, InvalidRequest, ConfigError)
    resultrepr_maxsize = 0
    typing = False

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: dict[str, Any] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """Send the task. See Celery for the arguments."""
        return super().apply_async(args, kwargs, *rest, **{**options, **hidden(args, kwargs)})

    def map(self, it: Iterable[Any] | None = None, **request: Any) -> Signature:
        """Return the signature of one batch with a request for each value.

        Its result is the list of answers, in the order of the values.

        Args:
            it: values, each of which is {0} of the prompt; None: the list that the task before hands on.
            request: as for `generate`, without `max_retries`; `failed="none"` puts None in the places of failed requests.

        Example:
            chain(list_documents.s(), generate.map(model="claude-haiku-4-5", max_tokens=50, prompt="Topic of: {0}"))
        """
        return self._many(it, request, star=False)

    def starmap(self, it: Iterable[Sequence[Any]] | None = None, **request: Any) -> Signature:
        """Return the signature of one batch, as `map` does, with {0}, {1}, … from each sequence of values."""
        return self._many(it, request, star=True)

    def chunks(self, it: Iterable[Sequence[Any]], n: int, **request: Any) -> group:
        """Return a group of batches with `n` sequences of values each, as `starmap` takes them."""
        values = iter(it)
        parts = iter(lambda: list(islice(values, n)), [])
        return group([self.starmap(part, **request) for part in parts], app=self.app)

    def on_success(self, retval: Any, task_id: str, args: Sized, kwargs: dict[str, Any]) -> None:
        """Confirm the delivery: Celery has stored the result and sent what follows."""
        del retval, task_id, kwargs
        self._confirm(args)

    def on_failure(self, exc: Exception, task_id: str, args: Sized, kwargs: dict[str, Any], einfo: Any) -> None:
        """Confirm the delivery of a failed job. After a fault of Celery's own it comes again."""
        del task_id, kwargs, einfo
        if isinstance(exc, JobFailed):
            self._confirm(args)

    def _confirm(self, args: Any) -> None:
        name = delivery_of(self.request)
        if name is not None:
            confirm(name, args)

    def _many(self, it: Iterable[Any] | None, request: dict[str, Any], *, star: bool) -> Signature:
        task = self.app.tasks[MANY]
        args: tuple[Any, ...] = ()
        if it is not None:
            args = (it if isinstance(it, str | bytes | Mapping) else list(it),)
            check_values(*args, star=star)
        return task.signature(args, {**request, "star": star}, immutable=it is not None)


def confirm(name: str, args: Any) -> None:
    """Note that the task of a delivery is done. Without the database the delivery comes again."""
    try:
        Delivery(process_client(), name, args[0]).confirm()
    except TrivetError as error:
        log.warning("the end of the task %s was not noted; it may run again: %s", name, error)


@task_revoked.connect  # type: ignore[untyped-decorator] # Celery has no types
def _confirm_revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
    """Confirm the delivery of a revoked task: Celery has dropped its message, and would drop the next."""
    name = delivery_of(request) if isinstance(sender, GenerateTask) else None
    if name is not None and request.args:
        confirm(name, request.args)
