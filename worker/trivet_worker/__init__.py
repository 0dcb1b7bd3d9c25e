"""Doing: provider adapters, running a chunk, recording what came of it."""
