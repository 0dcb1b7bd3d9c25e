"""A chunk of jobs from its claim to its record."""
