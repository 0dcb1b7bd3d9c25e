"""Where and when: routing, health, limits, dispatch and the periodic work."""
