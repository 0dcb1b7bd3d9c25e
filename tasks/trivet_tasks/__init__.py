"""Foundation: jobs, their states, requests, settings, prices and messages."""
