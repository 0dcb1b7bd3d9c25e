"""Signs of life of a process: its lease, its loops, and the servers that it depends on."""
