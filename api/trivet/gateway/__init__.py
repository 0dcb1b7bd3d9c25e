"""The HTTP gateway, `trivet serve`: the Anthropic Messages API, and Trivet's own resources, on top of jobs.

It holds no state: the database and Redis are what its processes share. It calls what `trivet.Client` and
`trivet.admin.Admin` call.
"""
