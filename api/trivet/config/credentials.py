"""Finds credentials of the three providers for `trivet config init`.

Only their presence and place are looked at; their values are never read. A file of credentials is not opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trivet_tasks.catalog import Provider

_ANTHROPIC_VARIABLE = "ANTHROPIC_API_KEY"
_BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
"""Each is a sign of credentials in boto3's chain (boto3 guide, Credentials)."""
AWS_FILES = (".aws/credentials", ".aws/config")
"""Files of the same chain, from the home directory."""
ADC_FILE = ".config/gcloud/application_default_credentials.json"
"""Location used by `gcloud auth application-default login` on Linux and macOS (Google Cloud, how ADC works)."""
_PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "ANTHROPIC_VERTEX_PROJECT_ID")


@dataclass(frozen=True, slots=True)
class Found:
    """Credentials found for one provider."""

    usable: bool
    """True if they are enough to make calls."""
    reason: str
    """A sentence for a person on what was found, or what is missing."""
    settings: Mapping[str, str]
    """Keys of a route for these credentials: references and the project, never a secret."""


def find_credentials(provider: Provider, environment: Mapping[str, str], home: Path) -> Found:
    """Return the credentials that the environment and the home directory hold for a provider."""
    match provider:
        case "anthropic":
            return _anthropic(environment)
        case "bedrock":
            return _bedrock(environment, home)
        case "vertex":
            return _vertex(environment, home)


def _anthropic(environment: Mapping[str, str]) -> Found:
    usable = bool(environment.get(_ANTHROPIC_VARIABLE))
    reason = f"{_ANTHROPIC_VARIABLE} is {'set' if usable else 'not set'}"
    return Found(usable, reason, {"api_key": f"env:{_ANTHROPIC_VARIABLE}"})


def _bedrock(environment: Mapping[str, str], home: Path) -> Found:
    if environment.get(_BEARER_VARIABLE):
        return Found(True, f"{_BEARER_VARIABLE} is set", {"api_key": f"env:{_BEARER_VARIABLE}"})
    for variable in AWS_VARIABLES:
        if environment.get(variable):
            return Found(True, f"{variable} is set", {})
    for file in AWS_FILES:
        if (home / file).is_file():
            return Found(True, f"~/{file} is there", {})
    return Found(False, f"neither {_BEARER_VARIABLE} nor AWS credentials were found", {})


def _vertex(environment: Mapping[str, str], home: Path) -> Found:
    project = next((environment[name] for name in _PROJECT_VARIABLES if environment.get(name)), "")
    settings = {"project": project} if project else {}
    if environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
        found = "GOOGLE_APPLICATION_CREDENTIALS is set"
    elif (home / ADC_FILE).is_file():
        found = "application default credentials are there"
    else:
        missing = "neither GOOGLE_APPLICATION_CREDENTIALS nor application default credentials were found"
        return Found(False, missing, settings)
    if not project:
        return Found(False, f"{found}, but GOOGLE_CLOUD_PROJECT is not", settings)
    return Found(True, f"{found}, GOOGLE_CLOUD_PROJECT too", settings)
