"""How the schema came to be, step by step (Alembic). Run when a database is opened; there is nothing to do by hand."""
