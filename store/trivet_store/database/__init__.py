"""The database itself: its engine, its clock, and the idioms that all statements share."""
