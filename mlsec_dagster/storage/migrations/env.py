"""Alembic's entry point. `database` hands it a connection that is already inside the store's write transaction."""

from alembic import context

from mlsec_dagster.storage.tables import VERSION_TABLE, metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
context.run_migrations()
