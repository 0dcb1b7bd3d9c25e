"""`trivet submit --stream`: the text of an answer as it comes."""

import sys
from typing import TYPE_CHECKING

import orjson
import typer

from trivet.cli import output
from trivet.cli.output import FAILED, print_error, print_line
from trivet.cli.results import came_from, print_result
from trivet_tasks.latency import Lane, Latency

if TYPE_CHECKING:
    from trivet.client.answer_streams import Broken
    from trivet.client.client import Client
    from trivet.client.jobs import Job
    from trivet.client.result import Result


def print_streamed(client: "Client", job: "Job", *, as_json: bool) -> None:
    """Print the text of a job's answer while it comes; an interrupt cancels the job.

    Exits with 1 where the answer does not come, or breaks off.

    Args:
        as_json: print the events instead, one a line.
    """
    from trivet.client.answer_streams import Broken, Ended

    began = False
    try:
        for item in client.events(job):
            match item:
                case Ended(result=result):
                    _print_end(result, as_json=as_json)
                case Broken():
                    _print_broken(job, item, began=began, as_json=as_json)
                case _:
                    began = True
                    _print_event(item.data, item.type, as_json=as_json)
    except KeyboardInterrupt:
        if job.cancel():
            print_error(f"\nInterrupted: job {job.id} is cancelled.")
        raise


def _print_event(data: bytes, kind: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(output.shown_json(data.decode()) + "\n")
    elif kind == "content_block_delta":
        text = orjson.loads(data)["delta"].get("text")
        if not isinstance(text, str):
            return
        sys.stdout.write(output.shown(text))
    sys.stdout.flush()


def _print_end(result: "Result", *, as_json: bool) -> None:
    if not as_json:
        print()  # noqa: T201
        print_line(came_from(result), style="dim")


def _print_broken(job: "Job", broken: "Broken", *, began: bool, as_json: bool) -> None:
    if began:
        if not as_json:
            print()  # noqa: T201
        print_error(f"trivet: the answer of job {job.id} broke off ({broken.outcome}): {broken.message}")
    if broken.result is None:
        _leave(job)
    elif not began:
        print_result(broken.result, as_json=as_json)
    raise typer.Exit(FAILED)


def _leave(job: "Job") -> None:
    """Cancel the job where somebody was meant to wait for it; else say how to wait on."""
    if Latency(job.look().latency).lane is Lane.REALTIME:
        job.cancel()
    else:
        print_error(f"The job goes on: trivet job result {job.id} --wait")
