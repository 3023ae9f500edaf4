"""How Airflow and its DAGs fare: what is wrong, since when, and where to look."""
