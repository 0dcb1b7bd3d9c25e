"""`generate`: a task for the user's own Celery application that is a job of Trivet.

It runs twice. The first run submits the job and ends without a result: no slot of the user's workers is taken while the
job waits and runs. When the job has ended, a scheduler sends the task again (`resumption.py`), and the second run
returns the answer, so that Celery itself stores the result and goes on with chain, chord and callbacks. The delivery
is repeated until that is done. The key of the job is made of the task's id: a message that comes twice, or a worker that
is killed, makes no second call.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from celery import shared_task, states
from celery.app.task import get_actual_ignore_result
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_task_logger

from trivet.celery.answers import Failed, Returns, answer_of, answers_of, check_choice, may_go_better
from trivet.celery.failures import JobFailed
from trivet.celery.generate_task import MANY, GenerateTask
from trivet.celery.process_client import process_client
from trivet.celery.prompt_template import check_values, with_prompt
from trivet.celery.resumption import delivery_of, resuming
from trivet.client.delivery import Delivery
from trivet_tasks.callbacks import Callback
from trivet_tasks.errors import (
    BatchTaken,
    BrokerUnavailable,
    InvalidRequest,
    NotFound,
    StoreError,
    StoreUnavailable,
    TrivetError,
)
from trivet_tasks.states import END_STATES

log = get_task_logger("trivet.celery")

RUN_S = 30.0
"""Seconds for which a resumed run keeps other runs out: it reads an answer, stores it and sends a message. If it is
killed, the next may begin then."""
LONGEST_WAIT_S = 60
"""Maximum seconds between two tries to submit, e.g. while Trivet's database does not answer."""


@shared_task(bind=True, base=GenerateTask, name="trivet.generate")  # type: ignore[untyped-decorator] # Celery has no types
def generate(self: GenerateTask, *given: Any, returns: Returns = "text", max_retries: int = 0, **request: Any) -> Any:
    """Make a Claude call through Trivet, and return the answer to the next task.

    Args:
        given: values for {0}, {1}, … of `prompt`, mostly handed on by the task before.
        returns: "text", "message" (the message of the Messages API), or "result" (a dict with text, usage, cost, route).
        max_retries: number of times that a failed job runs again, with all its rounds, where that makes sense: never
            after a bad request.
        request: fields of `trivet.SubmitParams`: `prompt` or `messages`, `model`, `max_tokens`, `latency`, `tenant`, …

    Raises:
        InvalidRequest: a field is wrong, and is named; or the configuration has no `[celery_apps.NAME]` for this
            application, and the text says where to add it. Nothing was submitted.
        ConfigError: the configuration is wrong, or there is none.
        JobFailed: the job failed, expired or was cancelled; `.outcome` says how.

    Example:
        chain(load.s(url), generate.s(model="claude-sonnet-5-5", max_tokens=300, prompt="Summarise: {0}"), save.s())
    """
    options = {"returns": returns, "max_retries": max_retries}
    name = delivery_of(self.request)
    if name is not None:
        return _resume(name, given, options)
    check_choice("returns", returns, Returns)
    if not isinstance(max_retries, int) or max_retries < 0:
        raise InvalidRequest("max_retries: must be a whole number from 0.", field="max_retries")
    _refuse_own_fields(request)
    filled = with_prompt(request, given)
    if self.request.called_directly or self.request.is_eager:
        return answer_of(process_client().submit(**filled).result(), returns)
    callback = _begin(self, options)
    try:
        process_client().submit(**filled, key=f"celery:{self.request.id}", on_done=callback)
    except (StoreError, BrokerUnavailable) as error:
        _try_later(self, error)
    raise Ignore(f"its job is in Trivet's database under the key celery:{self.request.id}")


@shared_task(bind=True, base=GenerateTask, name=MANY)  # type: ignore[untyped-decorator] # as above
def generate_many(
    self: GenerateTask,
    values: Sequence[Any] = (),
    *,
    star: bool = False,
    returns: Returns = "text",
    failed: Failed = "raise",
    **request: Any,
) -> list[Any]:
    """Make a Claude call for each of these values, as one batch, and return the answers in their order.

    `generate.map` and `generate.starmap` make its signatures.

    Args:
        star: each value is a sequence of {0}, {1}, …; False: each is {0}.
        failed: "none" puts None in the places of failed requests; "raise" raises JobFailed with their number.
    """
    options = {"returns": returns, "failed": failed}
    name = delivery_of(self.request)
    if name is not None:
        return list(_resume(name, (values,), options))
    check_choice("returns", returns, Returns)
    check_choice("failed", failed, Failed)
    _refuse_own_fields(request)
    check_values(values, star=star)
    requests = [with_prompt(request, value if star else (value,)) for value in values]
    if not requests:
        return []
    if self.request.called_directly or self.request.is_eager:
        batch = process_client().submit_many(requests)
        batch.wait()
        return answers_of(batch, returns, failed)
    callback = _begin(self, options)
    try:
        process_client().submit_many(requests, name=f"celery-{self.request.id}", on_done=callback)
    except (StoreError, BrokerUnavailable, BatchTaken) as error:  # taken: a message that came twice fills it, too
        _try_later(self, error)
    raise Ignore(f"its batch is in Trivet's database under the name celery-{self.request.id}")


def _refuse_own_fields(request: Mapping[str, Any]) -> None:
    hints = {
        "key": "A task with the same `task_id` has the same job.",
        "on_done": "Use `link=`, or the next task of a chain.",
    }
    for field in hints:
        if field in request:
            raise InvalidRequest(f"{field}: is set by `generate` itself.", field=field, hint=hints[field])


def _begin(task: GenerateTask, options: dict[str, Any]) -> Callback:
    """Show a first run as started, and return the callback that resumes it."""
    request = task.request
    if not task.app.main:
        hint = 'Name it, e.g. Celery("shop"), and its broker in [celery_apps.shop] of Trivet\'s configuration.'
        raise InvalidRequest("The Celery application of this task has no name.", field="app", hint=hint)
    if not {"json", "application/json"} & set(task.app.conf.accept_content):
        raise InvalidRequest(
            "The workers of this Celery application do not accept JSON, in which the task is sent again.",
            field="app",
            hint='Add "json" to `accept_content`.',
        )
    again = request.retries > 0 or (request.delivery_info or {}).get("redelivered")
    if not again and not get_actual_ignore_result(task, request):  # one that comes late must not overwrite a result
        _show_started(task)
    return Callback(request.id, task.app.main, resuming(task, options), confirmed=True)


def _show_started(task: GenerateTask) -> None:
    try:
        if task.backend.get_state(task.request.id) in states.READY_STATES:  # a message that was sent again later
            return
        task.update_state(state=states.STARTED, meta={})
    except Exception as error:  # of any backend: the job matters more than its state there
        log.warning("the state of the task %s was not stored: %s", task.request.id, type(error).__name__)


def _try_later(task: GenerateTask, error: TrivetError) -> NoReturn:
    """Have Celery run the task again after a while: nothing is known to be submitted, and the key makes it safe."""
    wait_s = min(2**task.request.retries, LONGEST_WAIT_S)
    try:
        raise task.retry(exc=StoreUnavailable(str(error)), countdown=wait_s)
    except Reject as rejected:  # the application's broker is away, too: it has the message still
        raise Reject(rejected.reason, requeue=True) from None


def _resume(name: str, given: Sequence[Any], options: dict[str, Any]) -> Any:
    """Return the answer of the job or batch that has ended. Raises as `generate` does."""
    try:
        delivery = Delivery(process_client(), name, given[0] if given else {})
        if not delivery.begin(RUN_S):
            if delivery.job is not None:
                delivery.job.look()  # NotFound where it was deleted meanwhile
            raise Ignore("its result is returned by another run")
        if delivery.batch is not None:
            return answers_of(delivery.batch, options["returns"], options["failed"])
        assert delivery.job is not None
        result = delivery.job.result(timeout=0)
        allowed = options["max_retries"] if may_go_better(result) else 0
        retried = allowed > 0 and delivery.retries < allowed
        again = retried and delivery.job.retry()
        if retried and not again and delivery.job.look().state not in END_STATES:
            raise Ignore("its job runs again, by another's retry")
    except JobFailed:
        raise
    except NotFound as error:
        raise JobFailed(name, str(error)) from None
    except TrivetError as error:
        log.warning("the result of the task %s cannot be read now, and is delivered again: %s", name, error)
        raise Ignore("its result cannot be read now") from None
    if again:
        said = result.error.message if result.error else ""
        raise Retry(exc=JobFailed(result.id, said, result.error.outcome if result.error else None))
    return answer_of(result, options["returns"])
