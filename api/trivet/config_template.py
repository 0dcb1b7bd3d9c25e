"""What `trivet config init` writes: a commented configuration with routes for the credentials that were found.

Only whether a credential is there is looked at, and where; its value is never read. A file of credentials is not opened.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
"""Each is a sign of credentials in boto3's chain (boto3 guide, Credentials)."""
_AWS_FILES = (".aws/credentials", ".aws/config")
_ADC_FILE = ".config/gcloud/application_default_credentials.json"
"""Where `gcloud auth application-default login` puts them on Linux and macOS (Google Cloud, how ADC works)."""
_PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "ANTHROPIC_VERTEX_PROJECT_ID")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One route that the file proposes."""

    name: str
    usable: bool
    """Whether what it needs was found; else it is written commented out."""
    reason: str
    """What was found, or what is missing, for a person."""
    settings: Mapping[str, object]
    """Its keys, without limits."""


def found_credentials(environment: Mapping[str, str], home: Path) -> tuple[Proposal, ...]:
    """A proposal for each provider, by what the environment and the home directory hold."""
    return (_bedrock(environment, home), _vertex(environment, home), _anthropic(environment))


def template(proposals: Sequence[Proposal]) -> str:
    """The text of the file."""
    return "\n".join([_HEAD, *map(_route, proposals), _TAIL])


def _anthropic(environment: Mapping[str, str]) -> Proposal:
    variable = "ANTHROPIC_API_KEY"
    usable = bool(environment.get(variable))
    settings = {"provider": "anthropic", "api_key": f"env:{variable}"}
    return Proposal("anthropic", usable, f"{variable} is {'set' if usable else 'not set'}", settings)


def _bedrock(environment: Mapping[str, str], home: Path) -> Proposal:
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    settings = {"provider": "bedrock", "region": region}
    name = f"bedrock-{region}"
    bearer = "AWS_BEARER_TOKEN_BEDROCK"
    if environment.get(bearer):
        return Proposal(name, True, f"{bearer} is set", {**settings, "api_key": f"env:{bearer}"})
    for variable in _AWS_VARIABLES:
        if environment.get(variable):
            return Proposal(name, True, f"{variable} is set", settings)
    for file in _AWS_FILES:
        if (home / file).is_file():
            return Proposal(name, True, f"~/{file} is there", settings)
    return Proposal(name, False, f"neither {bearer} nor AWS credentials were found", settings)


def _vertex(environment: Mapping[str, str], home: Path) -> Proposal:
    region = environment.get("CLOUD_ML_REGION") or "us-east5"
    project = next((environment[name] for name in _PROJECT_VARIABLES if environment.get(name)), "")
    settings = {"provider": "vertex", "region": region, "project": project or "your-project"}
    name = f"vertex-{region}"
    if environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
        found = "GOOGLE_APPLICATION_CREDENTIALS is set"
    elif (home / _ADC_FILE).is_file():
        found = "application default credentials are there"
    else:
        missing = "neither GOOGLE_APPLICATION_CREDENTIALS nor application default credentials were found"
        return Proposal(name, False, missing, settings)
    if not project:
        return Proposal(name, False, f"{found}, but GOOGLE_CLOUD_PROJECT is not", settings)
    return Proposal(name, True, f"{found}, GOOGLE_CLOUD_PROJECT too", settings)


def _route(proposal: Proposal) -> str:
    name = proposal.name if _PLAIN_KEY.fullmatch(proposal.name) else json.dumps(proposal.name)
    lines = [f"[routes.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in proposal.settings.items())]
    if not proposal.usable:
        lines = [f"# {line}" for line in lines]
    return "\n".join([f"# {proposal.reason[0].upper()}{proposal.reason[1:]}.", *lines, *_LIMITS, ""])


_LIMITS = (
    "# requests_per_minute = 500            # what your account is allowed, for each model; without them a route is held",
    "# input_tokens_per_minute = 2_000_000  # back by the provider's own refusals alone",
    "# output_tokens_per_minute = 400_000",
)

_HEAD = """\
# The configuration of Trivet. Lines that are commented out show the defaults, or what may be set.
# Variables win over it, e.g. TRIVET_STORE__URL. Relative paths count from this file. `trivet config check` reads it.

[store]
# url = "sqlite:///.trivet/trivet.db"   # or "postgresql+psycopg://user@host:5432/trivet", then `trivet db upgrade`;
                                        # the password is better in PGPASSWORD or ~/.pgpass than here

[broker]
# url = ""                              # empty: the Valkey that `trivet up` starts; else redis://, rediss://, amqp://

[redis]
# url = ""                              # limits and health, shared by all processes; empty: the broker, if that is Redis

# Routes: where a prompt may go. Secrets are named, never written: api_key = "env:NAME" or "file:PATH".
# Without api_key a provider's own chain is used. More keys of a route:
#   base_url = ""                       # a VPC endpoint or a proxy
#   models = { "claude-sonnet-5-5" = "…" }  # this account's name of a model, where the built-in one does not fit
#   max_concurrency = 200               # calls in flight, over all workers
#   priority = 1                        # order where a class orders by priority
#   weight = 1.0                        # share where a class orders by weight
#   residency = ["us"]                  # a job that asks for one of these runs nowhere else
#   compliance = ["hipaa"]
"""

_TAIL = """\
# The latency classes: realtime, batch, async, deferred. One key set alone leaves the others as they are.
[classes.realtime]
# budget_s = 3                          # how long a round of work on a job may take, in seconds
# order = "latency"                     # latency, cost, priority or weight

[health]
# open_after_failures = 3               # a model is taken out of service on a route after so many failures in a row
# probe_interval_s = 15                 # and tried again so often, in seconds

[leases]
# ttl_s = 15                            # a worker that is silent so long, in seconds, is taken for dead

[worker]
# slots = 256                           # calls in flight in one process
# shutdown_grace_s = 5                  # how long running calls may go on after a stop, in seconds
"""
