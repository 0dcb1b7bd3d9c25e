"""The command's entry: what every sub-command shares."""

import contextlib
import logging
import sys

from trivet_tasks.supervised import follow_parent


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 some jobs failed, 2 usage or configuration."""
    follow_parent()  # before the slow imports: the parent may be gone by the time they are done
    from trivet.cli.app import app
    from trivet_tasks.errors import TrivetError

    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.WARNING)
    try:
        app()
    except TrivetError as error:
        print(f"trivet: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output went away, e.g. `trivet job list | head`
        with contextlib.suppress(OSError):
            sys.stdout.close()
        raise SystemExit(0) from None
