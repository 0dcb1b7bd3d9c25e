"""Location of a fault of Trivet's own, without the exception's text, which may quote a request."""

import traceback


def place_of(error: BaseException) -> str:
    """Return kind and place: `KeyError at recorder.py:120`."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "trivet" in frame.filename] or frames
    if not ours:
        return type(error).__name__
    return f"{type(error).__name__} at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}"
