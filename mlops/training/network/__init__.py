"""A network that is trained on a table which is streamed, an epoch at a time."""
