"""The check of `trivet routes check`: does the configuration of each route fit the account behind it?

A `Subject` is one route with the models to look at. `offline` checks what needs no network; `bedrock`, `vertex` and
`anthropic` read an account into a `Reading`; `compare` sets it against the configuration and the catalogue. `run` does
all of it, each route in a thread of its own. Nothing is written anywhere.
"""
