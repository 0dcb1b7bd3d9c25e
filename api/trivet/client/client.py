"""The client: what a producer imports."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

from uuid_utils import uuid7

from trivet.client.connections import Connected
from trivet.client.group_submit import submit_together
from trivet.client.jobs import Batch, Job
from trivet.client.lookup import find_by_id, find_by_key, find_newest, find_newest_batches
from trivet.client.submitting import fill_batch, submit_one
from trivet_store.jobs import batches
from trivet_store.reports import results
from trivet_store.reports.backlog import FlowRequirements, requirements_of_batch
from trivet_tasks.callbacks import Callback
from trivet_tasks.config.celery_apps import no_section
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable, InvalidRequest, StoreUnavailable, TrivetError, no_sdk
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.requests.reading import RequestReader, parse_request, parse_requests
from trivet_tasks.requests.submit_params import OnDone, RequestParams, StreamParams, SubmitParams
from trivet_tasks.signatures import read_callback
from trivet_tasks.tenant_scope import TenantScope

if TYPE_CHECKING:
    from trivet.client.answer_streams import AnswerStreams, StreamItem
    from trivet.client.streaming import JobStreamManager

log = logging.getLogger("trivet.requests")

MAX_WARNINGS = 100
"""Maximum number of different warnings that one client logs; each once, however many jobs it is about."""
MAX_NAME = 200
"""Maximum number of characters of a batch's name."""
Dedupe: TypeAlias = Literal["tenant"] | None
"""Scope of the keys of a batch; None: each names a request of that batch."""


class Client(Connected):
    """Submits jobs and reads their results. Thread-safe; may be made before a fork and used after it.

    Args:
        config: the configuration file; else `TRIVET_CONFIG`, or the nearest `trivet.toml` or running `trivet up`, in this
            folder or above; else `TRIVET_*` variables.
        settings: settings made elsewhere, instead of a file.

    Raises:
        ConfigError: the configuration is wrong, or there is none. The database is opened when first used.
    """

    def __init__(self, config: Path | str | None = None, *, settings: Settings | None = None) -> None:
        super().__init__(config, settings=settings)
        self._warnings: set[str] = set()

    def prepare(self) -> None:
        """Open the connections that an interactive job needs, so that the first one does not wait for them.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        _ = self._connections.dispatcher  # loads Celery
        self._connections.now()
        with contextlib.suppress(BrokerUnavailable), self._connections.requires_redis():
            self._connections.directory.known()

    def submit(self, prompt: str | None = None, /, **request: Unpack[SubmitParams]) -> Job:
        """Submit one job; when this returns it is on disk and will reach one end state.

        A job that nothing takes as things are (no scheduler, no worker, no route that ever could) is accepted with a
        warning: in the log once, and in `Job.warnings`.

        Args:
            prompt: short for `messages` with one message of the user.
            request: the body of the Messages API (`model`, `messages`, `max_tokens`, …) and Trivet's own: `key`,
                `latency` (default `batch`), `deadline`, `tags`, `residency`, `compliance`, `tenant`, `not_before`,
                `prompt_cache`, `extra_headers`, `extra_body`, and `on_done`, a Celery signature or a `Callback` that is
                sent once the job has ended. Type checkers know them as `trivet.SubmitParams`.

        Raises:
            InvalidRequest: names the field.
            KeyConflict: the key belongs to a different request.
            StoreUnavailable: the database does not answer.
            BrokerUnavailable: of a realtime job; the broker or the shared state does not answer.
        """
        return self._submit(prompt, request)[0]

    def submit_streamed(self, prompt: str | None = None, /, **request: Unpack[SubmitParams]) -> Job:
        """Submit one job whose answer is read while it comes, with `answer_streams`; else like `submit`.

        The default class is `interactive`. The request, its key and its fingerprint are those of a plain job.

        Raises:
            InvalidRequest, KeyConflict, StoreUnavailable, BrokerUnavailable: as of `submit`.
        """
        return self._submit(prompt, request, streamed=True)[0]

    def stream(self, prompt: str | None = None, /, **request: Unpack[StreamParams]) -> "JobStreamManager":
        """Submit one job and read its answer while it comes, as `client.messages.stream` of the `anthropic` SDK does.

            with client.stream("Tell me …", model="claude-sonnet-5-5", max_tokens=900) as stream:
                for text in stream.text_stream:
                    print(text, end="", flush=True)
                message = stream.get_final_message()

        The default class is `interactive`. Before the first piece of the answer a route that fails is replaced unseen;
        after it reading raises `StreamFailed`, and never goes on with another answer. Leaving the block before the end
        cancels the job in the classes `realtime` and `interactive`; in the others it goes on
        (`JobMessageStream.close` chooses).

        Args:
            prompt: as of `submit`.
            request: as of `submit`; `stream` may stay among them.

        Raises:
            ConfigError: the package `anthropic` is not installed.
            InvalidRequest, KeyConflict, StoreUnavailable, BrokerUnavailable: where the block begins, as of `submit`.
        """
        try:
            from trivet.client.streaming import JobStreamManager  # over a second, and not installed everywhere
        except ModuleNotFoundError as error:
            raise no_sdk("client.stream", error) from None
        return JobStreamManager(lambda: self.begin_stream(prompt, request), lambda: self._connections.stream_loop)

    def events(self, job: Job) -> "Iterator[StreamItem]":
        """Yield the events of a job's answer as they come, then `Ended` or `Broken`; needs no SDK.

            job = client.submit_streamed("Tell me …", model="claude-sonnet-5-5", max_tokens=900)
            for item in client.events(job):
                ...

        For one that is not streamed, or has ended, they are made from the whole message. Ending the loop early leaves the
        job as it is.

        Raises:
            ClientClosed: the client was closed.
        """
        loop = self._connections.stream_loop
        stream = loop.run(loop.streams.open(job.id))
        try:
            while items := loop.run(stream.next()):
                yield from items
        finally:
            loop.leave(stream)

    def begin_stream(self, prompt: str | None, request: Mapping[str, Any]) -> tuple[Job, Latency]:
        """Submit the job of `stream`. Returns its class, too."""
        return self._submit(prompt, request, streamed=True)

    def answer_streams(self) -> "AnswerStreams":
        """Return a reader of streamed answers for an asyncio program: one for an event loop, for any number of jobs.

        Raises:
            ConfigError: the key that signs answers is needed, and not there.
        """
        return self._connections.answer_streams()

    def _submit(self, prompt: str | None, request: Mapping[str, Any], *, streamed: bool = False) -> tuple[Job, Latency]:
        """Submit one job. Returns its class, too."""
        given = {**request} if prompt is None else {"prompt": prompt, **request}
        if streamed:
            given.pop("stream", None)
            given["latency"] = given.get("latency") or Latency.INTERACTIVE
        on_done = self._callback(given.pop("on_done", None))
        if given.get("latency") in (Latency.REALTIME, Latency.INTERACTIVE):
            _ = self._connections.dispatcher  # loads Celery, over a second: not from the first job's three
        now, routes = self._connections.now(), self._connections.known_routes
        spec = self._warned(parse_request(given, settings=self.settings, now=now, routes=routes))
        spec.streamed = streamed
        accepted = submit_one(self._connections, spec, on_done)
        if accepted.existed or accepted.claim:  # looked after before, or dispatched to a worker by now
            return Job(self._connections, accepted.id, spec.warnings, existed=accepted.existed), spec.latency
        required = FlowRequirements(spec.model, spec.latency, spec.residency, spec.compliance, spec.features)
        return Job(self._connections, accepted.id, (*spec.warnings, *self._unattended([required]))), spec.latency

    def submit_together(self, requests: Sequence[tuple[Mapping[str, Any], bool]]) -> list[Job | TrivetError]:
        """Submit single jobs that arrived within one moment, for less than one by one. Each is accepted or refused for itself.

        Args:
            requests: at most some dozens, each as `submit` takes it, and whether its answer is read while it comes.

        Returns:
            For each, in order, its job, or the error that `submit` would raise.

        Raises:
            StoreUnavailable: nothing was accepted.
        """
        now = self._connections.now()
        reader = RequestReader(self.settings, routes=self._connections.known_routes)
        found: dict[int, Job | TrivetError] = {}
        specs: dict[int, JobSpec] = {}
        for index, (request, streamed) in enumerate(requests):
            try:
                spec = self._warned(reader.read(request, now))
            except InvalidRequest as error:
                found[index] = error
            else:
                specs[index] = replace(spec, streamed=streamed) if streamed else spec
        if specs:
            submitted = submit_together(self._connections, list(specs.values()))
            for index, accepted in zip(specs, submitted, strict=True):
                if isinstance(accepted, TrivetError):
                    found[index] = accepted
                else:
                    found[index] = Job(self._connections, accepted.id, specs[index].warnings, existed=accepted.existed)
        return [found[index] for index in range(len(requests))]

    def submit_many(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        name: str | None = None,
        dedupe: Dedupe = None,
        on_done: OnDone = None,
        **defaults: Unpack[RequestParams],
    ) -> Batch:
        """Submit an iterable of requests as one batch, streamed in bounded memory.

        Args:
            requests: dicts as for `submit` (`trivet.RequestParams`); taken in groups, so a generator over any number is
                fine.
            name: the batch's name; a batch of this name is resumed. None: one is made up, another each time.
            dedupe: "tenant": a request whose key its tenant used before, for a single job or in another such batch, joins
                that job, which stays what it is; the results of this batch are those of its own jobs. None: a key is
                the name of a request within this batch.
            on_done: a Celery signature or a `Callback`, sent once all jobs of the batch have ended.
            defaults: laid under every request, e.g. `model=…, max_tokens=…, latency="async"`. With `prompt_cache=True`
                (or "5m", "1h") the common beginning of requests is read from the provider's prompt cache.

        Raises:
            InvalidRequest: names the index and the field. The batch holds what came before, and does not run until it
                is resumed under the same name or accepted as it is.
            BatchTaken: another process has filled, cancelled or discarded the batch meanwhile.
            StoreUnavailable: names the batch; submitting the same again under this name continues where it stopped.
        """
        routes = self._connections.known_routes
        now = self._connections.now
        specs = parse_requests(requests, settings=self.settings, defaults=defaults, now=now, routes=routes)
        return self.submit_specs(specs, name=name, dedupe=dedupe, on_done=on_done)

    def submit_specs(
        self,
        specs: Iterable[JobSpec],
        *,
        name: str | None = None,
        dedupe: Dedupe = None,
        on_done: OnDone = None,
        scope: TenantScope | None = None,
    ) -> Batch:
        """Submit requests that were validated before, e.g. by `trivet_tasks.requests.jsonl`.

        Args:
            scope: the tenant of all of them; a batch of this name that is not of that tenant is refused.
        """
        chosen = f"batch-{uuid7().hex[-12:]}" if name is None else _checked(name)
        if dedupe not in (None, "tenant"):
            hint = "Leave it out where keys are names of the batch's own requests."
            raise InvalidRequest(f"dedupe: must be 'tenant', is {dedupe!r}.", field="dedupe", hint=hint)
        callback = self._callback(on_done)
        warned = (self._warned(spec) for spec in specs)
        try:
            batch_id = fill_batch(
                self._connections, chosen, warned, dedupe=dedupe is not None, on_done=callback, scope=scope
            )
        except StoreUnavailable as error:  # the name may be one that we made up
            error.hint = f"{error.hint} To go on, submit the same under the name {chosen!r}: what was taken in is not taken twice."
            raise
        with self._connections.store.read() as connection:
            required = requirements_of_batch(connection, chosen)
        return Batch(self._connections, chosen, batch_id, self._unattended(required))

    def job(self, job_id: str, *, scope: TenantScope | None = None) -> Job:
        """Return the job of this id. NotFound when there is none.

        Args:
            scope: only a job of this tenant.
        """
        return Job(self._connections, find_by_id(self._connections, job_id, scope).id)

    def job_by_key(self, key: str, *, tenant: str | None = None) -> Job:
        """Return the single job of this idempotency key of this tenant. NotFound when there is none.

        A request of a batch is found by `Batch.job`; in a batch with `dedupe`, by both.

        Args:
            tenant: as in the request; None: the job was submitted without one.
        """
        return Job(self._connections, find_by_key(self._connections, key, tenant).id)

    def jobs(self, *, state: str | None = None, batch: str | None = None, limit: int = 100) -> list[results.JobRow]:
        """Return the newest jobs with their present state, newest first.

        Args:
            state: only those in this state, a `JobState` or its text.

        Raises:
            InvalidRequest: there is no such state.
            NotFound: there is no such batch.
        """
        return find_newest(self._connections, state=state, batch=batch, limit=limit)

    def batch(self, name: str, *, scope: TenantScope | None = None) -> Batch:
        """Return the batch of this name. NotFound when there is none.

        Args:
            scope: only a batch all of whose requests are of this tenant.
        """
        with self._connections.store.read() as connection:
            return Batch(self._connections, name, batches.id_of(connection, name, scope))

    def free_name(self, name: str) -> str:
        """Return a name under which a batch can be submitted once more: the first of NAME, NAME-2, NAME-3, … without a batch.

        The name of a batch that broke off before it was complete counts as free: that batch is gone on with.
        """
        with self._connections.store.read() as connection:
            return batches.free_name(connection, _checked(name))

    def batches(self, limit: int = 100) -> list[batches.Progress]:
        """Return the newest batches with their progress, newest first."""
        return find_newest_batches(self._connections, limit)

    def _unattended(self, required: Sequence[FlowRequirements]) -> tuple[str, ...]:
        """Return, and log, why nothing takes jobs with these requirements."""
        warnings = self._connections.unattended.warnings(required) if required else ()
        self._connections.unattended.log(warnings)
        return warnings

    def _callback(self, on_done: OnDone) -> Callback | None:
        """Return the callback that `on_done` names, checked as far as can be before anything is written."""
        if on_done is None:
            return None
        callback, apps = read_callback(on_done), self.settings.celery_apps
        if callback.app not in apps:
            raise InvalidRequest(
                f"on_done: the configuration has no Celery application {callback.app!r}.",
                field="on_done",
                hint=no_section(callback.app, apps, self.settings.source),
            )
        callback.to_json()
        return callback

    def _warned(self, spec: JobSpec) -> JobSpec:
        for warning in spec.warnings:
            if warning not in self._warnings and len(self._warnings) < MAX_WARNINGS:
                self._warnings.add(warning)
                log.warning(warning)
        return spec


def _checked(name: str) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidRequest(f"name: must be 1 to {MAX_NAME} printable characters.", field="name")
    return name
