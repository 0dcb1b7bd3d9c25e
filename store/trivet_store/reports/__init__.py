"""Reading for people: results, the backlog, costs."""
