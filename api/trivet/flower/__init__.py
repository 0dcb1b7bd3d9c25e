"""Flower as Trivet shows it: the route queues with their depth, what waits in SQL, and tasks without a word of a prompt.

`server` runs it with our pages joined to Flower's own, `options` sets it up, `access` decides who may look, `pages`
answers requests, `readers` ask database, broker and shared state, `metrics` adds to `/metrics`, and `shown_events` keeps
out what nobody should see. Flower's files are used as they are; two pages have templates of their own.
"""
