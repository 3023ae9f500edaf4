"""Programs that set a running Airflow up, check it, and tell the kubelet whether it lives."""
