"""The history of the schema, one numbered file per step (Alembic)."""
