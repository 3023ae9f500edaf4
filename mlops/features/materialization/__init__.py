"""From the offline store into the online store: each entity's newest values, never older ones over newer ones."""
