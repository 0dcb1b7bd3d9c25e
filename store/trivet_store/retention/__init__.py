"""Retention: deletion of jobs that ended long ago, a little at a time."""
