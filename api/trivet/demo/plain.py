"""The plain view, for pipes, CI and people who want no moving screen."""

from rich.console import Console

from trivet.demo.view import State

EVERY_S = 3.0


class PlainView:
    """What happened as it happens, and a line on how it stands every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = EVERY_S

    def starting(self, what: str) -> None:
        """One line."""
        self._print(what)

    def show(self, state: State) -> None:
        """The new lines of the journal, and the state when it is time for it again."""
        self._journal(state, state.elapsed_s)
        if state.reading is not None and state.elapsed_s >= self._next_s and state.journal.all_printed:
            self._next_s = state.elapsed_s + EVERY_S
            self._print(_status(state))

    def finish(self, state: State | None) -> None:
        """What was not printed yet."""
        if state is not None:
            self._journal(state, float("inf"))

    def _journal(self, state: State, now_s: float) -> None:
        for line in state.journal.unprinted(now_s):
            self._print(f"{line.at_s:6.1f} s  {line.who + ':':<7} {line}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _status(state: State) -> str:
    reading = state.reading
    assert reading is not None
    routes = (
        f"{name} {state.watch.conditions[name].word} {route.tally.succeeded:,}"
        for name, route in reading.routes.items()
    )
    parts = [
        f"{state.elapsed_s:6.1f} s  {reading.progress.ended:,}/{state.jobs:,}",
        f"{state.watch.per_s:.0f}/s",
        *routes,
        f"failovers {reading.failovers:,}",
        f"throttled {state.watch.throttled_s:.1f} s",
        f"${reading.cost_usd:,.4f}",
    ]
    return " · ".join(parts)
