"""Settings of one Trivet: its file, its environment, the servers and routes that they name."""
