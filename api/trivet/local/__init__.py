"""Trivet on this machine: embedded broker, simulator, and supervised processes."""
