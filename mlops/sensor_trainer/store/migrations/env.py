"""What Alembic runs around the steps: on the connection, and in the transaction, that `database.upgrade` opened."""

from alembic import context

from mlops.sensor_trainer.store.database import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
