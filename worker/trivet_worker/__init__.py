"""Worker: provider adapters, the run of a chunk, the record of its results."""
