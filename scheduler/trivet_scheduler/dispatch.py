"""Dispatch: choose routes for waiting jobs and publish them as chunks to the routes' queues.

Any number of schedulers may dispatch at once: counting credit and claiming jobs is one SQL transaction.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from celery import Celery
from sqlalchemy import Connection

from trivet_routing import budget_headroom
from trivet_routing.budget_headroom import BudgetHeadroom
from trivet_routing.retry_policy import longest_backoff_s
from trivet_routing.route_choice import Candidate, Choice, Requirements, choose, load_of
from trivet_routing.route_directory import RouteDirectory
from trivet_scheduler.budget_monitor import note_states, tell
from trivet_scheduler.credit import Credits
from trivet_store.cluster import registry
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.jobs import dispatching, transitions
from trivet_store.jobs.dispatching import Flow, Head, Outstanding
from trivet_store.jobs.enqueue import DirectDispatch
from trivet_tasks.call_times import call_time
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import DispatchedJob, JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, publish
from trivet_tasks.prices.cost_model import TYPICAL, Mix
from trivet_tasks.requests.prompt_cache import cache_write_of

log = logging.getLogger("trivet.dispatch")

URGENT_SHARE = 0.2
"""The part of a claim that jobs near their deadline may take ahead of their rank."""
URGENT_WITHIN_S = 300.0
"""A deadline within this many seconds is near."""
LOOK_FURTHER = 8
"""Factor by which more jobs are looked at when those at the head of a line have no route."""
LOOKS_FOR_URGENT = 3
"""Maximum number of searches for jobs near their deadline in one pass, each without the flows that may not go."""
THOROUGH_S = 1.0
"""Seconds between two looks at jobs whose budget has less left than the cheapest of them may cost."""
HELD_HEADS = 5
"""Stop after this many similar jobs without budget headroom; a cheaper one may come behind a dear one."""


_Kind: TypeAlias = tuple[int, tuple[str, ...], tuple[str, ...], str | None, int, int]
"""Jobs that may go to the same routes: flow, routes tried or too slow, and, where cost decides, the call's size (in octaves)."""
Plan: TypeAlias = dict[tuple[str, Latency, str, bool], list[Head]]
"""Jobs by (route, class, model, isolated)."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """The result of one pass."""

    dispatched: int
    more: bool
    """True when jobs are left that could have been dispatched: pass again at once."""


class _Survey(NamedTuple):
    """The waiting flows, and the routes that may take them, as read at the beginning of a pass."""

    flows: list[Flow]
    routes: dict[str, list[Candidate]]
    drained: frozenset[str]
    thorough: bool
    """True if cheaper jobs are looked for behind those without budget headroom."""


class _Assignment:
    """The jobs that a pass has assigned to routes so far."""

    def __init__(
        self,
        flows: dict[int, Flow],
        routes: dict[str, list[Candidate]],
        credits: Credits,
        outstanding: Sequence[Outstanding],
        wanted: int,
        budget_headroom: BudgetHeadroom | None,
        thorough: bool,
    ) -> None:
        self.flows = flows
        self.routes = routes
        self.credits = credits
        self.budget_headroom = budget_headroom
        """The headroom of the budgets; None: there are no budgets."""
        self.thorough = thorough
        """True if cheaper jobs are looked for behind those without budget headroom."""
        self.wanted = wanted
        """Jobs that may be given out still."""
        self.blocked = False
        """True if jobs were passed over because no route takes them at the moment."""
        self.plan: Plan = defaultdict(list)
        self.choices: dict[_Kind, Choice] = {}
        self.warmers: dict[int, Head] = {}
        """The job of each flow that is to warm the provider's cache for the others."""
        self.warming: dict[int, int] = defaultdict(int)
        """Number of jobs that go, by flow with a cold cache."""
        self.refused: dict[_Kind, int] = {}
        """Jobs without budget headroom, by kind and size."""
        self.at_route: dict[str, int] = defaultdict(int)
        for row in outstanding:
            self.at_route[row.route] += row.jobs

    def load(self, route: Candidate) -> float:
        """Return the outstanding jobs of the route, relative to its weight."""
        return self.at_route[route.name] / route.settings.weight


class Dispatcher:
    """Dispatches waiting jobs to routes that can take them. One per process; use it from one thread."""

    def __init__(self, store: Store, directory: RouteDirectory, app: Celery, settings: Settings) -> None:
        self._store = store
        self._directory = directory
        self._app = app
        self._settings = settings
        self._told = False
        """True once it was logged that no price list is installed here."""
        self._held = False
        """True if budgets held whole flows in the last pass."""
        self._thorough_at = 0.0

    def run_once(self) -> PassResult:
        """Run one pass: at most `BULK_ROWS` jobs.

        Raises:
            StoreUnavailable, BrokerUnavailable, redis.RedisError: nothing is lost; try again later.
        """
        survey = self._survey()
        if survey is None:
            return PassResult(0, more=False)
        with self._store.write() as connection:
            dispatching.lock(self._store, connection)
            if registry.drained(connection) != survey.drained:
                return PassResult(0, more=True)  # an operator changed it this moment
            assignment = self._begin(connection, survey)
            if assignment.wanted <= 0:
                return PassResult(0, more=False)
            seen = self._fill(connection, assignment)
            chunks = self._dispatch(connection, assignment.plan)
            if survey.thorough:
                self._thorough_at = time.monotonic() + THOROUGH_S
            budgets = assignment.budget_headroom
            changes = [] if budgets is None else note_states(connection, budgets, self._store.now(connection))
        tell(changes)
        count = sum(len(chunk.jobs) for chunk in chunks)
        if chunks:
            publish(self._app, chunks)
        return PassResult(count, more=count > 0 and seen > count)

    def direct(self, choice: Choice, latency: Latency, taken: Mapping[str, int] = {}) -> DirectDispatch | None:
        """Return the route to which a job of the realtime lane may go at once, or None when it has to wait for a scheduler.

        Args:
            taken: jobs that went to each route since the choice was read.
        """
        best = choice.best(lambda route: load_of(route) + taken.get(route.name, 0) / route.settings.weight)
        if best is None:
            return None
        return DirectDispatch(best.name, self._directory.now() + self._settings.taken_within_s(latency))

    def held_by_budget(self, connection: Connection, spec: JobSpec, labels: str, direct: DirectDispatch) -> str | None:
        """Return why a budget without headroom holds a realtime job, or None; the headroom is held until the commit.

        Args:
            labels: the job's labels, as its flow has them.
        """
        known = self._directory.known()
        if not known.budgets:
            return None
        dispatching.lock(self._store, connection)
        budgets = self._headroom(connection)
        if budgets is None:
            return None
        if not self._directory.costs.known:
            waits = "a scheduler has to see what it may cost; no price list is installed where it was submitted"
            return waits if budgets.counting(None, labels) else None
        flow = Flow(0, spec.latency, spec.model, (), (), (), labels=labels, cache_write=cache_write_of(spec.body))
        head = Head("", 0, 0.0, (), None, spec.input_estimate, spec.max_tokens)
        balance = budgets.holding(flow, direct.route, head)
        return None if balance is None else balance.used_up()

    def send_direct(self, *sent: tuple[JobSpec, str, DirectDispatch]) -> None:
        """Publish jobs that were inserted as dispatched: each with its id and route. BrokerUnavailable when that fails.

        One whose route is gone meanwhile is left to a scheduler.
        """
        routes = self._directory.known().routes
        chunks = []
        for spec, job_id, direct in sent:
            route = routes.get(direct.route)
            if route is None:
                log.warning("job %s waits for a scheduler: the route %s is gone", job_id, direct.route)
                continue
            dispatched = DispatchedJob(job_id, 1, spec.input_estimate, spec.max_tokens, spec.cache_key)
            chunks.append(Chunk(direct.route, route.settings.provider, spec.latency, spec.model, (dispatched,)))
        publish(self._app, chunks)

    def choices_for(self, specs: Sequence[JobSpec]) -> list[Choice]:
        """Return the routes for new jobs at this moment, in order. RedisError when the shared state does not answer."""
        candidates = self._directory.candidates_of({spec.model for spec in specs})
        return [self._choice_for(spec, candidates[spec.model]) for spec in specs]

    def _choice_for(self, spec: JobSpec, candidates: Iterable[Candidate]) -> Choice:
        share = self._directory.lengths.share(spec.model, spec.latency)
        mix = Mix.of(spec.input_estimate, spec.max_tokens, share)
        requirements = Requirements(spec.model, spec.latency, spec.residency, spec.compliance, spec.features, mix=mix)
        return choose(requirements, candidates, self._settings.of_class(spec.latency))

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()

    def _survey(self) -> _Survey | None:
        """Read the waiting flows and the routes, before anything is locked; None when there is nothing to dispatch."""
        with self._store.read() as connection:
            flows = dispatching.flows_with_waiting(connection, self._directory.now())
            outstanding = dispatching.outstanding(connection) if flows else []
            drained = registry.drained(connection)
            if flows:
                self._directory.notice_workers(connection)
            budgets = self._headroom(connection) if flows and self._held else None
        thorough = time.monotonic() >= self._thorough_at
        if budgets is not None:
            flows = self._unheld(flows, budgets, thorough=thorough)
        if not flows:
            return None
        if any(self._by_cost(flow) for flow in flows):
            self._directory.lengths.refresh()
        # asked before the transaction: the database is not locked while Redis answers, or for nothing
        routes = {
            # a drain counts from this pass on; the directory's snapshot may be a second old
            model: [replace(route, drained=route.name in drained) for route in candidates]
            for model, candidates in self._directory.candidates_of({flow.model for flow in flows}).items()
        }
        if self._credits(routes, outstanding).total <= 0:
            return None
        return _Survey(flows, routes, drained, thorough)

    def _begin(self, connection: Connection, survey: _Survey) -> _Assignment:
        """Count credit and budgets again, under the lock under which they are taken."""
        outstanding = dispatching.outstanding(connection)
        credits = self._credits(survey.routes, outstanding)
        wanted = min(BULK_ROWS, credits.total)
        flows, budgets = survey.flows, self._headroom(connection) if wanted > 0 else None
        if budgets is not None:
            flows = self._unheld(flows, budgets, thorough=survey.thorough)
        return _Assignment(
            {flow.id: flow for flow in flows}, survey.routes, credits, outstanding, wanted, budgets, survey.thorough
        )

    def _fill(self, connection: Connection, to: _Assignment) -> int:
        """Assign waiting jobs to routes. Returns the number of jobs looked at first."""
        flows, wanted = list(to.flows.values()), to.wanted
        heads = self._heads(connection, flows, to.credits, wanted)
        self._assign(to, heads)
        if to.blocked and to.wanted:
            # the head of a line may wait for a route of its own; those behind it need not
            seen = {head.id for head in heads}
            further = self._heads(connection, flows, to.credits, LOOK_FURTHER * wanted)
            self._assign(to, [head for head in further if head.id not in seen])
        if to.warmers:
            self._elect(connection, to)
        return len(heads)

    def _credits(self, routes: dict[str, list[Candidate]], outstanding: Sequence[Outstanding]) -> Credits:
        return Credits(
            self._directory.known(),
            routes.values(),
            outstanding,
            self._settings.dispatch.credit_factor,
            self._settings.worker.isolated_processes,
        )

    def _unheld(self, flows: list[Flow], budgets: BudgetHeadroom, *, thorough: bool) -> list[Flow]:
        left = [flow for flow in flows if not budgets.exhausted(flow, thorough=thorough)]
        self._held = len(left) < len(flows)
        return left

    def _headroom(self, connection: Connection) -> BudgetHeadroom | None:
        """Return the headroom of the budgets; None, at no cost, where there are none."""
        known = self._directory.known()
        if not known.budgets:
            return None
        found = budget_headroom.read(connection, self._store.now(connection), known.routes, self._directory.costs)
        if found is not None and not self._directory.costs.known:
            if not self._told:
                log.error("no price list is installed (trivet[worker] has it): jobs that budgets count are left alone")
            self._told = True
            found.close()
        return found

    def _heads(self, connection: Connection, flows: list[Flow], credits: Credits, wanted: int) -> list[Head]:
        """Return the next jobs of all flows that some route can take, the urgent ones first."""
        known = self._directory.known().routes
        able = [f for f in flows if any(credits.left(r, f.latency, f.model, isolated=f.isolated) for r in known)]
        able_ids = {flow.id for flow in able}
        merged = self._in_line(connection, able, wanted)
        before = self._store.now(connection) + URGENT_WITHIN_S
        # without their rank: an urgent job does not move the clock by which new jobs are ranked
        urgent = [head._replace(rank=0.0) for head in self._urgent(connection, before, wanted, able_ids)]
        seen = {head.id for head in urgent}
        return urgent + [head for head in merged if head.id not in seen]

    def _in_line(self, connection: Connection, able: list[Flow], wanted: int) -> list[Head]:
        """Return the next jobs of these flows: by priority, those of the same by rank."""
        line: list[Head] = []
        by_priority = sorted({flow.priority for flow in able}, reverse=True)
        # work that goes before its turn does not move the clock by which new jobs are ranked
        in_turn = max(0, by_priority[-1]) if able else 0
        for priority in by_priority:
            ids = [flow.id for flow in able if flow.priority == priority]
            each = max(10, min(wanted, 2 * wanted // len(ids)))
            heads = sorted(dispatching.heads(connection, ids, each), key=lambda head: head.rank)
            line += heads if priority <= in_turn else [head._replace(rank=0.0) for head in heads]
        return line

    def _urgent(self, connection: Connection, before: float, wanted: int, able: set[int]) -> list[Head]:
        """Return jobs whose deadline is near. Those that may not go now, e.g. for a budget, do not displace others."""
        most = max(1, int(wanted * URGENT_SHARE))
        without: set[int] = set()
        for _ in range(LOOKS_FOR_URGENT):
            found = dispatching.urgent(connection, before, most, without)
            unable = {head.flow_id for head in found} - able
            if not unable or len(found) < most:
                break
            without |= unable
        return [head for head in found if head.flow_id in able]

    def _assign(self, to: _Assignment, heads: Sequence[Head]) -> None:
        """Give each job, in order, the best route that has credit."""
        by_cost = {flow.id for flow in to.flows.values() if self._by_cost(flow)}
        for head in heads:
            if not to.wanted:
                return
            flow = to.flows[head.flow_id]
            if flow.cold and to.warming[flow.id] >= self._warm_at_once(flow):
                continue
            sized = to.budget_headroom is not None or flow.id in by_cost
            size = (head.input_estimate.bit_length(), head.max_tokens.bit_length()) if sized else (0, 0)
            key = (head.flow_id, head.tried, head.too_slow, head.doubted_by, *size)
            if to.refused.get(key, 0) >= HELD_HEADS:
                continue
            if key not in to.choices:
                to.choices[key] = self._choice(flow, head, to.routes[flow.model])
            choice = to.choices[key]
            if not choice.routes:
                to.blocked = True
                continue
            lane, model = flow.latency.lane, flow.model
            has_room = to.credits.room_for(flow.latency, model, isolated=flow.isolated)
            asked = None if to.budget_headroom is None else to.budget_headroom.ask(flow, head)
            route = choice.best(to.load, has_room=has_room if asked is None else asked.also(has_room))
            if route is None:
                refused = asked is not None and asked.passed_over()
                if refused:
                    to.refused[key] = to.refused.get(key, 0) + 1
                to.blocked = to.blocked or bool(head.tried or head.doubted_by) or (refused and to.thorough)
                continue
            if to.budget_headroom is not None:
                to.budget_headroom.take(flow, route.name, head)
            to.credits.take(route.name, lane, model, head, isolated=flow.isolated)
            to.at_route[route.name] += 1
            if flow.cold:
                to.warming[flow.id] += 1
                to.warmers.setdefault(flow.id, head)
            to.plan[route.name, flow.latency, model, flow.isolated].append(head)
            to.wanted -= 1

    def _choice(self, flow: Flow, head: Head, candidates: list[Candidate]) -> Choice:
        terms = self._settings.of_class(flow.latency)
        mix = TYPICAL
        if terms.order == "cost":
            share = self._directory.lengths.share(flow.model, flow.latency, flow.id)
            mix = Mix.of(head.input_estimate, head.max_tokens, share)
        choice = choose(_requirements(flow, head, mix), candidates, terms)
        restricted = head.tried or head.doubted_by
        if restricted and not choice.routes and not choice.worth_waiting(longest_backoff_s(terms, 0)):
            # the untried routes became unhealthy while the job waited; better the tried ones than none
            return choose(_requirements(flow, head._replace(tried=(), doubted_by=None), mix), candidates, terms)
        return choice

    def _warm_at_once(self, flow: Flow) -> int:
        """Return the number of jobs that may go while a cache is cold."""
        return self._settings.of_class(flow.latency).chunk_jobs if flow.answered else 1

    def _by_cost(self, flow: Flow) -> bool:
        return self._settings.of_class(flow.latency).order == "cost"

    def _elect(self, connection: Connection, to: _Assignment) -> None:
        """Record the warmers of flows, and leave out jobs for whose flows another scheduler was quicker."""
        now = self._store.now(connection)
        warmers = {}
        for flow_id, head in to.warmers.items():
            flow = to.flows[flow_id]
            allowed = call_time(self._settings.classes, flow.latency, flow.model, head)
            within_s = self._settings.taken_within_s(flow.latency) + allowed.attempt_s
            warmers[flow_id] = flow.warmer, head.id, now + within_s
        elected = dispatching.elect(connection, warmers)
        late = {head.id for flow_id, head in to.warmers.items() if flow_id not in elected}
        for key, heads in to.plan.items() if late else ():
            to.plan[key] = [head for head in heads if head.id not in late]

    def _dispatch(self, connection: Connection, plan: Plan) -> list[Chunk]:
        known = self._directory.known()
        now = self._store.now(connection)
        chunks: list[Chunk] = []
        for (route, latency, model, isolated), heads in plan.items():
            if not heads:
                continue
            until = now + self._settings.taken_within_s(latency, isolated=isolated)
            dispatched = {job.id: job for job in transitions.dispatch(connection, [h.id for h in heads], route, until)}
            in_order = [dispatched[head.id] for head in heads if head.id in dispatched]
            provider = known.routes[route].settings.provider
            size = 1 if isolated else self._settings.of_class(latency).chunk_jobs
            chunks += [
                Chunk(route, provider, latency, model, tuple(part), isolated=isolated)
                for part in _parts(in_order, size)
            ]
        if any(plan.values()):
            dispatching.advance_clock(connection, max(head.rank for heads in plan.values() for head in heads))
        return chunks


def _requirements(flow: Flow, head: Head, mix: Mix) -> Requirements:
    return Requirements(
        flow.model,
        flow.latency,
        flow.residency,
        flow.compliance,
        flow.features,
        head.tried,
        head.doubted_by,
        mix,
        flow.warm_route,
        head.too_slow,
    )


def _parts(jobs: Sequence[DispatchedJob], size: int) -> Iterable[Sequence[DispatchedJob]]:
    return (jobs[at : at + size] for at in range(0, len(jobs), size))
