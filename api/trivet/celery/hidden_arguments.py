"""Forms of a task's arguments for logs, events and `inspect`: their number, never their text."""

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from celery.worker.request import Request

_REPRS = {"argsrepr", "kwargsrepr"}


def hidden(args: Sized | None, kwargs: Iterable[str] | None) -> dict[str, str]:
    """Return the options of a message that say how its arguments are shown.

    Example:
        hidden(["A long text"], {"prompt": "…"}) == {"argsrepr": "(1 hidden)", "kwargsrepr": "{prompt: hidden}"}
    """
    named = ", ".join(sorted(kwargs or ()))
    return {
        "argsrepr": f"({len(args)} hidden)" if args else "()",
        "kwargsrepr": f"{{{named}: hidden}}" if named else "{}",
    }


class HiddenRequest(Request):  # type: ignore[misc] # Celery has no types
    """A received message whose arguments no log and no event shows, whoever sent it and however."""

    def __init__(self, message: Any, *, headers: Mapping[str, Any] | None = None, **options: Any) -> None:
        shown = dict.fromkeys(_REPRS, "hidden")
        super().__init__(message, headers={**(message.headers if headers is None else headers), **shown}, **options)
        shown = hidden(self._args, self._kwargs)
        self._request_dict.update(shown)
        self._argsrepr, self._kwargsrepr = shown["argsrepr"], shown["kwargsrepr"]

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return the task for `inspect active`, its arguments hidden."""
        del safe
        return dict(super().info(safe=True))
