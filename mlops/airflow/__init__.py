"""What runs inside Airflow: the operator of all pods, its trigger, and alerts. Work in a pod never imports it.

A DAG file imports `mlops.airflow.operator.task_pod` and `mlops.airflow.alerts`, and nothing else from here.
"""
