"""The files of `trivet config init`: a commented configuration, with routes for the credentials that were found.

With `--scenario` it is one of the reference set-ups: a file of its own beside this module, `scenarios/NAME.toml`, valid
as it is. Its first line is `# NAME: title.`, its comments give the reasons, and `docs/reference/scenarios.md` compares them. Two
things are filled in:

- `${PROVIDER_credentials}` in a comment becomes a sentence on what was found of that provider's credentials;
- a key of a route that is commented out there, such as `# project = "your-project"`, is set where its value was found.

Sources of the figures in these files (November 2026):
- prices: `trivet_tasks.prices.price_book`; geographic profiles of Bedrock and regional endpoints of Vertex AI are 10 % dearer
- where the Anthropic API computes: platform.claude.com/docs/en/manage-claude/data-residency ("global" or "us")
- what a profile of Bedrock covers: docs.aws.amazon.com/bedrock/latest/userguide/cross-region-inference.html
- endpoints of Vertex AI: docs.cloud.google.com, Anthropic Claude models: global, us and eu, and single regions
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

from trivet.config.credentials import find_credentials
from trivet.config.effective import toml_key
from trivet_tasks.catalog import PROVIDERS, Provider
from trivet_tasks.errors import ConfigError

NAMES = ("aws-native", "eu", "multi-cloud", "startup", "sydney")
"""Names of all reference set-ups."""
_FOLDER = resources.files("trivet") / "config" / "scenarios"
_TITLE = re.compile(r"# [a-z-]+: (.*)\.")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One route that the file proposes."""

    name: str
    usable: bool
    """True if its credentials were found; else the route is written commented out, except in a scenario."""
    reason: str
    """A sentence for a person on what was found, or what is missing."""
    settings: Mapping[str, object]
    """Its keys, without limits."""


class ScenarioFile(NamedTuple):
    """A reference set-up, filled in for a machine."""

    title: str
    text: str
    routes: tuple[Proposal, ...]
    """All of its routes, also those whose credentials were not found."""


def found_credentials(environment: Mapping[str, str], home: Path) -> tuple[Proposal, ...]:
    """Return a proposal for each provider, by the credentials in the environment and the home directory."""
    aws = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    google = environment.get("CLOUD_ML_REGION") or "us-east5"
    return (
        _proposal(f"bedrock-{aws}", "bedrock", {"region": aws}, environment, home),
        _proposal(f"vertex-{google}", "vertex", {"region": google, "project": "your-project"}, environment, home),
        _proposal("anthropic", "anthropic", {}, environment, home),
    )


def template(proposals: Sequence[Proposal]) -> str:
    """Return the text of the file."""
    return "\n".join([_INTRODUCTION, _PLACES, _ROUTE_KEYS, *map(_route, proposals), _CLASSES, _PROCESSES])


def sentence(reason: str) -> str:
    """A reason as a sentence of its own."""
    return f"{reason[0].upper()}{reason[1:]}."


def scenario_file(name: str, environment: Mapping[str, str], home: Path) -> ScenarioFile:
    """Fill in a reference set-up with the credentials found; no secret is read.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in NAMES:
        near = get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--scenario: {name!r} is none.{meant}", hint=f"There are {', '.join(NAMES)}.")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    parsed = tomllib.loads(text)["routes"]
    found = {provider: find_credentials(provider, environment, home) for provider in PROVIDERS}
    routes = []
    for route, settings in parsed.items():
        credentials = found[settings["provider"]]
        routes.append(Proposal(route, credentials.usable, credentials.reason, settings | credentials.settings))
    title = _TITLE.match(text)
    assert title is not None, name
    reasons = {f"{provider}_credentials": sentence(credentials.reason) for provider, credentials in found.items()}
    text = Template(text).substitute(reasons)
    for route, settings in parsed.items():
        for key, value in found[settings["provider"]].settings.items():
            text = _set(text, route, key, value)
    return ScenarioFile(title[1], "\n".join([text, _PLACES, _PROCESSES]), tuple(routes))


def _proposal(
    name: str, provider: Provider, settings: Mapping[str, str], environment: Mapping[str, str], home: Path
) -> Proposal:
    found = find_credentials(provider, environment, home)
    return Proposal(name, found.usable, found.reason, {"provider": provider, **settings, **found.settings})


def _route(proposal: Proposal) -> str:
    keys = (f"{key} = {json.dumps(value)}" for key, value in proposal.settings.items())
    lines = [f"[routes.{toml_key(proposal.name)}]", *keys]
    if not proposal.usable:
        lines = [f"# {line}" for line in lines]
    return "\n".join([f"# {sentence(proposal.reason)}", *lines, *_LIMITS, ""])


def _set(text: str, route: str, key: str, value: str) -> str:
    """Set a key of a route where it is commented out, in the lines from its table's heading to the next empty one."""
    line = re.compile(rf"(^\[routes\.{route}\]\n(?:.+\n)*?)# {key} = .*$", re.MULTILINE)
    return line.sub(lambda match: f"{match[1]}{key} = {json.dumps(value)}", text)


_LIMITS = (
    "# requests_per_minute = 500            # what your account is allowed, for each model; without them a route is held",
    "# input_tokens_per_minute = 2_000_000  # back by the provider's own refusals alone",
    "# output_tokens_per_minute = 400_000",
)

_INTRODUCTION = """\
# The configuration of Trivet. Lines that are commented out show the defaults, or what may be set.
# Variables win over it, e.g. TRIVET_STORE__URL. Relative paths count from this file. `trivet config check` reads it.
"""
"""Head of the file: how it is read."""

_PLACES = """\
[store]
# url = "sqlite:///.trivet/trivet.db"   # or "postgresql+psycopg://user@host:5432/trivet", then `trivet db upgrade`;
                                        # the password is better in PGPASSWORD or ~/.pgpass than here
# pool_size = 8                         # connections to PostgreSQL that one process keeps
# max_overflow = 8                      # and more of them in a moment of need

[broker]
# url = ""                              # empty: that of `trivet up`; or redis, rediss, sentinel, amqp://

[redis]
# url = ""                              # limits and health, shared by all processes; empty: the broker if that is Redis

# Needed where Redis is on another machine: one secret for all workers, which sign cached answers with it.
# `trivet config init` made one in .trivet/security.key; copy it to them.
#   [security]
#   key = "file:.trivet/security.key"   # or "env:NAME"
"""
"""Database, broker and shared state, at their defaults."""

_ROUTE_KEYS = """\
# Routes: where a prompt may go. Secrets are named, never written: api_key = "env:NAME" or "file:PATH".
# Without api_key a provider's own chain is used. More keys of a route:
#   base_url = ""                       # a VPC endpoint or a proxy
#   models = { "claude-sonnet-5-5" = "…" }  # this account's name of a model, where the built-in one does not fit
#   max_concurrency = 200               # calls in flight, over all workers
#   priority = 1                        # order where a class orders by priority
#   weight = 1.0                        # share where a class orders by weight
#   residency = ["us"]                  # a job that asks for one of these runs nowhere else
#   compliance = ["hipaa"]
#   betas = ["new-beta-2026-11-01"]     # betas it takes beside those that Trivet knows of its provider
#   body_fields = ["new_field"]         # fields of extra_body it takes; a route of the Anthropic API takes all
#   admin_api_key = "env:NAME"          # Anthropic: `trivet routes check --live` reads the limits with it, free of charge
#   costs = { per_request_usd = 0.00002, per_gb_out_usd = 0.01, per_month_usd = 21.90 }
#                                       # what it costs beside tokens, in USD: audit log, data sent, endpoint; `trivet plan`
#   prices = [{ from = "2026-12-01", model = "claude-*", factor = 0.9 }]
#                                       # negotiated prices, each from its day on (UTC)
"""
"""The keys of a route that a proposal leaves out."""

_CLASSES = """\
# The latency classes: realtime, interactive, batch, async, deferred. One key set alone leaves the others as they are.
[classes.realtime]
# budget_s = 3                          # how long a round of work on a job may take, in seconds
# order = "latency"                     # latency, cost, priority or weight
"""

_PROCESSES = """\
[cache]
enabled = false                         # true: an equal request gets the earlier answer, without a call and at no cost.
                                        # Off, so that one prompt asked five times gets five answers; a request or a
                                        # batch turns it on for itself with cache = true

[health]
# open_after_failures = 3               # a model is taken out of service on a route after so many failures in a row
# open_failed_share = 0.5               # or when more than this share of its calls failed within window_s seconds,
# window_s = 30
# min_calls = 10                        # of so many calls at least
# probe_interval_s = 15                 # and tried again so often, in seconds
# idle_probe_s = 300                    # a route without a call for so long is probed, in seconds; 0 = never
# close_after_successes = 3             # so many good tries in a row bring it back, a share of its work at a time:
# recovery_shares = [0.10, 0.25, 0.50, 1.0]
# recovery_step_s = 20                  # how long each share is held, in seconds

[leases]
# ttl_s = 15                            # a worker that is silent so long, in seconds, is taken for dead

[worker]
# slots = 256                           # calls in flight in one process
# shutdown_grace_s = 5                  # how long running calls may go on after a stop, in seconds
# lanes = ["realtime", "bulk"]          # what workers serve; `trivet routes` reports a lane without one

[gateway]                               # the HTTP gateway, `trivet serve`; bounds of one of its processes
# max_connections = 5000
# max_waiting = 4000                    # requests that wait for an answer
# max_body_mb = 32                      # size of a request's body
# shutdown_grace_s = 10                 # how long requests may wait on after a stop, in seconds

# Budgets: jobs wait, and nothing fails, while one is used up. `trivet budgets` shows them. One is a table [[budgets]]:
#   name = "search-daily"
#   usd = 50
#   per = "day"                         # day, month (UTC), or total for a batch
#   tag = "team=search"                 # or batch, tenant or route; without one of them it counts all
#   warn_at = 0.8

# Recurring work: one of the schedulers does it at each time. `trivet schedules` shows it. One is a table [[schedules]]:
#   name = "nightly"
#   crontab = "30 6 * * mon-fri"
#   timezone = "Europe/Zurich"
#   bulk = "mails.jsonl"                # or prune = true with older_than = "30d",
#                                       # or report = "costs" with out = "FILE.csv"
"""
"""The response cache, health, leases, workers and the gateway, at their defaults; how budgets and schedules are written."""
