"""What touches private parts of the Airflow in constraints.txt, and is looked at again when that is upgraded."""
