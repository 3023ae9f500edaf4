"""The tables of the sensor trainer, a step a file (Alembic). A step that was released is not changed any more."""
