"""Form of warnings and of log lines that a command writes on standard error."""

import logging


def warning_line(text: str) -> str:
    """Return a warning in the one form that all have, printed or logged: `warning: …`."""
    return f"warning: {text}"


class LogFormatter(logging.Formatter):
    """Log lines of commands in the form of `warning_line`; of services, which log from INFO on, with time and name."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._plain = logging.Formatter("%(levelname)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        if logging.getLogger().level <= logging.INFO:
            return super().format(record)
        return self._plain.format(logging.makeLogRecord({**vars(record), "levelname": record.levelname.lower()}))


def throttle_log() -> None:
    """Log as a service does: from INFO on, with repeated lines throttled."""
    from trivet_tasks.processes.log_throttle import LogThrottle  # loads kombu

    logging.getLogger().setLevel(logging.INFO)
    for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines for every message
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogThrottle())
