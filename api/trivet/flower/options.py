"""Flower's options as Trivet sets them. Any of Flower's own `FLOWER_*` variables wins over these."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any

from flower import command
from tornado.options import options

from trivet_tasks.errors import ConfigError

log = logging.getLogger("trivet.flower")

RUNTIME_BUCKETS = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0]
"""Seconds a chunk takes. Flower's own end at 10 s; an attempt of a deferred job may take 10 min, its round 20."""

DEFAULTS: dict[str, Any] = {
    "persistent": False,  # SQL is the record; what Flower remembers of events is for looking at
    "max_tasks": 20_000,  # chunks: some hundred thousand bulk jobs, or 20,000 realtime ones; about 100 MB
    "tasks_columns": "name,uuid,state,args,received,runtime,worker,routing_key,started",
    "task_runtime_metric_buckets": RUNTIME_BUCKETS,
    "auto_refresh": True,
    "enable_events": False,  # every Trivet worker sends events; nobody has to be told to, every 5 s
    "purge_offline_workers": 600,  # a worker's name has its process id, so every restart leaves one behind
}


@dataclass(frozen=True, slots=True)
class Listen:
    """Address of Flower and the people who may look. `basic_auth` are "user:password" pairs; none: everybody."""

    address: str
    port: int
    basic_auth: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] = ()
    """Names under which browsers may ask for it, besides loopback's and the address."""
    insecure: bool = False
    """Serve other machines without a password."""


def parse_basic_auth(text: str) -> tuple[str, ...]:
    """The pairs of "user:password,user:password".

    Raises:
        ConfigError: one is not such a pair. It is not repeated in the message.
    """
    pairs = tuple(pair.strip() for pair in text.split(",") if pair.strip())
    for number, pair in enumerate(pairs, start=1):
        user, colon, password = pair.partition(":")
        if not (user and colon and password):
            raise ConfigError(
                f"--basic-auth: entry {number} of {len(pairs)} is not of the form user:password.",
                hint="Several are separated by commas, so a password cannot hold one.",
            )
    return pairs


def set_up(listen: Listen) -> None:
    """Set the options of this process's Flower: ours, over them `FLOWER_*`, over those what was asked for here.

    It is always read-only: Trivet's workers refuse what its buttons ask for, and Flower would say that it was done.

    Raises:
        ConfigError: a variable has a value that Flower does not take.
    """
    for name, value in DEFAULTS.items():
        setattr(options, name, value)
    try:
        command.apply_env_options()
    except Exception as error:  # tornado.options.Error, ValueError: whatever the option's type says
        raise ConfigError(f"A FLOWER_* variable has a value that Flower does not take: {error}.") from None
    if "FLOWER_READ_ONLY" in os.environ and not options.read_only:
        log.warning(
            "FLOWER_READ_ONLY is ignored: workers refuse what Flower's buttons ask for (docs/how-to/watch-with-flower.md)."
        )
    options.read_only = True
    options.address = listen.address
    options.port = listen.port
    options.basic_auth = list(listen.basic_auth)
    try:
        command.extract_settings()
    except SystemExit:  # it has logged what is wrong
        raise ConfigError("Flower's options do not fit together.", hint="Its log says which.") from None
