"""The scheduler: the process that dispatches waiting jobs and does the periodic work."""
