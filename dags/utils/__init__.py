"""Tasks that DAG files share. Airflow puts the folder of DAGs on Python's path: `from utils.status import ...`."""
