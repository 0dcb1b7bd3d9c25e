"""Remote control: `revoke` of a job's id cancels the job, `query_task` finds it; all else goes to the workers.

Workers answer inspection only.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from celery.app.control import Control as CeleryControl

from trivet_store.reports.results import JobRow
from trivet_tasks.errors import NotFound
from trivet_tasks.states import END_STATES, JobState

_CANCELS = ("revoke", "terminate")
_FINDS = "query_task"
_NODE = "trivet"
"""Name of the node that answers for the database."""
_CHUNK = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Task ids of messages; ids of jobs have no dashes."""
_STATES: Mapping[JobState, str] = {
    JobState.RUNNING: "active",
    JobState.DISPATCHED: "reserved",
    JobState.WAITING: "scheduled",
    JobState.DELAYED: "scheduled",
    JobState.COALESCED: "scheduled",
    **dict.fromkeys(END_STATES, "ready"),
}
"""Celery's word for the state of a task, by a job's."""
Reply: TypeAlias = dict[str, Any]


class Control(CeleryControl):  # type: ignore[misc] # Celery has no types
    """Celery's remote control, except that it cancels and finds jobs in the database, where they are."""

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *args: Any,
        reply: bool = False,
        callback: Callable[[Reply], object] | None = None,
        **options: Any,
    ) -> Any:
        """Send a command to the workers; cancel the jobs of a `revoke`, and find those of a `query_task`, instead.

        See Celery for the arguments.
        """
        given = dict(arguments or {})
        if command in _CANCELS and given.get("task_id"):
            replies = [self._cancel(job_id) for job_id in _listed(given["task_id"])]
        elif command == _FINDS and given.get("ids"):
            found, given["ids"] = self._found(_listed(given["ids"]))
            replies = [{_NODE: found}] if found else []
        else:
            return super().broadcast(command, arguments, *args, reply=reply, callback=callback, **options)
        if callback is not None:
            for each in replies:
                callback(each)
        if given.get("ids"):  # the workers know the rest, if anybody does
            asked = super().broadcast(command, given, *args, reply=reply, callback=callback, **options)
            replies += asked or []
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
            return {_NODE: {"error": self._told(job_id) or str(error)}}
        return {_NODE: {"ok": f"job {job_id} cancelled" if cancelled else f"job {job_id} had ended before"}}

    def _told(self, unknown: str) -> str:
        """Return what to do about an id of no job; nothing if it is not known to be anything else either."""
        if _CHUNK.fullmatch(unknown):
            return (
                f"{unknown} is no job but a message, which carries many. `trivet job cancel ID` and "
                "`trivet batch cancel NAME` stop jobs."
            )
        try:
            name = self.app.trivet_client.batch(unknown).name
        except NotFound:
            return ""
        return f"{name} is no job but a batch. `trivet batch cancel {name}` stops it."

    def _found(self, ids: list[str]) -> tuple[Reply, list[str]]:
        """Return the jobs that there are, by id, and the ids of no job."""
        jobs: Reply = {}
        unknown = []
        for job_id in ids:
            try:
                row = self.app.trivet_client.job(job_id).look()
            except NotFound:
                unknown.append(job_id)
            else:
                jobs[job_id] = [_STATES[row.state], _about(row)]
        return jobs, unknown


def _about(row: JobRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state.value,
        "class": row.latency,
        "model": row.model,
        "route": row.route,
        "batch": row.batch,
    }


def _listed(task_ids: str | Iterable[str]) -> list[str]:
    return [task_ids] if isinstance(task_ids, str) else list(task_ids)
