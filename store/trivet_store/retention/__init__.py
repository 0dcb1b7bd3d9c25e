"""Deletion of what ended long ago, a little at a time."""
