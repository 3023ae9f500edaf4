"""What DAG files import: the operator of all pods, the sensor of fresh features, alerts and schedules."""
