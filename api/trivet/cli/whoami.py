"""The person who gives a command, as events and records name them."""

import getpass
import socket


def who() -> str:
    """Return the user and machine that this runs as."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
