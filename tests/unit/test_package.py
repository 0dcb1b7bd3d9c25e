"""What an installed Trivet says of itself."""

import subprocess
import sys
from importlib.metadata import metadata

import trivet


def test_version_is_that_of_the_distribution() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "trivet", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert (said.stdout, said.stderr) == (f"trivet {trivet.__version__}\n", "")
    assert metadata("trivet")["Version"] == trivet.__version__
    assert metadata("trivet")["License-Expression"] == "Apache-2.0"
