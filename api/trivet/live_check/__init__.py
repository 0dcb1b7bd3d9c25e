"""The check of `trivet routes check`: does the configuration of each route fit the account behind it?

`subject` says what is to be checked, `offline` checks what needs no network, `bedrock`, `vertex` and `anthropic` read an
account into one `Reading`, `compare` sets it against the configuration, `paste` writes lines for `trivet.toml`, and
`run` does all of it, each route in a thread of its own. Nothing is written anywhere.
"""
