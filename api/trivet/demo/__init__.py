"""`trivet demo`: the whole of Trivet on this machine, over simulated providers, with an outage in the middle."""
