"""`trivet submit`: one job in, and with `--wait` its answer out."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from trivet.cli import context
from trivet_tasks.errors import InvalidRequest, ResultTimeout
from trivet_tasks.requests.strict_json import read_json
from trivet_tasks.states import JobState

if TYPE_CHECKING:
    from trivet.client.result import Result

DEFAULTS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 1024}
"""What a request has that names neither."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(submit)


def submit(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A JSON file with a whole request; the options win over it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=f"First-party id. Default: {DEFAULTS['model']}.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help=f"Default: {DEFAULTS['max_tokens']}.")] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    latency: Annotated[str | None, typer.Option(help="realtime, batch (the default), async or deferred.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency: the same key never runs twice.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Worthless after this: 90s, 10m, 24h, or a moment in ISO 8601.")
    ] = None,
    not_before: Annotated[str | None, typer.Option(help="Do not start earlier: the same forms.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whom the work is done for.")] = None,
    residency: Annotated[
        list[str] | None, typer.Option(help="A place the route must declare; may be repeated.")
    ] = None,
    compliance: Annotated[
        list[str] | None, typer.Option(help="A regime the route must declare; may be repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answer and print it.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="Wait at most this many seconds.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Submit one job. Prints its id, or with --wait its text, route, latency and cost.

    Exit code 3: --timeout passed while the job was held up by something that is wrong.
    """
    from trivet.cli.exit_codes import FAILED, HELD_UP
    from trivet.cli.holdups import job_held_up
    from trivet.cli.spans import span_or_moment
    from trivet.cli.tables import print_error
    from trivet.cli.telling import telling

    given = {
        "prompt": _read_prompt(prompt),
        "model": model,
        "max_tokens": max_tokens,
        "system": system,
        "latency": latency,
        "key": key,
        "tags": read_tags(tag),
        "deadline": span_or_moment(deadline),
        "not_before": span_or_moment(not_before),
        "tenant": tenant,
        "residency": residency or None,
        "compliance": compliance or None,
    }
    request = {**DEFAULTS, **(_read_request(file) if file else {}), **{k: v for k, v in given.items() if v is not None}}
    if not file and "prompt" not in request:
        raise InvalidRequest(
            "There is no prompt.", hint="Give one, or - to read it from standard input, or --file request.json."
        )
    if not file and max_tokens is None:
        logging.getLogger("trivet").setLevel(logging.ERROR)  # no warning about a max_tokens that nobody chose
    with context.client() as client:
        job = client.submit(**request)
        if not wait and timeout is None:
            context.print_json({"id": job.id}) if as_json else print(job.id)  # noqa: T201
            return
        with telling(lambda: job_held_up(client, job)) as teller:
            try:
                result = job.result(timeout)
            except ResultTimeout as error:
                then = "It stays" if teller.held else "It goes on"
                print_error(f"trivet: {error.message} {then}: trivet job result {job.id} --wait")
                raise typer.Exit(HELD_UP if teller.held else FAILED) from None
        print_result(result, as_json=as_json)


def print_result(result: "Result", *, as_json: bool) -> None:
    """Print the text of a result and where it came from. Exits with 1 when there is none."""
    from trivet.cli.result_json import result_line
    from trivet.cli.tables import print_error, print_line

    if as_json:
        sys.stdout.write(context.shown_json(result_line(result).decode()))
    elif result.succeeded:
        print(context.shown(result.text))  # noqa: T201
        print_line(_came_from(result), style="dim")
    elif result.pruned:
        print_error(f"trivet: job {result.id} {_ENDED[result.status]}; its result was pruned.")
        print_error(f"{_came_from(result)} · trivet job show {result.id}", style="dim")
    else:
        said = f"{result.error.outcome}: {result.error.message}" if result.error and result.error.outcome else ""
        said = said or (result.error.message if result.error else "")
        print_error(f"trivet: job {result.id} {_ENDED[result.status]}: {said}")
        if result.attempts:
            print_error(f"{_came_from(result)} · trivet job show {result.id}", style="dim")
    if not result.succeeded:
        raise typer.Exit(1)


def read_tags(given: list[str] | None) -> dict[str, str] | None:
    """`name=value` pairs as a request has them. InvalidRequest when one has no `=`."""
    tags: dict[str, str] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidRequest(f"--tag: {pair!r} must read name=value.", field="tags")
        tags[name.strip()] = value.strip()
    return tags or None


_ENDED: dict[str, str] = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "expired",
    JobState.CANCELLED: "was cancelled",
}


def _came_from(result: "Result") -> str:
    calls = len(result.attempts)
    parts = [
        result.route if not result.cached else "cache",
        result.model,
        context.seconds(result.latency_s),
        context.usd(result.cost_usd),
        f"{calls} attempt{'' if calls == 1 else 's'}",
    ]
    if result.stop_reason not in (None, "end_turn", "stop_sequence"):
        parts.append(f"stopped by {result.stop_reason}")
    return " · ".join(part for part in parts if part)


def _read_prompt(given: str | None) -> str | None:
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"prompt: standard input is not UTF-8 text (byte {error.start}).", field="prompt"
        ) from None


def _read_request(path: Path) -> dict[str, Any]:
    try:
        request = read_json(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}.") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}", field=error.field) from None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"{path}: is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    if not isinstance(request, dict):
        raise InvalidRequest(f"{path}: must hold one request as a JSON object.")
    return request
