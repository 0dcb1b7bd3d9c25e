"""Ground floor: what a job is, its requests, settings, prices and messages."""
