"""What the sensor trainer keeps: readings and jobs in PostgreSQL, and the queue in Redis that hands jobs to workers."""
