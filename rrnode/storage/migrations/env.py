"""Alembic's entry: runs the steps on the connection that `rrnode.storage.migrate` holds, inside its transaction."""

from alembic import context

from rrnode.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
context.run_migrations()
