"""The entry point for Alembic, called by `Database.upgrade`, which holds the transaction and the lock."""

from alembic import context

from storage.tables.database import schema

context.configure(connection=context.config.attributes["connection"], target_metadata=schema.StudyRow.metadata)
with context.begin_transaction():
    context.run_migrations()
