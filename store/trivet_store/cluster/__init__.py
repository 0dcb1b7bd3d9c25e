"""Processes and routes: leases, the registry of routes, their limits and their health."""
