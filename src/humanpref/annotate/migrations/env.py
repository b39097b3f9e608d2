"""What Alembic runs: migrations on the connection that `Database.upgrade` hands over, in its transaction."""

from alembic import context

from humanpref.annotate.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
