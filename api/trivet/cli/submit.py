"""`trivet submit`: one job in, and with `--wait` its answer out. `trivet bulk`: the same for a file of requests."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli import options, output
from trivet.cli.batch import print_joined, print_progress
from trivet.cli.options import (
    Cache,
    Dedupe,
    Json,
    WithRequest,
    read_prompt,
    read_request,
    read_tags,
    span_or_moment,
    stem_of,
)
from trivet.cli.output import FAILED, HELD_UP, print_error, print_line, print_warning
from trivet.cli.progress import Advance, bar, telling
from trivet.cli.submit_warnings import print_warnings, printed_instead_of_logged
from trivet.cli.waiting import wait_for
from trivet.json_objects import progress_object
from trivet.times import moment
from trivet_tasks.errors import InvalidRequest, NotFound, ResultTimeout
from trivet_tasks.states import BatchState

if TYPE_CHECKING:
    from trivet.admin import Progress
    from trivet.client.client import Client
    from trivet.client.jobs import Batch
    from trivet_tasks.config.settings import Settings
    from trivet_tasks.jobs import JobSpec
    from trivet_tasks.requests.jsonl import FileCheck

DEFAULTS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 1024}
"""Value for a request that names neither."""
ADVANCE_EVERY = 200
"""Requests between two steps of the bar while they are taken in."""
MAX_WARNINGS = 100
"""Different warnings that are counted."""
LONGEST_STEM = 180
"""Characters of a file's name in that of its batch, which has 200 at most."""


def submit(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A JSON file with a whole request; the options win over it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=f"First-party id. Default: {DEFAULTS['model']}.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help=f"Default: {DEFAULTS['max_tokens']}.")] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="realtime, interactive, batch (the default), async or deferred.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency: the same key never runs twice.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    deadline: Annotated[
        str | None,
        typer.Option(help="Time after which the result is worthless: 90s, 10m, 24h, or a moment in ISO 8601."),
    ] = None,
    not_before: Annotated[
        str | None, typer.Option(help="Time before which the job does not start, in the same forms.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Party that the work is done for.")] = None,
    residency: Annotated[
        list[str] | None, typer.Option(help="A place the route must declare; may be repeated.")
    ] = None,
    compliance: Annotated[
        list[str] | None, typer.Option(help="A regime the route must declare; may be repeated.")
    ] = None,
    cache: Cache = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answer and print it.")] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Print the text as it comes, in the class interactive. Ctrl-C cancels it. --json: the events, one a line.",
        ),
    ] = False,
    timeout: options.Timeout = None,
    as_json: Json = False,
) -> None:
    """Submit one job. Prints its id, or with --wait or --stream its text, route, latency and cost.

    Exit code 3: --timeout passed while the job was held up by something that is wrong.
    """
    from trivet.cli.results import print_result
    from trivet.cli.streamed import print_streamed
    from trivet_tasks.requests.reading import unwrapped

    limit_s = options.timeout_s(timeout)
    if stream and (wait or limit_s is not None):
        raise InvalidRequest("--stream: waits for the whole answer by itself; leave --wait and --timeout out.")
    given = {
        "prompt": read_prompt(prompt),
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
        "cache": cache,
    }
    request = {
        **DEFAULTS,
        **(unwrapped(read_request(file)) if file else {}),
        **{k: v for k, v in given.items() if v is not None},
    }
    if not file and "prompt" not in request:
        raise InvalidRequest(
            "There is no prompt.", hint="Give one, or - to read it from standard input, or --file request.json."
        )
    with options.client() as client:
        with printed_instead_of_logged():
            job = client.submit_streamed(**request) if stream else client.submit(**request)
        print_warnings(job.warnings)
        if stream:
            print_streamed(client, job, as_json=as_json)
            return
        if not wait and limit_s is None:
            output.print_json({"id": job.id, "warnings": job.warnings}) if as_json else print(job.id)  # noqa: T201
            return
        with telling(client.settings, lambda admin: admin.jobs.blocked(job.id), told=job.warnings):
            try:
                result = job.result(limit_s)
            except ResultTimeout as error:
                print_error(f"trivet: {error}\nTo wait on: trivet job result {job.id} --wait")
                raise typer.Exit(HELD_UP if error.held_up else FAILED) from None
            except KeyboardInterrupt:
                print_error(f"Interrupted. The job goes on: trivet job result {job.id} --wait")
                raise
        print_result(result, as_json=as_json)


def bulk(
    file: Annotated[
        Path,
        typer.Argument(
            help="A JSON Lines file: one request a line, as for `trivet submit --file`, or a line of Anthropic's batches; "
            "compressed with gzip too. A folder stands for its files that end with .jsonl or .jsonl.gz. - reads standard input."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="The batch's name. Default: the file's name without its ending, and a digest of its content and of the "
            "options that change its requests: the same command goes on with the same batch."
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Submit the same once more, as another batch: NAME-2, NAME-3, …."),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="With --name: if that batch is complete, go on with it, the file unread.")
    ] = False,
    dedupe: Annotated[
        Dedupe | None,
        typer.Option(
            help="tenant: a line whose key its tenant used before, for a single job or in another such batch, joins that "
            "job. Default: a key is the name of a line of this batch."
        ),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="realtime, interactive, batch (the default), async or deferred.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of the lines that name none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum tokens of the lines that do not set it.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant of the lines that name none.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value, for every job; may be repeated.")] = None,
    prompt_cache: Annotated[
        str | None,
        typer.Option(
            help="5m or 1h: read the common beginning of requests from the provider's prompt cache; one request warms it.",
            metavar="TIME",
        ),
    ] = None,
    cache: Cache = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out instead of refusing the file.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every job has ended.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Wait for the results and write them to this file. It is named FILE.part until all are there."
        ),
    ] = None,
    with_request: WithRequest = False,
    as_json: Json = False,
) -> None:
    """Submit a file of requests as one batch. Safe to interrupt: run it again and it continues where it stopped."""
    from trivet.cli.result_forms import check_lines
    from trivet.cli.results import ResultsFile
    from trivet_tasks.requests.sources import readable_twice

    if out is not None:
        check_lines(out)
    elif with_request:
        raise InvalidRequest("--with-request: goes with --out FILE.", field="with_request")
    if once and (again or name is None):
        raise InvalidRequest("--once: goes with --name NAME, and not with --again.", field="once")
    given = {
        "latency": latency,
        "model": model,
        "max_tokens": max_tokens,
        "tenant": tenant,
        "tags": read_tags(tag),
        "prompt_cache": prompt_cache,
        "cache": cache,
    }
    defaults = {key: value for key, value in given.items() if value is not None}
    with options.client() as client, ExitStack() as source:
        batch = _submitted_whole(client, name) if once and name else None
        check, chosen = None, name or ""
        if batch is None:
            path, called = source.enter_context(readable_twice(file))
            check = check_with_bar(
                path,
                client.settings,
                defaults,
                now=client.now(),
                skip_bad=skip_bad,
                dedupe=dedupe is not None,
                name=called,
            )
            for problem in check.problems:
                print_error(f"left out: {called.said(problem)}")
            if check.bad > len(check.problems):
                print_error(f"left out: {check.bad - len(check.problems):,} more bad lines")
            chosen = name or _name_of(file, check, defaults)
        if again:
            chosen = client.free_name(chosen)
        command = f"the same command with --name {quote(chosen)} instead of --again" if again else "the same command"
        # before any job is taken in: it may not be writable
        results = ResultsFile(out, with_request=with_request) if out else None
        with results or nullcontext():
            if batch is None and check is not None:
                batch = _take_in(client, check, chosen, defaults)
            assert batch is not None
            print_warnings(batch.warnings)
            source.close()  # a copy of standard input is not needed while it waits
            progress = wait_for(client, batch, results, command=command) if wait or results else batch.progress()
    waited = wait or results is not None
    _report(check, progress, out, batch.warnings, waited=waited, as_json=as_json)
    if (waited or progress.done) and progress.succeeded < progress.total:
        raise typer.Exit(FAILED)


def _name_of(file: Path, check: "FileCheck", defaults: dict[str, Any]) -> str:
    """Return the name of the batch of a file: its own without endings, and a digest of what decides its requests.

    contracts-0f3a1b2c4d
    """
    import orjson

    from trivet_tasks.requests.sources import is_read_once

    decisive = orjson.dumps([check.digest, check.dedupe, defaults], option=orjson.OPT_SORT_KEYS)
    stem = "stdin" if is_read_once(file) else stem_of(file) or file.resolve().name
    return f"{stem[:LONGEST_STEM]}-{blake2b(decisive, digest_size=5).hexdigest()}"


def _submitted_whole(client: "Client", name: str) -> "Batch | None":
    """Return the batch of this name if all its requests were taken in; None: there is none, or it is not complete."""
    try:
        batch = client.batch(name)
    except NotFound:
        return None
    return batch if batch.progress().state in (BatchState.OPEN, BatchState.CANCELLED) else None


def check_with_bar(
    file: Path,
    settings: "Settings",
    defaults: dict[str, Any],
    *,
    now: float,
    skip_bad: bool,
    dedupe: bool = False,
    each: "Callable[[JobSpec, int], None] | None" = None,
    name: str = "",
) -> "FileCheck":
    """Check a JSON Lines file of requests whole, with a bar on a terminal; see `check_file`.

    Args:
        defaults: laid under every request.
        now: seconds since the epoch.
        skip_bad: leave bad lines out instead of refusing the file.
        dedupe: a key is one of its tenant's.
        each: called with every good request and the number of its line.
        name: the file's name in messages; empty: its path.

    Raises:
        InvalidRequest: the file cannot be read, or some of its lines are bad; names the options that could fix them.
    """
    from trivet_tasks.requests.jsonl import check_file

    try:
        with bar(f"Checking {Path(name).name or file.name}", 0, unit="jobs") as advance:

            def tell(rows: int, share: float) -> None:
                advance(rows, about=round(rows / share))

            check = check_file(
                file, settings, defaults, now=now, skip_bad=skip_bad, dedupe=dedupe, tell=tell, each=each, name=name
            )
            tell(check.rows, 1.0)
            return check
    except KeyboardInterrupt:
        print_error(f"Interrupted. Nothing of {name or file} was submitted.")
        raise
    except InvalidRequest as error:
        for field in ("model", "max_tokens"):
            if any(problem.message.startswith(f"{field}: is missing") for problem in error.problems):
                error.hint += f"\n--{field.replace('_', '-')} gives one to all lines that lack it."
        raise


def _take_in(client: "Client", check: "FileCheck", name: str, defaults: dict[str, Any]) -> "Batch":
    """Submit the file, with a bar on a terminal and each warning once."""
    from trivet_tasks.requests.jsonl import read_file

    warnings: Counter[str] = Counter()
    try:
        with bar(f"Submitting {name}", check.rows, unit="jobs") as advance, printed_instead_of_logged():
            specs = _quietly(read_file(check, client.settings, defaults), warnings, advance)
            return client.submit_specs(specs, name=name, dedupe="tenant" if check.dedupe else None)
    except KeyboardInterrupt:
        print_error(
            f"Interrupted. Nothing of {name} runs yet: the same command takes in the rest, "
            f"trivet batch discard {quote(name)} deletes it."
        )
        raise
    finally:
        for warning, count in warnings.most_common(5):
            print_warning(f"{count:,} requests: {warning}" if count > 1 else warning)


def _quietly(specs: "Iterable[JobSpec]", warnings: Counter[str], advance: Advance) -> "Iterator[JobSpec]":
    """Pass the requests on; count their warnings instead of logging them one by one."""
    number = 0
    for number, spec in enumerate(specs, start=1):
        if number % ADVANCE_EVERY == 0:
            advance(number)
        if spec.warnings:
            warnings.update(said for said in spec.warnings if said in warnings or len(warnings) < MAX_WARNINGS)
            spec = replace(spec, warnings=())
        yield spec
    advance(number)


def _report(
    check: "FileCheck | None",
    progress: "Progress",
    out: Path | None,
    warnings: tuple[str, ...],
    *,
    waited: bool,
    as_json: bool,
) -> None:
    if as_json:
        bad = check.problems if check else ()
        problems = [{"where": problem.where, "message": problem.message} for problem in bad]
        more = {
            "requests": check.rows if check else progress.taken,
            "left_out": check.bad if check else 0,
            "submitted_before": _submitted_before(check, progress),
            "problems": problems,
            "results": str(out) if out else None,
            "warnings": warnings,
        }
        output.print_json({**progress_object(progress), **more})
        return
    if _submitted_before(check, progress):
        since = moment(progress.created_at)
        print_line(f"{progress.name} was submitted before, at {since}; --again submits the same once more.")
    if waited or progress.done:
        print_progress(progress)
        if out:
            print_line(f"Results: {out}")
    else:
        print_line(f"{progress.name}: {progress.total:,} jobs. Progress: trivet batch status {quote(progress.name)}")
        print_joined(progress)


def _submitted_before(check: "FileCheck | None", progress: "Progress") -> bool:
    """Return whether the batch was begun by an earlier command."""
    return check is None or progress.created_at < check.checked_at
