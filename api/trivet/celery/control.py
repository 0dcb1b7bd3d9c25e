"""Remote control: `revoke` of a job's id cancels the job; all else goes to the workers, which answer inspection only."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.app.control import Control as CeleryControl

from trivet_tasks.errors import NotFound

_CANCELS = ("revoke", "terminate")
_NODE = "trivet"
"""Name of the node that answers for the database."""
Reply = dict[str, dict[str, str]]


class Control(CeleryControl):  # type: ignore[misc] # Celery has no types
    """Celery's remote control, except that it cancels jobs in the database, where they are."""

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *args: Any,
        reply: bool = False,
        callback: Callable[[Reply], object] | None = None,
        **options: Any,
    ) -> Any:
        """Send a command to the workers; cancel the jobs of a `revoke` instead. See Celery for the arguments."""
        task_ids = (arguments or {}).get("task_id")
        if command not in _CANCELS or not task_ids:
            return super().broadcast(command, arguments, *args, reply=reply, callback=callback, **options)
        replies = [self._cancel(job_id) for job_id in _listed(task_ids)]
        if callback is not None:
            for each in replies:
                callback(each)
        return replies if reply else None

    def purge(self, connection: Any = None) -> int:
        """Remove nothing: a message is a hint, and its jobs would be dispatched again at once. Returns 0."""
        del connection
        return 0

    discard_all = purge

    def _cancel(self, job_id: str) -> Reply:
        try:
            cancelled = self.app.trivet_client.job(job_id).cancel()
        except NotFound as error:
            return {_NODE: {"error": str(error)}}
        return {_NODE: {"ok": f"job {job_id} cancelled" if cancelled else f"job {job_id} had ended before"}}


def _listed(task_ids: str | Iterable[str]) -> list[str]:
    return [task_ids] if isinstance(task_ids, str) else list(task_ids)
