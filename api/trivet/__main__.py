"""`python -m trivet`: the same as `trivet`."""

from trivet.cli import main

main()
