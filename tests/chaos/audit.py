"""Invariants after any chaos, read from the database and from the provider's own log of calls.

Nothing here asks Trivet what a call costs or whether a job is done: rows are read as they are written, and the bill is
worked out from the simulator's log by the price table of `tests.faults.ledger`.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from tests.faults.ledger import Row, price

from trivet_simulator.calls import Call

END_STATES = ("succeeded", "failed", "expired", "cancelled")
RECORD_S = 3.0
"""From the end of a call to its commit, or from a claim to its call, on a machine that is busy."""
TOLD_S = 1.0
"""From a refusal to the moment when every worker is kept from calling: until then calls may be on their way."""
SHOWN = 5
"""Maximum number of faults of one kind that are shown in full."""


@dataclass(frozen=True)
class JobRow:
    """The present state of a job, with the record of its end."""

    id: str
    batch_id: int | None
    batch_seq: int | None
    state: str
    latency: str
    probe: bool
    """Trivet's own question whether a route is back; its failure is an answer."""
    crashes: int
    isolated_crashes: int
    results: int
    answered: bool
    cached: bool
    """By an earlier answer to an equal request."""
    error: str | None
    cost_usd: Decimal | None


@dataclass(frozen=True)
class BatchRow:
    """A batch's counters."""

    id: int
    name: str
    state: str
    total: int
    ended: int
    succeeded: int
    cost_usd: Decimal


@dataclass(frozen=True)
class Death:
    """A process that was killed with -9."""

    name: str
    pid: int
    at: float
    """Time in seconds since the epoch."""

    @property
    def kind(self) -> str:
        """The kind of process: `worker-1-bulk` is a bulk worker."""
        return self.name.rpartition("-")[2] if self.name.startswith("worker") else self.name.partition("-")[0]


@dataclass(frozen=True)
class Outage:
    """A time in which the database was not to be had: a commit within it may have happened and not been answered."""

    begun: float
    ended: float


@dataclass(frozen=True)
class Evidence:
    """All there is to judge by."""

    accepted: Collection[str]
    """The jobs of which a producer was told that they are in."""
    jobs: Sequence[JobRow]
    batches: Sequence[BatchRow]
    rows: Sequence[Row]
    calls: Sequence[Call]
    orphans: Sequence[str] = ()
    """Rows that refer to nothing."""
    deaths: Sequence[Death] = ()
    outages: Sequence[Outage] = ()
    pid_of_lease: Mapping[str, int] = field(default_factory=dict)
    pauses: Mapping[str, float] = field(default_factory=dict)
    """By provider: how long each of its refusals told us to wait, in seconds."""


@dataclass(frozen=True)
class Findings:
    """The result of an audit."""

    faults: tuple[str, ...]
    jobs: int
    """Without probes."""
    ended: int
    succeeded: int
    """The others are realtime jobs whose time was over."""
    calls: int
    """To the providers; probes, too."""
    job_calls: int
    unknown: int
    """Rows of calls whose fate nobody knows."""
    uncalled: int
    """The ones whose call never came to the provider."""
    quarantined: int
    cached: int
    """Jobs without a call of their own."""
    faults_met: int
    """Calls that the provider refused or broke off."""
    hedges: int
    settled_usd: Decimal
    bill_usd: Decimal
    estimated_usd: Decimal

    @property
    def good(self) -> bool:
        """Everything holds."""
        return not self.faults

    def __str__(self) -> str:
        return (
            "\n".join(self.faults) or f"{self.ended} of {self.jobs} jobs ended, {self.calls} calls, all accounted for"
        )


def audit(evidence: Evidence) -> Findings:
    """Judge. Every fault is a sentence that names what is wrong and where."""
    rows, calls = evidence.rows, evidence.calls
    jobs = [job for job in evidence.jobs if not job.probe]
    call_of = {call.attempt: call for call in calls}
    unknown = [row for row in rows if row.outcome == "unknown"]
    settled = [row for row in rows if row.outcome not in (None, "unknown") and not row.estimated]
    faults = [
        *_shortened("orphans", evidence.orphans),
        *_shortened("jobs", _jobs(evidence)),
        *_shortened("batches", _batches(evidence)),
        *_shortened("calls", _calls(rows, calls)),
        *_shortened("rows", _rows(rows, call_of)),
        *_shortened("unknown rows", _unknown(evidence, unknown, call_of)),
        *_shortened("costs", _costs(settled, call_of)),
        *_shortened("job costs", _job_costs(evidence, settled)),
        *_shortened("pauses", _pauses(evidence)),
        *_shortened("limits", (f"a call beyond a limit: {call}" for call in calls if call.fault == "limit")),
    ]
    settled_usd = sum((row.cost_usd or Decimal(0) for row in settled), Decimal(0))
    bill_usd = sum((_billed(row, call_of.get(row.id)) for row in settled), Decimal(0))
    if settled_usd != bill_usd:
        faults.append(f"the settled rows say {settled_usd} USD, the provider's log {bill_usd} USD")
    return Findings(
        faults=tuple(faults),
        jobs=len(jobs),
        ended=sum(job.state in END_STATES for job in jobs),
        succeeded=sum(job.state == "succeeded" for job in jobs),
        calls=len(calls),
        job_calls=sum(row.id in call_of for row in rows if row.purpose != "probe"),
        unknown=len(unknown),
        uncalled=sum(row.id not in call_of for row in unknown),
        quarantined=sum(job.crashes > 0 for job in jobs),
        cached=sum(job.cached for job in jobs),
        faults_met=sum(call.fault is not None for call in calls),
        hedges=sum(row.purpose == "hedge" for row in rows),
        settled_usd=settled_usd,
        bill_usd=bill_usd,
        estimated_usd=sum((row.cost_usd or Decimal(0) for row in rows if row.estimated), Decimal(0)),
    )


def _shortened(what: str, found: Iterable[str]) -> list[str]:
    faults = list(found)
    more = [f"… and {len(faults) - SHOWN} more faults of {what}"] if len(faults) > SHOWN else []
    return faults[:SHOWN] + more


def _jobs(evidence: Evidence) -> Iterator[str]:
    """Every accepted job ended once, with one result, and none for having been near a death."""
    known = {job.id for job in evidence.jobs}
    yield from (
        f"the job {job_id} was accepted and is not there" for job_id in evidence.accepted if job_id not in known
    )
    good = {row.job_id for row in evidence.rows if row.outcome == "succeeded"}
    for job in evidence.jobs:
        if job.state not in END_STATES or job.results != 1:
            yield f"a job did not end once: {job}"
        elif job.state == "succeeded" and not (job.answered and (job.cached or job.id in good)):
            yield f"a job succeeded without an answer or a good call: {job}"
        elif job.isolated_crashes:
            yield f"a job was taken for poison: {job}"
        elif job.state != "succeeded" and job.latency != "realtime" and not job.probe:
            yield f"a job that could wait did not succeed: {job}"


def _batches(evidence: Evidence) -> Iterator[str]:
    """The counters say what the jobs say; the numbers of those that ended have no gap and no double."""
    jobs: dict[int, list[JobRow]] = defaultdict(list)
    for job in evidence.jobs:
        if job.batch_id is not None:
            jobs[job.batch_id].append(job)
    for batch in evidence.batches:
        own = jobs[batch.id]
        if batch.state == "open" and not batch.total == batch.ended == len(own):
            yield f"a batch counts other jobs than it has ({len(own)}): {batch}"
        if sorted(job.batch_seq or 0 for job in own) != list(range(1, len(own) + 1)):
            yield f"the jobs of {batch.name} did not end once each"
        if batch.succeeded != sum(job.state == "succeeded" for job in own):
            yield f"a batch counts other successes than it has: {batch}"
        if batch.cost_usd != sum((job.cost_usd or Decimal(0) for job in own), Decimal(0)):
            yield f"a batch's cost is not that of its jobs: {batch}"


def _calls(rows: Sequence[Row], calls: Sequence[Call]) -> Iterator[str]:
    """Every call is one row, and no id travelled twice."""
    by_id = {row.id: row for row in rows}
    times = Counter(call.attempt for call in calls)
    yield from (f"the attempt {attempt} was called {count} times" for attempt, count in times.items() if count > 1)
    for call in calls:
        if call.attempt not in by_id:
            yield f"a call without a row: {call}"
        elif by_id[call.attempt].route != call.provider:
            yield f"a call of {call.provider} has a row of {by_id[call.attempt].route}"


def _rows(rows: Sequence[Row], call_of: Mapping[str | None, Call]) -> Iterator[str]:
    """Every row is settled; one without a call is unknown, or says that nothing was called and costs nothing."""
    for row in rows:
        if row.outcome is None:
            yield f"never settled: {row}"
        elif row.outcome == "unknown" and not row.estimated:
            yield f"unknown, and not marked as an estimate: {row}"
        elif row.id not in call_of and row.outcome != "unknown" and (row.cost_usd or row.estimated or not row.message):
            yield f"without a call, and neither unknown nor free for a reason: {row}"
        elif row.estimated and row.cost_usd != row.most_usd:
            yield f"an estimate that is not the most it may cost: {row}"
        elif row.estimated and _beyond_input(row, call_of.get(row.id)) > row.most_usd:
            yield f"an estimate below what the provider bills: {row}"


def _unknown(evidence: Evidence, unknown: Sequence[Row], call_of: Mapping[str | None, Call]) -> Iterator[str]:
    """Nothing is unknown but what was in flight when its process died, by the provider's log."""
    died = {death.pid: death.at for death in evidence.deaths}
    for row in unknown:
        pid = evidence.pid_of_lease.get(row.lease_id)
        call = call_of.get(row.id)
        if pid in died:
            if not _in_flight(row, call, died[pid], died[pid]):
                yield f"unknown, and not in flight when its process {pid} died at {died[pid]:.3f}: {row} {call}"
        elif not any(_in_flight(row, call, outage.begun, outage.ended) for outage in evidence.outages):
            yield f"unknown, and its process {pid} was not killed: {row} {call}"


def _in_flight(row: Row, call: Call | None, begun: float, ended: float) -> bool:
    """Return whether an attempt was between its claim and its record at some moment of a time."""
    if call is None:
        return begun - RECORD_S <= row.started_at <= ended + RECORD_S
    over = call.finished if call.finished is not None else ended
    return call.started <= ended + RECORD_S and over >= begun - RECORD_S


def _costs(settled: Sequence[Row], call_of: Mapping[str | None, Call]) -> Iterator[str]:
    """A settled row costs what the provider's log says of its call."""
    for row in settled:
        call = call_of.get(row.id)
        if row.cost_usd != _billed(row, call):
            yield f"costs {row.cost_usd} USD, and the log says {_billed(row, call)}: {row} {call}"
        if call is not None and row.model not in call.model:
            yield f"priced as {row.model}, and {call.model} was called: {row}"
        if row.outcome == "succeeded" and (call is None or not call.complete):
            yield f"succeeded, and the provider gave no whole answer: {row} {call}"


def _job_costs(evidence: Evidence, settled: Sequence[Row]) -> Iterator[str]:
    """A job costs what its settled rows cost."""
    costs: dict[str, Decimal] = defaultdict(Decimal)
    for row in settled:
        costs[row.job_id] += row.cost_usd or Decimal(0)
    for job in evidence.jobs:
        if job.results and job.cost_usd != costs[job.id]:
            yield f"a job costs {job.cost_usd} USD, its settled rows {costs[job.id]}: {job}"


def _billed(row: Row, call: Call | None) -> Decimal:
    """Return the provider's bill for a call: a whole answer costs, an error or a refusal before any output does not."""
    if call is None or call.usage is None or not call.complete or call.fault == "refusal":
        return Decimal(0)
    return price(row.model, call.usage["input_tokens"], call.usage["output_tokens"])


def _beyond_input(row: Row, call: Call | None) -> Decimal:
    """Return the provider's maximum bill for the estimated input: its own count is not known before the call."""
    if call is None or call.usage is None or not call.complete:
        return Decimal(0)
    return price(row.model, min(call.usage["input_tokens"], row.input_estimate), call.usage["output_tokens"])


def _pauses(evidence: Evidence) -> Iterator[str]:
    """After a provider said how long to wait, nobody calls it until then, but who could not know yet."""
    for provider, pause_s in evidence.pauses.items():
        calls = [call for call in evidence.calls if call.provider == provider]
        for refused in calls:
            if refused.fault == "rate_limited" and refused.finished is not None:
                closed = refused.finished + TOLD_S, refused.finished + pause_s - 0.02
                yield from (
                    f"called {call.started - refused.finished:.3f} s after being told to wait {pause_s:g} s: {call}"
                    for call in calls
                    if closed[0] < call.started < closed[1]
                )
