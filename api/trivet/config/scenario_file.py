"""Writing one of the reference set-ups of `trivet config init --scenario`.

Each is a file of its own beside this module, `scenarios/NAME.toml`, valid as it is: its first line is
`# NAME: title.`, its comments tell why it is as it is, and `docs/reference/scenarios.md` compares them. Two things are filled in:

- `${PROVIDER_credentials}` in a comment becomes a sentence on what was found of that provider's credentials;
- a key of a route that is commented out there, such as `# project = "your-project"`, is set where its value was found.

Sources of the figures in the files (November 2026):
- prices: `trivet_tasks.prices.price_book`; geographic profiles of Bedrock and regional endpoints of Vertex AI are 10 % dearer
- where the Anthropic API computes: platform.claude.com/docs/en/manage-claude/data-residency ("global" or "us")
- what a profile of Bedrock covers: docs.aws.amazon.com/bedrock/latest/userguide/cross-region-inference.html
- endpoints of Vertex AI: docs.cloud.google.com, Anthropic Claude models: global, us and eu, and single regions
"""

import json
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

from trivet.config.credentials import find_credentials
from trivet.config.template import PLACES, PROCESSES, Proposal, sentence
from trivet_tasks.catalog import PROVIDERS
from trivet_tasks.errors import ConfigError

NAMES = ("aws-native", "multi-cloud", "startup", "sydney")
"""Names of all reference set-ups."""

_FOLDER = resources.files("trivet") / "config" / "scenarios"
_TITLE = re.compile(r"# [a-z-]+: (.*)\.")


class ScenarioFile(NamedTuple):
    """A reference set-up, filled in for a machine."""

    title: str
    text: str
    routes: tuple[Proposal, ...]
    """All of its routes, also those whose credentials were not found."""


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
    return ScenarioFile(title[1], "\n".join([text, PLACES, PROCESSES]), tuple(routes))


def _set(text: str, route: str, key: str, value: str) -> str:
    """Set a key of a route where it is commented out, in the lines from its table's heading to the next empty one."""
    line = re.compile(rf"(^\[routes\.{route}\]\n(?:.+\n)*?)# {key} = .*$", re.MULTILINE)
    return line.sub(lambda match: f"{match[1]}{key} = {json.dumps(value)}", text)
