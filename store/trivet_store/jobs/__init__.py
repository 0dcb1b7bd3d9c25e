"""Jobs from their enqueueing to their end: every statement that changes one."""
