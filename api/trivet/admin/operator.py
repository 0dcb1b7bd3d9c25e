"""The person who operates Trivet, as events and records name them."""

import getpass
import socket


def current_operator() -> str:
    """Return the user and machine that this process runs as: `anna@build-7`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
