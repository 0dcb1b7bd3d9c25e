"""Applications of the user that callbacks are sent to: `[celery_apps.NAME]`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trivet_tasks.config.secret_refs import SecretRef
from trivet_tasks.config.server_urls import check_files, masked, read_server_url, with_absolute_files
from trivet_tasks.errors import ConfigError

_REFERENCES = ("env:", "file:")


class CeleryAppSettings(BaseModel):
    """A Celery application that callbacks (`on_done=`) are sent to. NAME is its name, as in `Celery("NAME")`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    broker_url: str = Field(min_length=1, repr=False)  # may hold a password
    """Address of its broker, `redis://…` or `amqp://…` as of `[broker] url`, or a reference to a secret that holds it:
    `env:NAME` or `file:PATH`. Only schedulers read the secret."""
    broker_transport_options: dict[str, Any] = Field(default_factory=dict, repr=False)  # may hold passwords
    """Its `broker_transport_options`, where messages must be sent with them, e.g. `global_keyprefix`."""

    @field_validator("broker_url")
    @classmethod
    def _readable(cls, url: str) -> str:
        if url.startswith(_REFERENCES):
            SecretRef.parse(url)
        return url

    @property
    def is_reference(self) -> bool:
        """Return whether the address is a reference to a secret."""
        return self.broker_url.startswith(_REFERENCES)

    @property
    def shown_url(self) -> str:
        """The address without its password, or the reference."""
        return self.broker_url if self.is_reference else masked(self.broker_url)


CeleryApps: TypeAlias = Mapping[str, CeleryAppSettings]


def broker_url_of(name: str, app: CeleryAppSettings, base: Path) -> str:
    """Return the address of an application's broker, with the secret as it is now.

    Args:
        base: the folder that paths of TLS files count from.

    Raises:
        ConfigError: the secret is not there, or what it holds is no address of a broker.
    """
    place = f"[celery_apps.{name}] broker_url"
    url = SecretRef.parse(app.broker_url).resolve(place) if app.is_reference else app.broker_url
    url = with_absolute_files(url, base)
    try:
        read_server_url(url)
        check_files(url)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}.") from None
    return url


def no_section(name: str, known: CeleryApps, source: str) -> str:
    """Return what to do about an application that the configuration does not name."""
    others = f" It has {', '.join(sorted(known))}." if known else ""
    return (
        f"Add [celery_apps.{name}] with broker_url to {source}, for producers and schedulers alike, and restart the "
        f"schedulers or send them SIGHUP.{others}"
    )
