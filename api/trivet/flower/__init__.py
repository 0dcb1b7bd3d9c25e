"""Flower as Trivet shows it: the route queues with their depth, what waits in SQL, and tasks without a word of a prompt.

`server` runs it, `options` sets it up, `application` joins our pages to Flower's own, `pages` answers requests,
`backlog` reads the database, `queues` lays out the table of queues, `shown_events` keeps out what nobody should see,
`metrics` adds to `/metrics`. Flower's files are used as they are; one page has a template of its own.
"""
